"""Prefill and decode phases of vLLM inside Triton; skipped until `make engine-triton-vllm`."""

import pytest


@pytest.mark.llmperf(plan="triton_guide.yaml")
def test_phases(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
