"""The capacity searches of a point on one server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from pytest_llmperf.capacity.search import Searcher, capacity_result
from pytest_llmperf.metrics.capacity.bracket import most_levels
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.program import PlannedTest
from pytest_llmperf.records import Run
from pytest_llmperf.report.live import View
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.stored_point import StoredSide
from pytest_llmperf.telemetry.environment import Environment


class CapacitySide:
    """One server of a point, and its searches: a run is one whole search."""

    def __init__(self, server: LlmServer, planned: PlannedTest, keep: Callable[[LlmServer, Run, float], None]) -> None:
        """`keep` gets every execution of a level as it ends, an interrupted one too, and the level."""
        self.server = server
        self._planned = planned
        self._searcher = Searcher(server, planned.point, partial(keep, server), planned.workers)

    @property
    def count(self) -> int:
        return len(self._searcher.searches)

    @property
    def is_done(self) -> bool:
        """Whether a search found no level that holds: another would offer the same lowest level."""
        return any(search.estimate is None for search in self._searcher.searches)

    def run(self, view: View) -> Awaitable[None]:
        if view.live.show is None:
            return self._searcher.run(lambda tried, level, repeat: None)
        return self._searcher.run(lambda *level: partial(self._show, view, *level))

    def result(self, name: str, point: LoadPoint, environment: Environment) -> Result:
        searches, shown = self._searcher.capacity.searches, self._searcher.runs
        return capacity_result(name, self.server.config, point, environment, searches, shown)

    def stored(self, environment: Environment) -> StoredSide:
        shown = self._searcher.runs
        return StoredSide(
            environment,
            runs=tuple(run for _, run in shown),
            levels=tuple(level for level, _ in shown),
            searches=self._searcher.capacity.searches,
        )

    def _show(self, view: View, tried: int, level: float, repeat: int, *counts: int) -> None:
        """`counts`: number of the execution (which is no run here), requests done, in all, and failed."""
        _, done, total, failed = counts
        asked, number = self._planned.point.capacity, self.count + 1
        unit = " req/s" if asked and asked.request_rate else " in flight"
        again = f" (repeat {repeat})" if repeat else ""
        trouble = f", {failed} failed" if failed else ""
        view.live.line(
            f"llmperf {view.name}: search {number}/{max(self._planned.runs, number)}, level {tried + 1} of at most "
            f"{most_levels(asked) if asked else 0}: {level:g}{unit}{again}, {done}/{total} requests{trouble}"
        )
