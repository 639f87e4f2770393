"""Searches of the best configuration; that of Triton is skipped until `make engine-triton` has put it into .engines/."""

import pytest


@pytest.mark.llmperf_search(plan="search.yaml")
def test_best(llmperf_search):
    result = llmperf_search.run()
    assert result.best, result.answer
