"""The runs of a load point on one server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from pytest_llmperf import clock
from pytest_llmperf.load.trace.schedule import slot_plan
from pytest_llmperf.metrics.result import Result, make_result
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.length import RunLength
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.runner.program import PlannedTest
from pytest_llmperf.runner.progress.live import Moment, View
from pytest_llmperf.runner.resume.stored_point import StoredSide
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.telemetry.environment import Environment


class PointSide:
    """One server of a point, and its runs."""

    def __init__(
        self,
        server: LlmServer,
        planned: PlannedTest,
        keep: Callable[[LlmServer, Run], None],
        length: RunLength,
        earlier: Sequence[Run] = (),
    ) -> None:
        """`keep` gets each run as it ends, an interrupted one too; `earlier` are those on launches before.

        `length` is shared by all sides.
        """
        self.server, self.runs = server, list(earlier)
        self._launches = max((run.launch for run in earlier), default=0)
        self._planned, self._keep = planned, keep
        self._length = length
        self._measurement: Measurement | None = None
        self._result: Result | None = None
        """The result of these runs; None until somebody has asked for it."""

    @property
    def count(self) -> int:
        return len(self.runs)

    @property
    def is_done(self) -> bool:
        """True if the load asks for stability and is steady."""
        return self._measurement is not None and self._measurement.steady

    def run(self, view: View) -> Awaitable[None]:
        """Measures one more run; the coroutine is Measurement's own, so that the way to the socket is short."""
        point = self._planned.point
        if self._measurement is None:
            workers, length = self._planned.workers, self._length
            self._measurement = Measurement(self.server, point, point.name, self._add, workers, length)
        return self._measurement.run(None if view.live.show is None else partial(self._show, view))

    def _add(self, run: Run) -> None:
        if run.records:
            run = replace(run, index=self.count, launch=self._launches + run.launch)
            self.runs.append(run)
            self._result = None
        self._keep(self.server, run)

    def result(self, name: str, point: LoadPoint, environment: Environment) -> Result:
        """The result of the runs, made once per run, since the report on disk, the gate and the user's test all ask
        for it.
        """
        if self._result is None or self._result.environment != environment:
            self._result = make_result(name, self.server.config, point, environment, self.runs)
        return self._result

    def stored(self, environment: Environment) -> StoredSide:
        return StoredSide(environment, tuple(self.runs))

    def _show(self, view: View, done: int, total: int, failed: int) -> None:
        by_time, first = slot_plan(self._planned.point) is not None, self._planned.runs
        view.live.show_run(
            Moment(
                test=self._planned.test,
                name=view.name,
                run=self.count + 1,
                runs=max(first, self.count + 1),
                extra=self.count >= first,
                done=done,
                total=None if by_time else total,
                failed=failed,
                elapsed_s=clock.monotonic() - view.begun_s,
                share=0.0 if by_time or not total else (view.place + done / total) / view.sides,
            )
        )
