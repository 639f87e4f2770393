"""Searches of the best configuration; the one of Triton is skipped until `make engine-triton` has been run."""

import pytest


@pytest.mark.llmperf_search(plan="search.yaml")
def test_best(llmperf_search):
    result = llmperf_search.run()
    assert result.best, result.answer
