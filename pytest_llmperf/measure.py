"""One load point on one server, start to end: warm-up, then the runs. Shared by the plugin and the command line."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.driver import Target, run_load, warm_up
from pytest_llmperf.load.prompts import Trace, make_trace
from pytest_llmperf.load.workers import most_workers, run_workers
from pytest_llmperf.metrics import Summary, summarize
from pytest_llmperf.plan import LoadPoint
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


async def measure(
    server: LlmServer,
    point: LoadPoint,
    key: str,
    runs: int,
    on_run: Callable[[Run], None],
    progress: Progress | None = None,
    workers: int | None = None,
) -> None:
    """Warm up, then `runs` executions of the same trace; `on_run` gets each as it ends, an interrupted one too.

    A point that asks for stability is done as soon as its last runs agree; `runs` is then the most it may take.

    `key` seeds prompts and arrivals. `workers` is the number of load driver processes; None begins with one and takes
    twice as many whenever the client's CPU was the limit of a run. Such a run is done over, and so is, up to twice, one
    that the client spoiled in another way. Raises ServerError when the server is or goes dead, and LoadError when a
    worker dies; runs that ended before were handed over.
    """
    server.check_alive()
    trace = make_trace(point, key)
    # A server that stays up keeps its prefix cache: without a salt, today's prompts would be found in yesterday's.
    salt = secrets.token_hex(8)
    try:
        await warm_up(server.targets, point, trace, salt=salt)
    except ServerError:
        server.check_alive()  # says more about a dead server than its clients can
        raise
    execute = partial(_execute, server.targets, point, trace, salt, on_run)
    count, most = workers or 1, workers or most_workers(point)
    windows: list[Summary] = []
    for index in range(runs):
        report = None if progress is None else _bound(progress, index)
        run, count = await _undisturbed(partial(_observed, server, execute, index, report), point, count, most)
        on_run(run)
        if any(not record.ok for record in run.records):
            server.check_alive()
        windows.append(summarize(run, point))
        if point.stability and steadiness(windows, point.stability).reached:
            return


async def _undisturbed(
    execute: Callable[[int], Awaitable[Run]], point: LoadPoint, workers: int, most: int
) -> tuple[Run, int]:
    """A run that the client did not spoil, if there is one to be had, and the number of processes it took.

    What decides is the client's state alone, never the server's numbers, so that doing it over favours nobody.
    """
    spoiled: list[str] = []
    while True:
        run = await execute(workers)
        reason = disturbance(run, point)
        more = cpu_was_the_limit(run) and workers < most
        if reason is None or not (more or (len(spoiled) < _REPEATS and not cpu_was_the_limit(run))):
            return replace(run, spoiled=tuple(spoiled)), workers
        spoiled.append(reason)
        workers = min(2 * workers, most) if more else workers


async def _observed(
    server: LlmServer, execute: Callable[..., Awaitable[Run]], index: int, progress: object, workers: int
) -> Run:
    """The run, with what the server counted meanwhile, where it tells."""
    before = server.reading()
    run = await execute(index, workers, progress)
    after = server.reading() if before else None
    return replace(run, server_side=gained(before, after)) if before and after else run


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
