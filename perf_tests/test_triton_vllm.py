"""Triton with its vLLM backend; skipped until `make engine-triton-vllm` has put it into .engines/."""

import pytest


@pytest.mark.llmperf(plan="triton_vllm.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
