"""One load point on one server, start to end: warm-up, then the runs. Shared by the plugin and the command line."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.driver import run_load, warm_up
from pytest_llmperf.load.prompts import make_trace
from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.records import Run
from pytest_llmperf.servers.start import LlmServer


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
) -> None:
    """Warm up, then `runs` executions of the same trace; `on_run` gets each as it ends, an interrupted one too.

    `key` seeds prompts and arrivals. Raises ServerError when the server is or goes dead; runs that ended before were
    handed over.
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
    for index in range(runs):
        report = None if progress is None else _bound(progress, index)
        run = await run_load(
            server.targets, point, trace, run_index=index, salt=salt, progress=report, on_interrupt=on_run
        )
        on_run(run)
        if any(not record.ok for record in run.records):
            server.check_alive()


def _bound(progress: Progress, run_index: int) -> Callable[[int, int, int], None]:
    return lambda done, total, failed: progress(run_index, done, total, failed)
