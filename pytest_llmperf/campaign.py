"""The points of one server measured together: their runs interleaved, and more runs where a gate is in doubt.

A disturbance of the machine lasts for seconds to minutes. Points that take turns (A B C A B C) each get a part of it,
which their run-to-run spread then shows; all runs of one point in a row would take it for the point's own speed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.report.live import Live
from pytest_llmperf.servers.start import LlmServer
from pytest_llmperf.task import Task


class Again(NamedTuple):
    """What is to be measured once more, and whether on a server launched anew."""

    tests: frozenset[str]
    relaunch: bool = False


async def measure_together(
    server: LlmServer,
    tasks: Sequence[Task],
    again: Callable[[Sequence[Task]], Again],
    live: Live | None,
    *,
    relaunch_always: bool = False,
) -> None:
    """Every task's first runs in turns, then runs of those that `again` names, until it names none."""
    rounds = itertools.count()
    while wanted := [task for task in tasks if task.runs_left]:
        await _round(server, wanted, live, relaunch=relaunch_always and next(rounds) > 0)
    while (more := again(tasks)).tests:
        wanted = [task for task in tasks if task.test in more.tests and task.error is None]
        await _round(server, wanted, live, relaunch=more.relaunch or relaunch_always)


async def _round(server: LlmServer, tasks: Sequence[Task], live: Live | None, *, relaunch: bool) -> None:
    if relaunch:
        _relaunch(server, tasks)
    for task in tasks:
        if task.error is None:
            await task.run(live)


def _relaunch(server: LlmServer, tasks: Sequence[Task]) -> None:
    """A server that does not come up again is the error of all that wanted it."""
    try:
        for side in (server.reference, server):
            if side is not None:
                side.relaunch()
    except LlmPerfError as error:
        for task in tasks:
            task.error = error
