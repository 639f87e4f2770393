"""Searches of the best configuration; the one of Triton is skipped until `make engine-triton` has been run."""

from pathlib import Path

import pytest

TRITON = Path(__file__).parents[1] / ".engines/triton/bin/tritonserver"


@pytest.mark.llmperf_search(plan="search.yaml", search="embedded")
def test_embedded(llmperf_search):
    result = llmperf_search.run()
    assert result.best, result.answer


@pytest.mark.skipif(not TRITON.exists(), reason="`make engine-triton` puts the engine into .engines/")
@pytest.mark.llmperf_search(plan="search.yaml", search="triton")
def test_triton(llmperf_search):
    result = llmperf_search.run()
    assert result.best, result.answer
