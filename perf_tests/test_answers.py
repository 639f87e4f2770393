"""Answers of the embedded engine: scores with limits, and an output guard against the committed baseline."""

import pytest


@pytest.mark.llmperf(plan="answers.yaml")
def test_answers(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
