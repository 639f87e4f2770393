"""Load of this machine beside what we run on it: processor time of all, and of our own processes.

Our own are this process and all below it: load driver, sampler, and the servers that were started here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pytest_llmperf import clock
from pytest_llmperf.records import HostLoad

_LEAST_S = 0.5
"""Processor time is counted in ticks of 10 ms: of a shorter period too few."""
_STOLEN = 7
"""Column of the time that a hypervisor took."""
_IDLE = (3, 4)
"""Columns of a processor's line in /proc/stat that are no work: idle, and idle for a device."""


class HostReading(NamedTuple):
    """Counters at one moment."""

    at_s: float
    busy_ticks: int
    """Processor time of all processes, on the processors that this process may use."""
    own_ticks: int | None
    """Processor time of our own processes; None where one of them may use other processors too."""
    stolen_ticks: int = 0
    """The part of the busy ones which the hypervisor gave to other machines."""
    waited_us: int | None = None
    """Time in which some process waited for a processor; None where the kernel does not count it."""


def read_host() -> HostReading | None:
    """The counters now; None where the system does not report them."""
    try:
        cores = os.sched_getaffinity(0)
        busy, stolen = _busy_ticks(cores)
        return HostReading(clock.monotonic(), busy, _own_ticks(os.getpid(), cores), stolen, _waited_us())
    except (OSError, ValueError, IndexError):
        return None


def host_load(before: HostReading | None, after: HostReading | None, *, own_known: bool) -> HostLoad | None:
    """The load between two readings; without `own_known` a server of others runs here too, and is not separated."""
    if before is None or after is None:
        return None
    cores, seconds = len(os.sched_getaffinity(0)), after.at_s - before.at_s
    others = stolen = waiting = None
    if seconds >= _LEAST_S and after.busy_ticks > before.busy_ticks:
        all_stolen = after.stolen_ticks - before.stolen_ticks
        stolen = max(_cores(all_stolen, seconds), 0.0)
        if own_known and before.own_ticks is not None and after.own_ticks is not None:
            ticks = after.busy_ticks - before.busy_ticks - (after.own_ticks - before.own_ticks) - all_stolen
            others = max(_cores(ticks, seconds), 0.0)
    if seconds >= _LEAST_S and before.waited_us is not None and after.waited_us is not None:
        waiting = min((after.waited_us - before.waited_us) / 1e6 / seconds, 1.0)
    return HostLoad(cores, os.getloadavg()[0], others, stolen, waiting, _clock_mhz(os.sched_getaffinity(0)))


def _cores(ticks: int, seconds: float) -> float:
    return ticks / os.sysconf("SC_CLK_TCK") / seconds


def _busy_ticks(cores: set[int]) -> tuple[int, int]:
    """Ticks of these processors that were no idling, since the system's start, and how many of them were stolen."""
    names, total, stolen = {f"cpu{core}" for core in cores}, 0, 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name in names:
            # The columns from the 9th on are of guests, which are counted as user time too.
            total += sum(int(count) for place, count in enumerate(counts[:8]) if place not in _IDLE)
            stolen += int(counts[_STOLEN])
    return total, stolen


def _waited_us() -> int | None:
    """The kernel's count of pressure on the processors, which not every kernel keeps."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().splitlines()[0].rpartition("total=")[2])
    except (OSError, ValueError, IndexError):
        return None


def _clock_mhz(cores: set[int]) -> float | None:
    """Mean clock of these processors; None where the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        own = [clocks[core] for core in cores]
    except (OSError, ValueError, IndexError):
        return None
    return sum(own) / len(own) if own else None


def _own_ticks(root: int, cores: set[int]) -> int | None:
    """Ticks of a process and everything below it; a child that has ended counts in its parent.

    None where a part of them may be of other processors than `cores`.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(entry)], ticks[int(entry)] = int(fields[1]), sum(map(int, fields[11:15]))
    own = [process for process in ticks if _is_below(process, root, parents)]
    return None if any(_may_leave(process, cores) for process in own) else sum(ticks[process] for process in own)


def _may_leave(process: int, cores: set[int]) -> bool:
    """True if the process may run on other processors than these."""
    try:
        return not os.sched_getaffinity(process) <= cores
    except OSError:  # it has ended meanwhile
        return False


def _is_below(process: int, root: int, parents: dict[int, int]) -> bool:
    while process != root and process in parents:
        process = parents[process]
    return process == root
