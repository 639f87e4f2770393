"""One load point on one server, start to end: warm-up, then the runs. Shared by the plugin and the command line."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.driver import run_load, warm_up
from pytest_llmperf.load.prompts import Trace, make_trace
from pytest_llmperf.load.target import Target
from pytest_llmperf.load.workers import most_workers, run_workers
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.metrics import Summary, summarize
from pytest_llmperf.records import Run
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.stability import steadiness
from pytest_llmperf.telemetry.triton import gained
from pytest_llmperf.validity import cpu_was_the_limit, disturbance

_REPEATS = 2
"""How often a run is done over that other work on the client's machine has spoiled."""


class Progress(Protocol):
    """Told a few times a second how far a run is."""

    def __call__(self, run_index: int, done: int, total: int, failed: int) -> None: ...


class Measurement:
    """One load point on one server while it is measured: a run at a time, each of the same trace."""

    def __init__(
        self, server: LlmServer, point: LoadPoint, key: str, on_run: Callable[[Run], None], workers: int | None = None
    ) -> None:
        """`key` seeds prompts and arrivals; `on_run` gets each run as it ends, an interrupted one too.

        `workers` is the number of load driver processes; None begins with one and takes twice as many whenever the
        client's CPU was the limit of a run.
        """
        self.server, self.point = server, point
        self.runs = 0
        """So many have ended."""
        self._trace = make_trace(point, key)
        # A server that stays up keeps its prefix cache: without a salt, today's prompts would be found in yesterday's.
        self._salt = secrets.token_hex(8)
        self._on_run = on_run
        self._count, self._most = workers or 1, workers or most_workers(point)
        self._warm_launch = 0
        self._windows: list[Summary] = []

    @property
    def steady(self) -> bool:
        """Whether the load asks for stability and its last runs agree."""
        return self.point.stability is not None and steadiness(self._windows, self.point.stability).reached

    async def run(self, progress: Progress | None = None) -> None:
        """One more run, after a warm-up where this launch of the server has had none.

        One that the client's CPU limited is done over with more processes, and so is, up to twice, one that the client
        spoiled in another way. Raises ServerError when the server is or goes dead, and LoadError when a worker dies.
        """
        await self._warm_up()
        report = None if progress is None else _bound(progress, self.runs)
        attempt = partial(self._attempt, report)
        run, self._count = await _undisturbed(attempt, self.point, self._count, self._most)
        run = replace(run, launch=self.server.launches)
        self.runs += 1
        self._on_run(run)
        if any(not record.ok for record in run.records):
            self.server.check_alive()
        if self.point.stability:
            self._windows.append(summarize(run, self.point))

    async def _attempt(self, progress: Callable[[int, int, int], None] | None, workers: int, number: int) -> Run:
        """One execution, with what the server counted meanwhile, where it tells.

        What is done over has other marks again: the prompts of the last time are in the server's prefix cache.
        """
        salt = f"{self._salt}.{number}." if number else self._salt
        before = self.server.reading()
        self.server.begin_watching()
        run = await _execute(
            self.server.targets, self.point, self._trace, salt, self._on_run, self.runs, workers, progress
        )
        run = replace(run, telemetry=self.server.end_watching())
        after = self.server.reading() if before else None
        return replace(run, server_side=gained(before, after)) if before and after else run

    async def _warm_up(self) -> None:
        if self._warm_launch == self.server.launches:
            return
        self.server.check_alive()
        try:
            await warm_up(self.server.targets, self.point, self._trace, salt=self._salt)
        except ServerError:
            self.server.check_alive()  # says more about a dead server than its clients can
            raise
        self._warm_launch = self.server.launches


async def _undisturbed(
    attempt: Callable[[int, int], Awaitable[Run]], point: LoadPoint, workers: int, most: int
) -> tuple[Run, int]:
    """A run that the client did not spoil, if there is one to be had, and the number of processes it took.

    `attempt` gets the number of processes, and how many attempts there were before.
    What decides is the client's state alone, never the server's numbers, so that doing it over favours nobody.
    """
    spoiled: list[str] = []
    while True:
        run = await attempt(workers, len(spoiled))
        reason = disturbance(run, point)
        more = cpu_was_the_limit(run) and workers < most
        if reason is None or not (more or (len(spoiled) < _REPEATS and not cpu_was_the_limit(run))):
            return replace(run, spoiled=tuple(spoiled)), workers
        spoiled.append(reason)
        workers = min(2 * workers, most) if more else workers


async def _execute(
    targets: tuple[Target, ...],
    point: LoadPoint,
    trace: Trace,
    salt: str,
    on_interrupt: Callable[[Run], None],
    run_index: int,
    workers: int,
    progress: Callable[[int, int, int], None] | None,
) -> Run:
    if workers == 1:
        return await run_load(
            targets, point, trace, run_index=run_index, salt=salt, progress=progress, on_interrupt=on_interrupt
        )
    return await run_workers(
        targets,
        point,
        trace,
        workers=workers,
        run_index=run_index,
        salt=salt,
        progress=progress,
        on_interrupt=on_interrupt,
    )


def _bound(progress: Progress, run_index: int) -> Callable[[int, int, int], None]:
    return lambda done, total, failed: progress(run_index, done, total, failed)
