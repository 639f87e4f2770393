"""The plans of these pages: `pytest docs/guides --llmperf-dry-run` prints what each would do, `-k trtllm` runs one."""

import pytest


@pytest.mark.llmperf(plan="mlnode.yaml")
def test_mlnode(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))


@pytest.mark.llmperf(plan="triton_vllm.yaml")
def test_triton_vllm(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)


@pytest.mark.llmperf(plan="trtllm.yaml")
def test_trtllm(llm_server, load_driver, load_point):
    assert load_driver.run(llm_server, load_point).valid
