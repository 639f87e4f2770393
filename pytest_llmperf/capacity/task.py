"""A capacity search as a task of the campaign: a run of it is one whole search on every side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pytest_llmperf.capacity.bracket import most_levels
from pytest_llmperf.capacity.search import Searcher, Tell, capacity_result
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.point_task import PointTask
from pytest_llmperf.program import PlannedTest
from pytest_llmperf.records import Run
from pytest_llmperf.report.live import Live
from pytest_llmperf.result import Result
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.session import RunFolder
from pytest_llmperf.stored_point import StoredSide
from pytest_llmperf.task import Task, in_turn
from pytest_llmperf.telemetry.environment import Environment
from pytest_llmperf.telemetry.gpu import Gpu


@dataclass(slots=True)
class _CapacitySide:
    """One server of a point, and its searches."""

    server: LlmServer
    searcher: Searcher

    @property
    def count(self) -> int:
        return len(self.searcher.searches)

    def result(self, name: str, point: LoadPoint, environment: Environment) -> Result:
        searches, shown = self.searcher.capacity.searches, self.searcher.runs
        return capacity_result(name, self.server.config, point, environment, searches, shown)

    def stored(self, environment: Environment) -> StoredSide:
        shown = self.searcher.runs
        return StoredSide(
            environment,
            runs=tuple(run for _, run in shown),
            levels=tuple(level for level, _ in shown),
            searches=self.searcher.capacity.searches,
        )


class CapacityTask(Task):
    """One capacity to be searched; every execution of a level is kept in the session at once."""

    _sides: Sequence[_CapacitySide]

    def _side(self, server: LlmServer) -> _CapacitySide:
        return _CapacitySide(server, Searcher(server, self.point, partial(self._keep, server), self.planned.workers))

    @property
    def _is_done(self) -> bool:
        """Whether a search found no level that holds: another would offer the same lowest level."""
        return any(search.estimate is None for side in self._sides for search in side.searcher.searches)

    async def _run(self, live: Live) -> None:
        with self._timed(live):
            for side in in_turn(self._sides, self._count):
                try:
                    await side.searcher.run(self._tell(live, side))
                except LlmPerfError:
                    self._update()  # levels that were judged after their last execution was kept
                    raise
                self._update()

    def _keep(self, server: LlmServer, run: Run, level: float) -> None:
        self._save_requests(server, run, level)
        self._update()

    def _tell(self, live: Live, side: _CapacitySide) -> Tell:
        shown, number = self._shown(side), side.count + 1
        if live.show is None:
            return lambda tried, level, repeat: None
        return lambda tried, level, repeat: partial(self._show, live, shown, number, tried, level, repeat)

    def _show(self, live: Live, shown: str, number: int, tried: int, level: float, repeat: int, *counts: int) -> None:
        """`counts`: number of the execution (which is no run here), requests done, in all, and failed."""
        _, done, total, failed = counts
        unit = " req/s" if self.point.capacity and self.point.capacity.request_rate else " in flight"
        most = most_levels(self.point.capacity) if self.point.capacity else 0
        again = f" (repeat {repeat})" if repeat else ""
        trouble = f", {failed} failed" if failed else ""
        live.line(
            f"llmperf {shown}: search {number}/{max(self.planned.runs, number)}, level {tried + 1} of at most {most}: "
            f"{level:g}{unit}{again}, {done}/{total} requests{trouble}"
        )


def make_task(planned: PlannedTest, server: LlmServer, folder: RunFolder, gpus: Sequence[Gpu]) -> Task:
    """Returns what measures the test's point, or searches its capacity."""
    kind = CapacityTask if planned.point.capacity else PointTask
    return kind(planned, server, folder, gpus)
