"""A real LLM inside real Triton; skipped until `make engine-triton` has put it into .engines/."""

import pytest


@pytest.mark.llmperf(plan="triton.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
