"""The objects behind the fixtures: measure, check limits, check against the baseline."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_llmperf.errors import BaselineError, InconclusiveWarning, LlmPerfError, ReportOnlyWarning
from pytest_llmperf.gate.baselines.file import assert_holds, read_baseline, write_baseline
from pytest_llmperf.gate.baselines.growth import appended
from pytest_llmperf.gate.baselines.model import Baseline
from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.load.event_loop import real_time
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.report.views.verdicts import failure_text, limit_sentence
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.session.state import PytestSession


class LoadDriver:
    """Measures a load point on a server and keeps what it measured for the reports."""

    def __init__(self, session: PytestSession, test: str, runs: int | None) -> None:
        self._session, self._test, self._runs = session, test, runs

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
            with real_time() as runner:
                return runner.run(self.arun(server, point))
        except LlmPerfError as error:
            # The event loop's frames say nothing about a server (or a worker) that died, or a load that has no trace.
            raise error.with_traceback(None) from None

    def arun(self, server: LlmServer, point: LoadPoint) -> Coroutine[Any, Any, Result]:
        """The coroutine of `run`. The event loop goes on meanwhile, also while a server is launched anew.

        When it is cancelled, such a launch is broken off first, and nothing of it stays behind.
        """
        __tracebackhide__ = True
        _check_arguments(server, point)
        return self._session.result(self._test, server, point, self._runs)


def _check_arguments(server: object, point: object) -> None:
    """TypeError says in a line which argument is another thing than the fixture that belongs there."""
    __tracebackhide__ = True
    if isinstance(server, LoadPoint) and isinstance(point, LlmServer):
        raise TypeError("load_driver.run(llm_server, load_point): the two arguments are swapped")
    for name, given, wanted in (("llm_server", server, LlmServer), ("load_point", point, LoadPoint)):
        if not isinstance(given, wanted):
            raise TypeError(f"load_driver.run(llm_server, load_point): {name} is needed, given {given!r:.80}")


def _check_result(what: str, given: object) -> None:
    """TypeError where something else than a Result is to be checked."""
    __tracebackhide__ = True
    if asyncio.iscoroutine(given):
        given.close()
        raise TypeError(
            f"{what}.check got a coroutine: write `result = await load_driver.arun(llm_server, load_point)`"
        )
    if not isinstance(given, Result):
        raise TypeError(f"{what}.check takes what load_driver.run returned, given {given!r:.80}")


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class SlaGate:
    """The `sla` fixture."""

    def __init__(self, session: PytestSession, test: str) -> None:
        self._session, self._test = session, test
        self.is_used = False

    def check(self, result: Result) -> None:
        """AssertionError lists every limit that does not hold, or why the result is invalid.

        One that fails says too how the result stands against the baseline, where the test would ask for that next.
        """
        __tracebackhide__ = True
        self.is_used = True
        _check_result("sla", result)
        session = self._session
        checks = session.judge.sla(result)
        session.folder.note(self._test, result.point_id, sla=checks)
        _assert_valid(result.invalid_reasons, result)
        open_ = [check for check in checks if check.verdict == "INCONCLUSIVE"]
        if not all(check.ok for check in checks) or (open_ and session.options.inconclusive == "fail"):
            raise AssertionError(_failure_text(session, self._test, result))
        partly = [check.describe() for check in checks if check.verdict == "PASS" and check.lacking]
        session.folder.notes += [f"{result.point_id}: {line}" for line in partly]
        if open_:
            head = f"{result.point_id}: INCONCLUSIVE against the SLA: {limit_sentence(open_[0])}"
            _warn(_doubt(session, self._test, result, "\n  ".join([head, *(check.describe() for check in open_)])))


class BaselineGate:
    """The `baseline` fixture."""

    def __init__(self, session: PytestSession, test: str) -> None:
        self._session, self._test = session, test
        self._pending: Baseline | None = None
        self.is_used = False

    def check(self, result: Result, *, missing: Literal["fail", "skip"] = "fail") -> None:
        """AssertionError lists every metric that got worse than its margin, or says why nothing can be compared.

        What cannot be decided is an InconclusiveWarning, unless --llmperf-inconclusive says otherwise; in the profile
        `report-only` what would fail is a ReportOnlyWarning, and nothing that was compared fails. With
        --llmperf-update-baselines a point without a baseline is recorded if the whole test passes, and one that has
        one is compared, and its session added when it is a PASS; --llmperf-update-new does the first of these,
        --llmperf-accept records whatever there is. `missing="skip"` lets a point without a baseline pass.

        In a duet the old server's runs take the place of the stored baseline, and nothing is ever recorded.
        """
        __tracebackhide__ = True
        self.is_used = True
        _check_result("baseline", result)
        _assert_valid(result.incomparable, result)
        if broken := self._session.judge.failed_requests(result):  # a server is fast while it refuses
            lines = "\n  ".join([f"{result.point_id}: too many requests failed, so its baseline cannot pass", *broken])
            _warn(self._failure(result, lines))
        try:
            regression = self._regression(result, missing)
        except BaselineError as error:
            raise AssertionError(f"{result.point_id}: {error}") from None
        if regression is None:
            return
        self._session.folder.note(self._test, result.point_id, regression=regression)
        if regression.verdict not in ("FAIL", "NO BASELINE", "INCONCLUSIVE"):
            return
        text = _failure_text(self._session, self._test, result)
        if regression.verdict in ("FAIL", "NO BASELINE"):
            _warn(self._failure(result, text))
        if regression.verdict == "INCONCLUSIVE":
            quiet = self._only_reports(result)
            _warn(InconclusiveWarning(text) if quiet else _doubt(self._session, self._test, result, text))

    def _only_reports(self, result: Result) -> bool:
        return self._session.judge.profile_of(result.load) == "report-only"

    def _failure(self, result: Result, text: str) -> ReportOnlyWarning:
        """The warning that a failure is in `report-only`; everywhere else it raises the AssertionError."""
        __tracebackhide__ = True
        if self._only_reports(result):
            return ReportOnlyWarning(f"{text}\n  (report-only)")
        raise AssertionError(text)

    def _regression(self, result: Result, missing: Literal["fail", "skip"]) -> Regression | None:
        """The result against its baseline file, or in a duet the old server; None where it need not be compared.

        BaselineError says why it cannot be.
        """
        __tracebackhide__ = True
        session, test, judge = self._session, self._test, self._session.judge
        if result.reference is not None:
            session.note_duet_update()
            return judge.regression(test, result)
        path = judge.file(test, result)
        assert_holds(path, test)
        if judge.is_recording(test, result):
            self._record(result)
            return None
        if missing == "skip" and not path.exists():
            return None
        own = session.own_session(test, result)
        if own and judge.holds(test, result, own):
            session.folder.notes.append(f"{result.point_id}: baseline {path} was recorded from these very runs")
            return None
        regression = judge.regression(test, result, own)
        if session.options.update_baselines and regression.verdict == "PASS":
            self._append(path, result)
        return regression

    def _record(self, result: Result) -> None:
        __tracebackhide__ = True
        if result.capacity is not None and result.capacity.value is None:
            raise AssertionError(f"{result.point_id}: {result.capacity.sentence}, so there is nothing to record")
        self._pending = self._session.judge.recorded(
            self._test, result, self._session.stored_session(self._test, result)
        )

    def _append(self, path: Path, result: Result) -> None:
        stored = read_baseline(path)
        if stored.imported:
            note = f"{path} is imported and grows no further; --llmperf-accept replaces it by a session of your own"
            self._session.folder.notes.append(note)
            return
        self._pending = appended(stored, result, self._session.stored_session(self._test, result))

    def record_if_passed(self) -> None:
        """Write the pending baseline; one of a failed test is dropped."""
        if self._pending is None or self._test not in self._session.passed:
            return
        path = self._pending.path
        done = "new" if not path.exists() else "accepted" if len(self._pending.sessions) == 1 else "session added to"
        failure = ""
        try:
            write_baseline(self._pending)
        except BaselineError as error:
            failure = str(error)
        if failure:  # outside of the except block, so that the message is not printed once more as its own cause
            pytest.fail(failure, pytrace=False)
        self._session.folder.written.append(f"{done} baseline {path}")


def warn_unused(session: PytestSession, test: str, name: str, gate: SlaGate | BaselineGate) -> None:
    """Warns that a test which passed asked for a gate and never used it: it would pass whatever was measured."""
    if test in session.passed and not gate.is_used:
        text = f"{test} asks for the fixture `{name}` and never calls {name}.check(result), so nothing was judged by it"
        with warnings.catch_warnings():  # the test has passed: `-W error` would fail it after its end
            warnings.simplefilter("default", pytest.PytestWarning)
            warnings.warn(pytest.PytestWarning(text), stacklevel=2)


def _failure_text(session: PytestSession, test: str, result: Result) -> str:
    """The findings of both gates, where the test has both: the one that comes first must not hide the other."""
    planned, outcome = session.program.tests.get(test), session.folder.outcomes[test]
    gates = planned.gates if planned else frozenset()
    lacking = None
    if outcome.sla is None and "sla" in gates:
        outcome = session.folder.note(test, result.point_id, sla=session.judge.sla(result))
    if outcome.regression is None and "baseline" in gates and not session.judge.is_recording(test, result):
        try:
            regression = session.judge.regression(test, result, session.own_session(test, result))
            outcome = session.folder.note(test, result.point_id, regression=regression)
        except BaselineError as error:
            lacking = str(error)
    return failure_text(result.point_id, outcome.regression, outcome.sla or (), result, lacking)


def _assert_valid(reasons: Sequence[str], result: Result) -> None:
    """AssertionError when there are reasons against the result."""
    __tracebackhide__ = True
    if reasons:
        lines = "\n  ".join(reasons)
        raise AssertionError(f"{result.point_id}: INVALID, so neither limits nor baseline can pass\n  {lines}")


def _doubt(session: PytestSession, test: str, result: Result, text: str) -> InconclusiveWarning:
    """The warning that doubt is; AssertionError or xfail where --llmperf-inconclusive asks for it.

    An xfail ends the test, so it is a failure where the gate that would have come next fails.
    """
    __tracebackhide__ = True
    match session.options.inconclusive:
        case "fail":
            raise AssertionError(text)
        case "xfail":
            findings = _failure_text(session, test, result)
            if _has_failed(session, test, result):
                against = (*result.incomparable, *session.judge.failed_requests(result))
                raise AssertionError("\n  ".join([findings, *against]))
            pytest.xfail(text)
    return InconclusiveWarning(text)


def _has_failed(session: PytestSession, test: str, result: Result) -> bool:
    """True if one of the gates fails the test; both are noted, as far as they come to a verdict."""
    outcome, planned, judge = session.folder.outcomes[test], session.program.tests.get(test), session.judge
    if not all(check.ok for check in outcome.sla or ()):
        return True
    is_quiet = judge.profile_of(result.load) == "report-only"
    if outcome.regression is not None and outcome.regression.verdict in ("FAIL", "NO BASELINE") and not is_quiet:
        return True
    if planned is None or "baseline" not in planned.gates or judge.is_recording(test, result):
        return False
    if result.incomparable or (judge.failed_requests(result) and not is_quiet):
        return True
    is_there = result.reference is not None or judge.file(test, result).exists()
    return outcome.regression is None and is_there  # a baseline that is not there may be skipped


def _warn(warning: InconclusiveWarning | ReportOnlyWarning) -> None:
    """Warns at the line that called `check`, so it is called by `check` alone.

    Neither warning ever fails a test: where a filter (`-W error`) makes it an exception, it is shown all the same.
    """
    try:
        warnings.warn(warning, stacklevel=3)
    except type(warning):
        with warnings.catch_warnings():
            warnings.simplefilter("default", type(warning))
            warnings.warn(warning, stacklevel=3)
