"""The main job on the embedded engine: every configuration at every load, limits and baseline."""

import pytest


@pytest.mark.llmperf(plan="embedded.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)


@pytest.mark.llmperf(plan="embedded_decoder.yaml")
def test_decoder(llm_server, load_driver, load_point, sla):
    """The real (numpy) decoder is as fast as the machine: limits only, no baseline."""
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
