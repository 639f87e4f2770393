"""Prefill and decode phases of vLLM inside Triton; skipped until `make engine-triton-vllm`."""

from pathlib import Path

import pytest

if not Path(__file__).parents[1].joinpath(".engines/triton-vllm/bin/tritonserver").exists():
    pytest.skip("`make engine-triton-vllm` puts the engine into .engines/", allow_module_level=True)


@pytest.mark.llmperf(plan="triton_guide.yaml")
def test_phases(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
