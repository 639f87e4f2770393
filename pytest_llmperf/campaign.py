"""The points of one server measured together: their runs interleaved, and more runs where a gate is in doubt.

A disturbance of the machine lasts for seconds to minutes. Points that take turns (A B C A B C) each get a part of it,
which their run-to-run spread then shows; all runs of one point in a row would take it for the point's own speed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.load.schedule import slot_plan
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.measure import Measurement, Progress
from pytest_llmperf.records import Run
from pytest_llmperf.report.live import Live, Moment
from pytest_llmperf.result import Result, make_result
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.session import Session, file_name
from pytest_llmperf.stored_point import StoredSide
from pytest_llmperf.telemetry.environment import Environment, environment
from pytest_llmperf.telemetry.gpu import Gpu


@dataclass(slots=True)
class _Side:
    """What was measured on one server of a point so far."""

    server: LlmServer
    runs: list[Run] = field(default_factory=list)
    measurement: Measurement | None = None
    result: Result | None = None
    """Of these runs, once somebody has asked."""

    @property
    def steady(self) -> bool:
        return self.measurement is not None and self.measurement.steady


class Task(Protocol):
    """What is measured in turns with others: points of a load, and searches of a capacity."""

    error: LlmPerfError | None
    """What ended the measuring before its time."""

    @property
    def test(self) -> str: ...

    @property
    def server(self) -> LlmServer: ...

    @property
    def name(self) -> str:
        """`server-load`."""
        ...

    @property
    def point(self) -> LoadPoint: ...

    @property
    def runs_left(self) -> int:
        """Of the first runs; 0 when there is no use in another."""
        ...

    @property
    def run_seconds(self) -> float:
        """Mean time that a run has taken; 0 before the first."""
        ...

    def result(self) -> Result:
        """Of the runs so far."""
        ...

    def stored_sides(self) -> tuple[StoredSide, ...]:
        """What the result follows from, of each server; the one that is judged comes last."""
        ...

    async def run(self, live: Live | None) -> None:
        """One more run; an error is kept, not raised."""
        ...


class PointTask:
    """One point to be measured for one test; every run of it is kept in the session at once.

    In a duet a run is one of each server, A B B A A B B A: a disturbance that comes or goes meets both alike.
    """

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
        self._sides = [_Side(side) for side in (server.reference, server) if side is not None]
        """The one that is judged comes last."""
        self._seconds, self._begun_s = 0.0, 0.0

    @property
    def name(self) -> str:
        return f"{self.server.asked.name}-{self.point.name}"

    @property
    def run_seconds(self) -> float:
        """Mean time that a run has taken, its repeats included; 0 before the first."""
        return self._seconds / self._count if self._count else 0.0

    @property
    def _count(self) -> int:
        """Runs that every side has."""
        return min(len(side.runs) for side in self._sides)

    @property
    def runs_left(self) -> int:
        """Of the first runs; 0 when it is steady or has failed."""
        done = self.error is not None or all(side.steady for side in self._sides)
        return 0 if done else max(0, self.first_runs - self._count)

    def stored_sides(self) -> tuple[StoredSide, ...]:
        return tuple(StoredSide(self._environment(side), tuple(side.runs)) for side in self._sides)

    def _environment(self, side: _Side) -> Environment:
        return environment(side.server.config, side.server.version, self._gpus)

    def result(self) -> Result:
        """Of the runs so far."""
        *before, now = self._sides
        reference = self._result(before[0], f"{before[0].server.name}-{self.point.name}") if before else None
        return replace(self._result(now, self.name), reference=reference)

    def _result(self, side: _Side, name: str) -> Result:
        """Made once per run, since the report on disk, the gate and the user's test all ask for it."""
        environment = self._environment(side)
        if side.result is None or side.result.environment != environment:
            side.result = make_result(name, side.server.config, self.point, environment, side.runs)
        return side.result

    async def run(self, live: Live | None) -> None:
        """One more run; all windows at once where the load asks for stability. An error is kept, not raised."""
        try:
            await self._run_all_sides(live)
            while self.point.stability and self.runs_left:
                await self._run_all_sides(live)
        except LlmPerfError as error:
            self.error = error
            self._session.update(self.test, self.name, error=str(error))

    async def _run_all_sides(self, live: Live | None) -> None:
        self._begun_s = time.monotonic()
        try:
            for place, side in enumerate(self._sides if self._count % 2 == 0 else self._sides[::-1]):
                measurement = side.measurement = side.measurement or self._begin(side)
                await measurement.run(self._progress(live, side, place))
        finally:
            self._seconds += time.monotonic() - self._begun_s
        if live is not None:
            live.ran(self.test, self.name, self.first_runs, time.monotonic() - self._begun_s)

    def _begin(self, side: _Side) -> Measurement:
        self._update("interrupted")
        return Measurement(side.server, self.point, self.point.name, partial(self._keep, side), self._workers)

    def _keep(self, side: _Side, run: Run) -> None:
        if run.records:
            side.runs.append(run)
            side.result = None
            old = side.server is not self.server
            name = f"{file_name(self.test)}.{side.server.name}" if old else self.test
            self._session.save_requests(name, run, self.point)
        self._update("interrupted")

    def _update(self, error: str) -> None:
        self._session.update(self.test, self.name, result=self.result(), error=error)

    def _progress(self, live: Live | None, side: _Side, place: int) -> Progress | None:
        """`place`: how many servers have had their turn in this run."""
        shown = f"{self.name} ({side.server.name})" if len(self._sides) > 1 else self.name
        return None if live is None or live.show is None else partial(self._show, live, shown, place)

    def _show(self, live: Live, shown: str, place: int, run_index: int, done: int, total: int, failed: int) -> None:
        by_time = slot_plan(self.point) is not None
        live.tell(
            Moment(
                test=self.test,
                name=shown,
                run=run_index + 1,
                runs=max(self.first_runs, run_index + 1),
                extra=run_index >= self.first_runs,
                done=done,
                total=None if by_time else total,
                failed=failed,
                elapsed_s=time.monotonic() - self._begun_s,
                share=0.0 if by_time or not total else (place + done / total) / len(self._sides),
            )
        )


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
        for side in (server.reference, server):
            if side is not None:
                side.relaunch()
    except LlmPerfError as error:
        for task in tasks:
            task.error = error
