"""A capacity search as a task of the campaign: a run of it is one whole search on every side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pytest_llmperf.campaign import PointTask, Task
from pytest_llmperf.capacity.bracket import most_levels
from pytest_llmperf.capacity.search import Searcher, Tell, capacity_result
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import Run
from pytest_llmperf.report.live import Live
from pytest_llmperf.result import Result
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.session import Session, file_name
from pytest_llmperf.stored_point import StoredSide
from pytest_llmperf.telemetry.environment import Environment, environment
from pytest_llmperf.telemetry.gpu import Gpu


@dataclass(slots=True)
class _Side:
    """One server of a point, and its searches."""

    server: LlmServer
    searcher: Searcher


class CapacityTask:
    """One capacity to be searched for one test; every execution of a level is kept in the session at once.

    In a duet a run is a search on each server, A B B A A B B A.
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
        """What ended the searching of this point before its time."""
        self._session, self._gpus = session, tuple(gpus)
        self._sides = [self._side(side, workers) for side in (server.reference, server) if side is not None]
        """The one that is judged comes last."""
        self._seconds = 0.0

    def _side(self, server: LlmServer, workers: int | None) -> _Side:
        return _Side(server, Searcher(server, self.point, partial(self._keep, server), workers))

    @property
    def name(self) -> str:
        return f"{self.server.asked.name}-{self.point.name}"

    @property
    def run_seconds(self) -> float:
        """Mean time that a search has taken; 0 before the first."""
        return self._seconds / self._count if self._count else 0.0

    @property
    def _count(self) -> int:
        return min(len(side.searcher.searches) for side in self._sides)

    @property
    def runs_left(self) -> int:
        """Of the first runs; 0 when it has failed, or when there is no level to begin another search at."""
        done = self.error is not None or self._has_none
        return 0 if done else max(0, self.first_runs - self._count)

    @property
    def _has_none(self) -> bool:
        """Whether a search found no level that holds: another would offer the same lowest level."""
        return any(search.estimate is None for side in self._sides for search in side.searcher.searches)

    def result(self) -> Result:
        """Of the searches so far."""
        *before, now = self._sides
        reference = self._result(before[0], f"{before[0].server.name}-{self.point.name}") if before else None
        return replace(self._result(now, self.name), reference=reference)

    def _result(self, side: _Side, name: str) -> Result:
        searches, shown = side.searcher.capacity.searches, side.searcher.runs
        return capacity_result(name, side.server.config, self.point, self._environment(side), searches, shown)

    def _environment(self, side: _Side) -> Environment:
        return environment(side.server.config, side.server.version, self._gpus)

    def stored_sides(self) -> tuple[StoredSide, ...]:
        return tuple(self._stored(side) for side in self._sides)

    def _stored(self, side: _Side) -> StoredSide:
        shown = side.searcher.runs
        return StoredSide(
            self._environment(side),
            runs=tuple(run for _, run in shown),
            levels=tuple(level for level, _ in shown),
            searches=side.searcher.capacity.searches,
        )

    async def run(self, live: Live | None) -> None:
        """One more search on every side. An error is kept, not raised."""
        begun = time.monotonic()
        try:
            for side in self._sides if self._count % 2 == 0 else self._sides[::-1]:
                await side.searcher.run(self._tell(live, side))
                self._update()
        except LlmPerfError as error:
            self.error = error
            self._session.update(self.test, self.name, result=self.result(), error=str(error))
        seconds = time.monotonic() - begun
        self._seconds += seconds
        if live is not None and self.error is None:
            live.ran(self.test, self.name, self.first_runs, seconds)

    def _keep(self, server: LlmServer, run: Run, level: float) -> None:
        old = server is not self.server
        name = f"{file_name(self.test)}.{server.name}" if old else self.test
        self._session.save_requests(name, run, self.point, level)
        self._update()

    def _update(self) -> None:
        self._session.update(self.test, self.name, result=self.result(), error="interrupted")

    def _tell(self, live: Live | None, side: _Side) -> Tell:
        shown = f"{self.name} ({side.server.name})" if len(self._sides) > 1 else self.name
        number = len(side.searcher.searches) + 1
        if live is None or live.show is None:
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
            f"llmperf {shown}: search {number}/{max(self.first_runs, number)}, level {tried + 1} of at most {most}: "
            f"{level:g}{unit}{again}, {done}/{total} requests{trouble}"
        )


def make_task(test: str, server: LlmServer, point: LoadPoint, runs: int, **rest: Any) -> Task:
    """What measures the point; arguments as of its class."""
    kind = CapacityTask if point.capacity else PointTask
    return kind(test, server, point, runs, **rest)
