"""A point of a load as a task of the campaign: a run of it is one run of the load on every side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from pytest_llmperf.load.schedule import slot_plan
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.measure import Measurement, Progress
from pytest_llmperf.records import Run
from pytest_llmperf.report.live import Live, Moment
from pytest_llmperf.result import Result, make_result
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.stored_point import StoredSide
from pytest_llmperf.task import Task, in_turn
from pytest_llmperf.telemetry.environment import Environment


@dataclass(slots=True)
class _PointSide:
    """One server of a point, and its runs."""

    server: LlmServer
    runs: list[Run] = field(default_factory=list)
    measurement: Measurement | None = None
    """Begun with the first run."""
    _result: Result | None = None
    """Of these runs, once somebody has asked."""

    @property
    def count(self) -> int:
        return len(self.runs)

    @property
    def steady(self) -> bool:
        return self.measurement is not None and self.measurement.steady

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self._result = None

    def result(self, name: str, point: LoadPoint, environment: Environment) -> Result:
        """Made once per run, since the report on disk, the gate and the user's test all ask for it."""
        if self._result is None or self._result.environment != environment:
            self._result = make_result(name, self.server.config, point, environment, self.runs)
        return self._result

    def stored(self, environment: Environment) -> StoredSide:
        return StoredSide(environment, tuple(self.runs))


class PointTask(Task):
    """One point to be measured; one that asks for stability is done when it is steady on every side."""

    _sides: Sequence[_PointSide]

    def _side(self, server: LlmServer) -> _PointSide:
        return _PointSide(server)

    @property
    def _is_done(self) -> bool:
        return all(side.steady for side in self._sides)

    async def _run(self, live: Live) -> None:
        """All windows at once where the load asks for stability."""
        await self._run_all_sides(live)
        while self.point.stability and self.runs_left:
            await self._run_all_sides(live)

    async def _run_all_sides(self, live: Live) -> None:
        with self._timed(live):
            for place, side in enumerate(in_turn(self._sides, self._count)):
                measurement = side.measurement = side.measurement or self._begin(side)
                await measurement.run(self._progress(live, side, place))

    def _begin(self, side: _PointSide) -> Measurement:
        self._update()
        return Measurement(side.server, self.point, self.point.name, partial(self._keep, side), self.planned.workers)

    def _keep(self, side: _PointSide, run: Run) -> None:
        if run.records:
            side.add(run)
            self._save_requests(side.server, run)
        self._update()

    def _progress(self, live: Live, side: _PointSide, place: int) -> Progress | None:
        """`place`: how many servers have had their turn in this run."""
        return None if live.show is None else partial(self._show, live, self._shown(side), place)

    def _show(self, live: Live, shown: str, place: int, run_index: int, done: int, total: int, failed: int) -> None:
        by_time = slot_plan(self.point) is not None
        live.tell(
            Moment(
                test=self.test,
                name=shown,
                run=run_index + 1,
                runs=max(self.planned.runs, run_index + 1),
                extra=run_index >= self.planned.runs,
                done=done,
                total=None if by_time else total,
                failed=failed,
                elapsed_s=time.monotonic() - self._begun_s,
                share=0.0 if by_time or not total else (place + done / total) / len(self._sides),
            )
        )
