"""The objects behind the fixtures: measure, check limits, check against the baseline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from pytest_llmperf.campaign import measure_together
from pytest_llmperf.errors import BaselineError, LoadError, ServerError
from pytest_llmperf.gate.baseline_file import read_baseline, write_baseline
from pytest_llmperf.gate.baselines import differences
from pytest_llmperf.gate.growth import recorded, stored_session
from pytest_llmperf.gate.regression import Regression, gated_margins, judge
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.result import Result
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.state import State


class LoadDriver:
    """Measures a load point on a server and keeps what it measured for the reports."""

    def __init__(self, state: State, test: str, runs: int | None, live: Callable[[str], None] | None) -> None:
        self._state, self._test, self._runs, self._live = state, test, runs, live

    def run(self, server: LlmServer, point: LoadPoint) -> Result:
        """Warm up and measure; blocks until all runs are done.

        The first test of a server measures the points of all its tests, their runs in turns; the others get theirs
        from it at once. Raises ServerError when the server dies, LoadError when the load driver does. In an async test,
        await `arun` instead: RuntimeError says so.
        """
        __tracebackhide__ = True
        if _in_event_loop():
            raise RuntimeError("load_driver.run was called in a running event loop: await load_driver.arun(...) there")
        try:
            return asyncio.run(self.arun(server, point))
        except (ServerError, LoadError) as error:
            # The event loop's frames say nothing about a server (or a worker) that died.
            raise error.with_traceback(None) from None

    async def arun(self, server: LlmServer, point: LoadPoint) -> Result:
        """The coroutine of `run`."""
        state = self._state
        state.servers[self._test] = server
        task = state.measured(self._test, server, point)
        if task is None:
            task, *others = state.assign(self._test, server, point, self._runs)
            try:
                await measure_together(server, [task, *others], state.again, self._live)
            finally:
                if self._live:
                    self._live("")
        if task.error is not None:
            raise task.error
        return task.result()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class SlaGate:
    """The `sla` fixture."""

    def __init__(self, state: State, test: str) -> None:
        self._state, self._test = state, test

    def check(self, result: Result) -> None:
        """AssertionError lists every limit that does not hold, or why the result is invalid. No limits: passes."""
        __tracebackhide__ = True
        checks = check_sla(result.load.sla, result.metrics)
        self._state.session.update(self._test, result.point_id, sla=checks)
        _assert_valid(result)
        broken = [check.describe() for check in checks if not check.ok]
        if broken:
            lines = "\n  ".join(broken)
            raise AssertionError(f"{result.point_id}: {len(broken)} of {len(checks)} SLA limits do not hold\n  {lines}")


class BaselineGate:
    """The `baseline` fixture."""

    def __init__(self, state: State, test: str) -> None:
        self._state, self._test = state, test
        self._pending: Result | None = None

    def check(self, result: Result, *, missing: Literal["fail", "skip"] = "fail") -> None:
        """AssertionError lists every metric that got worse than its margin, or says why nothing can be compared.

        With --llmperf-update-baselines nothing is compared: the result becomes the baseline if the whole test passes;
        --llmperf-update-new does that for points that have none.
        `missing="skip"` lets a point without a baseline pass; the report says NOT GATED.
        """
        __tracebackhide__ = True
        _assert_valid(result)
        path = self._state.baseline_file(self._test, result)
        options = self._state.options
        if options.update_baselines or (options.update_new and not path.exists()):
            self._pending = result
            return
        if missing == "skip" and not path.exists():
            return
        try:
            stored = read_baseline(path)
            notes = differences(stored, result).sentences
        except BaselineError as error:
            raise AssertionError(f"{result.point_id}: {error}") from None
        margins = gated_margins(result.load, result.load.margins)
        regression = judge(stored.runs, result.summaries, margins, notes)
        self._state.session.update(self._test, result.point_id, regression=regression)
        _assert_no_regression(result, regression)

    def record_if_passed(self) -> None:
        """Write the pending baseline; one of a failed test is dropped."""
        if self._pending is None or self._test not in self._state.passed:
            return
        path = self._state.baseline_file(self._test, self._pending)
        self._state.session.written.append(f"{'replaced' if path.exists() else 'new'} baseline {path}")
        result = self._pending
        session = stored_session(result, self._state.session.started, self._state.git_sha())
        margins = gated_margins(result.load, result.load.margins)
        write_baseline(recorded(path, self._test, result, session, margins))


def _assert_valid(result: Result) -> None:
    __tracebackhide__ = True
    if not result.valid:
        reasons = "\n  ".join(result.invalid_reasons)
        raise AssertionError(f"{result.point_id}: INVALID, so neither limits nor baseline can pass\n  {reasons}")


def _assert_no_regression(result: Result, regression: Regression) -> None:
    __tracebackhide__ = True
    if regression.verdict != "FAIL":
        return
    failed = [metric.describe() for metric in regression.metrics if metric.verdict == "FAIL"]
    others = [metric.describe() for metric in regression.metrics if metric.verdict not in ("FAIL", "NOT GATED")]
    notes = [f"note: {note}" for note in regression.notes]
    raise AssertionError("\n  ".join([f"{result.point_id}: worse than its baseline", *failed, *others, *notes]))
