"""Real vLLM on the CPU; skipped until `make engine-vllm` has put it into .engines/."""

from pathlib import Path

import pytest

if not Path(__file__).parents[1].joinpath(".engines/vllm/bin/vllm").exists():
    pytest.skip("`make engine-vllm` puts the engine into .engines/", allow_module_level=True)


@pytest.mark.llmperf(plan="vllm_cpu.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
