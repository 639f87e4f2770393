"""The points of one server measured together: their runs interleaved, and more runs where a gate is in doubt.

A disturbance of the machine lasts for seconds to minutes. Points that take turns (A B C A B C) each get a part of it,
which their run-to-run spread then shows; all runs of one point in a row would take it for the point's own speed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.measure import Measurement, Progress
from pytest_llmperf.records import Run
from pytest_llmperf.result import Result, make_result
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.session import Session
from pytest_llmperf.telemetry.environment import environment
from pytest_llmperf.telemetry.gpu import Gpu

Live = Callable[[str], None]
"""Shows a line that replaces itself."""


class Task:
    """One point to be measured for one test; every run of it is kept in the session at once."""

    def __init__(
        self,
        test: str,
        server: LlmServer,
        point: LoadPoint,
        runs: int,
        *,
        session: Session,
        gpus: Sequence[Gpu],
        workers: int | None,
    ) -> None:
        self.test, self.server, self.point = test, server, point
        self.first_runs = runs
        self.error: LlmPerfError | None = None
        """What ended the measuring of this point before its time."""
        self._session, self._gpus, self._workers = session, tuple(gpus), workers
        self._runs: list[Run] = []
        self._measurement: Measurement | None = None
        self._seconds = 0.0

    @property
    def name(self) -> str:
        return f"{self.server.name}-{self.point.name}"

    @property
    def run_seconds(self) -> float:
        """Mean time that a run has taken, its repeats included; 0 before the first."""
        return self._seconds / len(self._runs) if self._runs else 0.0

    @property
    def runs_left(self) -> int:
        """Of the first runs; 0 when it is steady or has failed."""
        done = self.error is not None or (self._measurement is not None and self._measurement.steady)
        return 0 if done else max(0, self.first_runs - len(self._runs))

    def result(self) -> Result:
        """Of the runs so far."""
        facts = environment(self.server.config, self.server.version, self._gpus)
        return make_result(self.name, self.server.config, self.point, facts, self._runs)

    async def run(self, live: Live | None) -> None:
        """One more run; all windows at once where the load asks for stability. An error is kept, not raised."""
        begun = time.monotonic()
        try:
            measurement = self._measurement = self._measurement or self._begin()
            await measurement.run(self._progress(live))
            while self.point.stability and self.runs_left:
                await measurement.run(self._progress(live))
        except LlmPerfError as error:
            self.error = error
            self._session.update(self.test, self.name, error=str(error))
        self._seconds += time.monotonic() - begun

    def _begin(self) -> Measurement:
        self._update("interrupted")
        return Measurement(self.server, self.point, self.point.name, self._keep, self._workers)

    def _keep(self, run: Run) -> None:
        if run.records:
            self._runs.append(run)
            self._session.save_requests(self.test, run, self.point)
        self._update("interrupted")

    def _update(self, error: str) -> None:
        self._session.update(self.test, self.name, result=self.result(), error=error)

    def _progress(self, live: Live | None) -> Progress | None:
        return None if live is None else partial(self._show, live)

    def _show(self, live: Live, run_index: int, done: int, total: int, failed: int) -> None:
        trouble = f", {failed} failed" if failed else ""
        more = "" if run_index < self.first_runs else " (one more: the gate is in doubt)"
        count = max(self.first_runs, run_index + 1)
        live(f"llmperf {self.name}: run {run_index + 1}/{count}{more}, {done}/{total} requests{trouble}")


class Again(NamedTuple):
    """What is to be measured once more, and whether on a server launched anew."""

    tests: frozenset[str]
    relaunch: bool = False


async def measure_together(
    server: LlmServer,
    tasks: Sequence[Task],
    again: Callable[[Sequence[Task]], Again],
    live: Live | None,
    *,
    relaunch_always: bool = False,
) -> None:
    """Every task's first runs in turns, then runs of those that `again` names, until it names none."""
    rounds = itertools.count()
    while wanted := [task for task in tasks if task.runs_left]:
        await _round(server, wanted, live, relaunch=relaunch_always and next(rounds) > 0)
    while (more := again(tasks)).tests:
        wanted = [task for task in tasks if task.test in more.tests and task.error is None]
        await _round(server, wanted, live, relaunch=more.relaunch or relaunch_always)


async def _round(server: LlmServer, tasks: Sequence[Task], live: Live | None, *, relaunch: bool) -> None:
    if relaunch:
        _relaunch(server, tasks)
    for task in tasks:
        if task.error is None:
            await task.run(live)


def _relaunch(server: LlmServer, tasks: Sequence[Task]) -> None:
    """A server that does not come up again is the error of all that wanted it."""
    try:
        server.relaunch()
    except LlmPerfError as error:
        for task in tasks:
            task.error = error
