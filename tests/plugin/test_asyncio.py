"""The fixtures work with no asyncio plugin, with one, and inside its event loop."""

from __future__ import annotations

ASYNC_TEST = """
import pytest

@pytest.mark.asyncio
@pytest.mark.llmperf(plan="plan.yaml", loads=["short"], servers=["tp1pp1"])
async def test_serving(llm_server, load_driver, load_point, sla):
    result = await load_driver.arun(llm_server, load_point)
    sla.check(result)
    assert result.metrics.ok == 20

@pytest.mark.asyncio
@pytest.mark.llmperf(plan="plan.yaml", loads=["short"], servers=["tp1pp1"])
async def test_sync_call(llm_server, load_driver, load_point):
    with pytest.raises(RuntimeError, match="await load_driver.arun"):
        load_driver.run(llm_server, load_point)
"""


def test_without_pytest_asyncio(suite):
    suite.run_apart("-p", "no:asyncio", "-p", "no:anyio", "-W", "ignore::pytest.PytestConfigWarning",
                    "-k", "tp1pp1-short", "--llmperf-update-baselines").assert_outcomes(passed=1)  # fmt: skip


def test_with_pytest_asyncio_in_auto_mode(suite):
    suite.run("-o", "asyncio_mode=auto", "-k", "tp1pp1-short", "--llmperf-update-baselines").assert_outcomes(passed=1)


def test_coroutines_in_strict_and_auto_mode(suite):
    suite.write(test=ASYNC_TEST)
    suite.run("-o", "asyncio_mode=strict").assert_outcomes(passed=2)
    suite.run("-o", "asyncio_mode=auto").assert_outcomes(passed=2)
