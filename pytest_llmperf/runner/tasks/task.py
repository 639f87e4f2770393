"""The measurement of one planned test: runs of a load, or searches of a capacity, on one server or a duet's two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pytest_llmperf import clock
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.gate.regression import gated_margins
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.length import RunLength
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest
from pytest_llmperf.runner.progress.live import Live, View
from pytest_llmperf.runner.resume.stored_point import StoredSide
from pytest_llmperf.runner.tasks.capacity import CapacitySide
from pytest_llmperf.runner.tasks.point import PointSide
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.telemetry.environment import Environment, environment
from pytest_llmperf.telemetry.gpu import Gpu


class Side(Protocol):
    """The measurement on one server of a task, so far."""

    server: LlmServer

    @property
    def count(self) -> int:
        """Runs so far; of a capacity whole searches."""

    @property
    def is_done(self) -> bool:
        """True if another run would be of no use."""

    def run(self, view: View) -> Awaitable[None]:
        """Measures one more run."""

    def result(self, name: str, point: LoadPoint, environment: Environment) -> Result:
        """Returns what follows from the runs so far."""

    def stored(self, environment: Environment) -> StoredSide:
        """Returns what the result follows from."""


class Task:
    """Gives every side its runs and keeps each run in the folder at once; in a duet a run is one on each server."""

    def __init__(
        self,
        planned: PlannedTest,
        server: LlmServer,
        folder: RunFolder,
        gpus: Sequence[Gpu],
        earlier: Sequence[Run] = (),
        stored_requests: Callable[[PlannedTest, Result], int | None] = lambda planned, result: None,
        margins: Mapping[str, float] | None = None,
    ) -> None:
        """`earlier` are the point's runs on launches before this server's; `stored_requests` gives the requests per run
        of what the result will be held against, `margins` are the session's, where neither plan nor test has one.
        """
        self.planned, self.server = planned, server
        self.error: LlmPerfError | None = None
        """The error that ended the measurement early; None without one."""
        self._folder, self._gpus = folder, tuple(gpus)
        point = planned.point
        length = RunLength(margins=gated_margins(point, {**(margins or {}), **point.margins, **planned.margins}))
        self._sides: Sequence[Side] = [
            CapacitySide(one, planned, self._keep)
            if planned.point.capacity
            else PointSide(one, planned, self._keep, length, earlier)
            for one in (server.reference, server)
            if one is not None
        ]
        """The one that is judged comes last."""
        self._seconds, self._made = 0.0, 0
        if earlier:
            length.requests = len(earlier[0].measured)
        elif planned.point.length == "auto" and server.reference is None:
            length.requests = stored_requests(planned, self.result())
            length.note = f"{length.requests} requests per run, as in its baseline" if length.requests else ""

    @property
    def test(self) -> str:
        """The test's node id."""
        return self.planned.test

    @property
    def name(self) -> str:
        """`server-load`."""
        return self.planned.point_id

    @property
    def runs_left(self) -> int:
        """Number of first runs to come; 0 when there is no use in another, or an error has ended the measuring."""
        if self.error is not None or all(side.is_done for side in self._sides):
            return 0
        return max(0, self.planned.runs - self._count)

    @property
    def run_seconds(self) -> float:
        """Mean time that a run of this task has taken, its repeats included; 0 before the first."""
        return self._seconds / self._made if self._made else 0.0

    @property
    def _count(self) -> int:
        return min(side.count for side in self._sides)

    async def run(self, live: Live) -> None:
        """Measures one more run on every side, or all windows of a load that asks for stability.

        An error is kept, not raised.
        """
        self._note()
        try:
            while True:
                begun_s = clock.monotonic()
                try:
                    # A B B A A B B A, so that a disturbance that comes or goes meets all.
                    for place, side in enumerate(self._sides[:: -1 if self._count % 2 else 1]):
                        name = f"{self.name} ({side.server.name})" if len(self._sides) > 1 else self.name
                        await side.run(View(live, name, begun_s, place, len(self._sides)))
                finally:
                    self._seconds += clock.monotonic() - begun_s
                    self._made += 1
                self._note()  # of a capacity search what was concluded after its last execution
                live.ran(self.test, self.name, self.planned.runs, clock.monotonic() - begun_s)
                if not (self.planned.point.stability and self.runs_left):
                    return
        except LlmPerfError as error:
            self.error = error
            self._folder.note(self.test, self.name, result=self.result(), error=str(error))

    def result(self) -> Result:
        """Returns what follows from the runs so far."""
        point = self.planned.point
        names = [f"{side.server.name}-{point.name}" for side in self._sides[:-1]] + [self.name]
        *before, now = (
            side.result(name, point, self._environment(side)) for name, side in zip(names, self._sides, strict=True)
        )
        return replace(now, reference=before[0] if before else None)

    def stored_sides(self) -> tuple[StoredSide, ...]:
        """Returns what the result follows from, of each server; the one that is judged comes last."""
        return tuple(side.stored(self._environment(side)) for side in self._sides)

    def _environment(self, side: Side) -> Environment:
        return environment(side.server.config, side.server.version, self._gpus, side.server.deployment)

    def _keep(self, server: LlmServer, run: Run, level: float | None = None) -> None:
        """Stores a run; a duet's old server has a file of requests of its own."""
        self._note()  # before the file, whose writing a signal may end
        if run.records:
            name = self.test if server is self.server else f"{self.test}.{server.name}"
            self._folder.save_requests(name, run, self.planned.point, level)

    def _note(self) -> None:
        """Stores what there is so far, should the session end before the test says what came of it."""
        self._folder.note(self.test, self.name, result=self.result(), error="interrupted")
