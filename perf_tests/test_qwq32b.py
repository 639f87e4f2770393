"""Qwen/QwQ-32B, TP 8 x PP 1 against TP 4 x PP 2; skipped where there are not eight GPUs."""

import pytest


@pytest.mark.llmperf(plan="qwq32b.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
