"""Priority of the driver while it measures: raised where the system allows it, and always given back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from pytest_llmperf.load.client.priority import urgent

NOW = "import os; print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))"


def _scheduling() -> tuple[int, int]:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(
        os.PRIO_PROCESS, threading.get_native_id()
    )


def _may_be_real_time() -> bool:
    code = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_it_is_given_back_even_when_the_load_fails() -> None:
    before = _scheduling()
    with pytest.raises(KeyError), urgent():
        raise KeyError
    assert _scheduling() == before


def test_it_is_raised_where_that_is_allowed_and_not_inherited() -> None:
    if not _may_be_real_time():
        pytest.skip("this user may not use real-time priority")
    outside = subprocess.run([sys.executable, "-c", NOW], capture_output=True, text=True).stdout
    with urgent():
        policy, _ = _scheduling()
        child = subprocess.run([sys.executable, "-c", NOW], capture_output=True, text=True).stdout
    assert policy == os.SCHED_RR
    assert child.split()[0] == outside.split()[0]  # the kernel resets a nice value together with the policy
