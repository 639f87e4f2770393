"""Lets the driver run as soon as data has come, whatever else wants the processor.

A server on the same machine may keep every core busy (vLLM's workers spin while they wait). The scheduler then makes a
normal process wait up to a whole response, and a read that returns several segments has the time of the last one only:
a time to first token of 15 ms was measured as 90 ms.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from pytest_llmperf.records import Scheduling

_NICEST = -20


@contextlib.contextmanager
def urgent(*, every_thread: bool = False) -> Iterator[Scheduling]:
    """Real-time priority for this thread, else the highest normal one; where neither is allowed, nothing changes.

    Gives what was had. `every_thread` gives it to those of the process that there are: where a library's threads
    receive, one that is kept from its processor keeps ours from the interpreter too.
    """
    with contextlib.ExitStack() as restore:
        if _real_time(restore, _threads() if every_thread else [0]):
            yield "real-time"
        else:
            yield "nice" if _nice(restore) else "normal"


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return [0]


def _real_time(restore: contextlib.ExitStack, threads: list[int]) -> bool:
    if not hasattr(os, "sched_setscheduler"):
        return False
    return all(_real_time_thread(restore, thread) for thread in threads)


def _real_time_thread(restore: contextlib.ExitStack, thread: int) -> bool:
    """Returns True if the thread has it; one that has ended counts as if."""
    # Processes that are started meanwhile must not inherit it.
    urgent_policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        policy, parameter = os.sched_getscheduler(thread), os.sched_getparam(thread)
        os.sched_setscheduler(thread, urgent_policy, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except ProcessLookupError:
        return True
    except OSError:
        return False
    restore.callback(_give_back, thread, policy, parameter)
    return True


def _give_back(thread: int, policy: int, parameter: os.sched_param) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.sched_setscheduler(thread, policy, parameter)


def _nice(restore: contextlib.ExitStack) -> bool:
    thread = threading.get_native_id()
    try:
        before = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, _NICEST)
    except (AttributeError, OSError):
        return False
    restore.callback(os.setpriority, os.PRIO_PROCESS, thread, before)
    return True
