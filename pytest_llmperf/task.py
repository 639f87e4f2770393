"""What is measured in turns with others, for one test: what the points of a load and the searches of a capacity share.

A task has a side per server (a duet's has two). A side holds what was measured on its server and makes the result of
it; the task gives the sides their runs, and keeps every run in the session at once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import Run
from pytest_llmperf.report.live import Live
from pytest_llmperf.result import Result
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.session import Session
from pytest_llmperf.stored_point import StoredSide
from pytest_llmperf.telemetry.environment import Environment, environment
from pytest_llmperf.telemetry.gpu import Gpu

T = TypeVar("T")


class Side(Protocol):
    """What was measured on one server of a task so far."""

    server: LlmServer

    @property
    def count(self) -> int:
        """Runs so far."""
        ...

    def result(self, name: str, point: LoadPoint, environment: Environment) -> Result:
        """Of the runs so far."""
        ...

    def stored(self, environment: Environment) -> StoredSide:
        """What the result follows from."""
        ...


class Task(ABC):
    """What is measured for one test; in a duet a run is one on each server."""

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
        """What ended the measuring before its time."""
        self._session, self._gpus, self._workers = session, tuple(gpus), workers
        self._sides: Sequence[Side] = [self._side(one) for one in (server.reference, server) if one is not None]
        """The one that is judged comes last."""
        self._seconds, self._begun_s = 0.0, 0.0

    @abstractmethod
    def _side(self, server: LlmServer) -> Side:
        """Of a server on which nothing was measured yet."""

    @property
    @abstractmethod
    def _is_done(self) -> bool:
        """Whether there is no use in another run."""

    @abstractmethod
    async def _run(self, live: Live | None) -> None:
        """One more run on every side."""

    @property
    def name(self) -> str:
        """`server-load`."""
        return f"{self.server.asked.name}-{self.point.name}"

    @property
    def runs_left(self) -> int:
        """Of the first runs; 0 when there is no use in another, or when an error has ended the measuring."""
        return 0 if self.error is not None or self._is_done else max(0, self.first_runs - self._count)

    @property
    def run_seconds(self) -> float:
        """Mean time that a run has taken, its repeats included; 0 before the first."""
        return self._seconds / self._count if self._count else 0.0

    @property
    def _count(self) -> int:
        """Runs that every side has."""
        return min(side.count for side in self._sides)

    def result(self) -> Result:
        """Of the runs so far."""
        *before, now = self._sides
        reference = self._result(before[0], f"{before[0].server.name}-{self.point.name}") if before else None
        return replace(self._result(now, self.name), reference=reference)

    def _result(self, side: Side, name: str) -> Result:
        return side.result(name, self.point, self._environment(side))

    def stored_sides(self) -> tuple[StoredSide, ...]:
        """What the result follows from, of each server; the one that is judged comes last."""
        return tuple(side.stored(self._environment(side)) for side in self._sides)

    def _environment(self, side: Side) -> Environment:
        return environment(side.server.config, side.server.version, self._gpus)

    async def run(self, live: Live | None) -> None:
        """One more run on every side; of a load that asks for stability all at once. An error is kept, not raised."""
        try:
            await self._run(live)
        except LlmPerfError as error:
            self.error = error
            self._session.update(self.test, self.name, error=str(error))

    @contextmanager
    def _timed(self, live: Live | None) -> Iterator[None]:
        """Around one run on every side; one that an error ends counts in time, but is not told."""
        self._begun_s = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - self._begun_s
            self._seconds += seconds
        if live is not None:
            live.ran(self.test, self.name, self.first_runs, seconds)

    def _save_requests(self, server: LlmServer, run: Run, level: float | None = None) -> None:
        """The old server's go to a file of their own."""
        old = server is not self.server
        name = f"{self.test}.{server.name}" if old else self.test
        self._session.save_requests(name, run, self.point, level)

    def _update(self) -> None:
        """What there is so far, should the session end before the test says what came of it."""
        self._session.update(self.test, self.name, result=self.result(), error="interrupted")

    def _shown(self, side: Side) -> str:
        """How progress names the side."""
        return f"{self.name} ({side.server.name})" if len(self._sides) > 1 else self.name


def in_turn(sides: Sequence[T], runs: int) -> Sequence[T]:
    """The order of the next run after `runs`: A B B A A B B A, so that a disturbance that comes or goes meets all."""
    return sides if runs % 2 == 0 else sides[::-1]
