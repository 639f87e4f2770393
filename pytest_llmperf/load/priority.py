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
def urgent() -> Iterator[Scheduling]:
    """Real-time priority for this thread, else the highest normal one; where neither is allowed, nothing changes.

    Gives what was had.
    """
    with contextlib.ExitStack() as restore:
        if _real_time(restore):
            yield "real-time"
        else:
            yield "nice" if _nice(restore) else "normal"


def _real_time(restore: contextlib.ExitStack) -> bool:
    if not hasattr(os, "sched_setscheduler"):
        return False
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    # Processes that are started meanwhile must not inherit it.
    urgent_policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, urgent_policy, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except OSError:
        return False
    restore.callback(os.sched_setscheduler, 0, policy, parameter)
    return True


def _nice(restore: contextlib.ExitStack) -> bool:
    thread = threading.get_native_id()
    try:
        before = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, _NICEST)
    except (AttributeError, OSError):
        return False
    restore.callback(os.setpriority, os.PRIO_PROCESS, thread, before)
    return True
