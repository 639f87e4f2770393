"""The clocks that measure and that end every wait: the operating system's, whatever a test has done to Python's.

freezegun and time-machine let a test travel in time: the one replaces the functions of the module `time`, the other
what some of them do in C. A latency between a travelled moment and one of the kernel's would be a number of years.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from importlib.machinery import BuiltinImporter
from importlib.util import module_from_spec
from types import ModuleType

_TRIES = 5
_SAME_NS = 50_000_000
"""Two readings of one clock are closer than this, however busy the machine."""


def _untouched() -> ModuleType:
    """A second instance of the module `time`, whose functions nobody has found and replaced."""
    spec = BuiltinImporter.find_spec("time")
    assert spec is not None, "the module is built into every Python"
    assert spec.loader is not None, "a spec that was found has a loader"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _TimeSpec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


_time = _untouched()
_clock_gettime = ctypes.CDLL(None).clock_gettime
monotonic: Callable[[], float] = _time.monotonic
monotonic_ns: Callable[[], int] = _time.monotonic_ns
perf_counter: Callable[[], float] = _time.perf_counter
thread_time: Callable[[], float] = _time.thread_time
now_ns: Callable[[], int] = _time.time_ns
"""CLOCK_REALTIME, which the kernel stamps what we receive with. Use it as `clock.now_ns`: `settle` may replace it."""


def settle() -> None:
    """Makes `now_ns` right for the next minutes: where Python's own reading is replaced, it counts from here."""
    global now_ns
    offset_ns = realtime_offset_ns()
    replaced = abs(_offset_ns(_time.time_ns) - offset_ns) > _SAME_NS
    now_ns = (lambda: monotonic_ns() + offset_ns) if replaced else _time.time_ns


def is_frozen() -> bool:
    """True if Python's monotonic clock, which no setting of a clock moves, is replaced by another than the system's."""
    return abs(time.monotonic() - monotonic()) > _SAME_NS / 1e9


def realtime_offset_ns() -> int:
    """Returns CLOCK_REALTIME minus CLOCK_MONOTONIC: it changes when the clock is set."""
    return _offset_ns(_realtime_ns)


def _realtime_ns() -> int:
    """The C library's answer: slower than Python's function, and no test replaces it."""
    now = _TimeSpec()
    _clock_gettime(_time.CLOCK_REALTIME, ctypes.byref(now))
    return int(now.s) * 1_000_000_000 + int(now.ns)


def _offset_ns(read: Callable[[], int]) -> int:
    """A process that loses its core between two readings seems to see a clock that was set: the closest pair counts."""
    tries = []
    for _ in range(_TRIES):
        before, now, after = monotonic_ns(), read(), monotonic_ns()
        tries.append((after - before, now - before))
    return min(tries)[1]
