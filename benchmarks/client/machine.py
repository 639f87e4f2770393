"""Processes on their own cores, what they cost, and how quiet the machine was meanwhile."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_QUIET_BUSY = 0.10
"""Cores' worth of other work that a quiet machine may do."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Finished:
    """A tool that has ended, with the CPU time of all its descendants."""

    exit_code: int
    output: str
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    busy_s: float
    steal_s: float
    at_s: float


def prepare() -> None:
    """Orphans of a tool become our children, so that their CPU time is counted; as many sockets as are allowed; ended
    by any signal, we end what we started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pinned(core: int) -> list[str]:
    """What goes before a command that is to run on `core` only."""
    return ["taskset", "-c", str(core)]


def preferred() -> list[str]:
    """What goes before a tool's command, so that other work waits for it. Ours does that by itself; now all have it."""
    return ["nice", "-n", "-20"] if os.geteuid() == 0 else []


def run(command: Sequence[str], *, environment: Mapping[str, str], folder: Path, timeout_s: float) -> Finished:
    """Runs it to its end, in a group of its own; what is left of the group then is killed."""
    cpu, started = _children_cpu_s(), time.monotonic()
    log = folder / "output.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, env=environment, process_group=0
        )
        try:
            process.wait(timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    wall = time.monotonic() - started
    _reap_orphans(process.pid)
    return Finished(process.returncode, log.read_text(errors="replace"), _children_cpu_s() - cpu, wall)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reap_orphans(group: int) -> None:
    """The rest of the group gets two seconds to end by itself."""
    limit = time.monotonic() + 2
    while _group_has_children(group):
        if time.monotonic() > limit:
            os.killpg(group, signal.SIGKILL)
        time.sleep(0.02)


def _group_has_children(group: int) -> bool:
    try:
        os.waitpid(-group, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def sample() -> Machine:
    """Totals of /proc/stat: CPU time of everything, and what the host took away."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return Machine((user + nice + system + irq + softirq) * _TICK_S, steal * _TICK_S, time.monotonic())


def wait_until_quiet(limit_s: float, pause_s: float = 3.0) -> float:
    """Waits until nothing else runs; returns the seconds waited. (The load average would still count our last run.)"""
    started = before = sample()
    while True:
        time.sleep(pause_s)
        now = sample()
        if (now.busy_s - before.busy_s) / (now.at_s - before.at_s) < _QUIET_BUSY or now.at_s - started.at_s > limit_s:
            return now.at_s - started.at_s
        before = now


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Holds an exclusive lock, for people who share the machine."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def description() -> dict[str, str | int]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count() or 0, "kernel": os.uname().release, "machine": os.uname().machine}
