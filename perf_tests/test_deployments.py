"""Engines that are deployed in steps, on stand-ins; skipped where these are not on PATH (make perf-deployments)."""

import pytest


@pytest.mark.llmperf(plan="deployments.yaml", servers=["trtllm_serve"], loads=["chat"])
def test_openai(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))


@pytest.mark.llmperf(plan="deployments.yaml", servers=["trtllm_engine"], loads=["stream"])
def test_triton(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
