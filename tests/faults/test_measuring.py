"""Faults of clocks, time limits and counts"""

import shutil
import subprocess
from importlib.util import find_spec

import pytest
from arrangements import on_url
from fault import Fault, check, rows
from sandbox import TEST

from pytest_llmperf.metrics.trust.validity import MAX_LENGTH_FACTOR

_MANY = {"requests": 40, "concurrency": 1}
_FREE = {"ignore_eos": False}


def _needs(module):
    return (pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed"),)


def _travelling(opening):
    """The suite's tests run in another time, or in none."""
    fixture = f"@pytest.fixture(autouse=True)\ndef travel():\n    with {opening}:\n        yield\n"

    def run(sandbox):
        sandbox.url_plan(sandbox.serve().url)
        module = opening.partition(".")[0]
        sandbox.write("test_x.py", TEST.replace("import pytest\n", f"import {module}\nimport pytest\n\n{fixture}", 1))
        return sandbox.pytest()

    return run


# What pytest-timeout's signal method does, at the first moment at which a callback of the event loop runs.
_ALARM = """
import signal

def alarm(number, frame):
    names, where = [], frame
    while where:
        names.append(where.f_code.co_name)
        where = where.f_back
    if "_run" in names[1:] and names[0] not in ("select", "_run_once"):
        pytest.fail("Timeout (>0.5s) from the alarm")
    signal.setitimer(signal.ITIMER_REAL, 0.001)
"""
_ALARMED = """    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    result = load_driver"""


def _alarmed(sandbox):
    embedded = {"engine": "embedded", "args": {"step": "modelled", "max-num-seqs": 16, "decode-ms-per-step": 2}}
    sandbox.plan(embedded, {"output_tokens": 100, "concurrency": 16, "requests": 400})
    text = TEST.replace("import pytest\n", f"import pytest\n{_ALARM}", 1)
    sandbox.write("test_x.py", text.replace("    result = load_driver", _ALARMED))
    return sandbox.pytest()


_SHIFTED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += SHIFT;
  return failed;
}
"""


def _preloaded(shift_s):
    """A library before all others, as libfaketime is, shifts the clock of the whole process."""

    def run(sandbox):
        sandbox.url_plan(sandbox.serve().url)
        source, library = sandbox.write("shift.c", _SHIFTED), sandbox.folder / "shift.so"
        words = ["-shared", "-fPIC", f"-DSHIFT={shift_s}", "-o", str(library), str(source), "-ldl"]
        subprocess.run(["cc", *words], check=True)
        words = '[sys.executable, "-m", "pytest", "-q", "--llmperf-output=out"]'
        sandbox.write("apart.py", f"import subprocess, sys\n\nsys.exit(subprocess.call({words}))")
        return sandbox.program("apart", env={"LD_PRELOAD": str(library)})

    return run


_COMPILER = (pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),)

FAULTS = (
    Fault(
        "clock-ahead",
        "a preloaded library sets the process's clock an hour ahead of the kernel's",
        _preloaded(3600),
        says=("INVALID", "the client's clock is +3.6e+03 s from the kernel's", "libfaketime", "measure without"),
        keeps=10,
        marks=_COMPILER,
    ),
    Fault(
        "clock-behind",
        "a preloaded library sets the process's clock an hour behind the kernel's",
        _preloaded(-3600),
        says=("INVALID", "the client's clock is -3.6e+03 s from the kernel's", "libfaketime", "measure without"),
        keeps=10,
        marks=_COMPILER,
    ),
    Fault(
        "frozen-in-the-future",
        "freezegun moves Python's clocks to another year: the number is right all the same",
        _travelling("freezegun.freeze_time('2040-01-01', tick=True)"),
        says=("1 passed",),
        keeps=10,
        exit=0,
        marks=_needs("freezegun"),
    ),
    Fault(
        "frozen-still",
        "freezegun stops Python's clocks: the number is right all the same, and time limits hold",
        _travelling("freezegun.freeze_time('2020-01-01')"),
        says=("1 passed",),
        keeps=10,
        exit=0,
        marks=_needs("freezegun"),
    ),
    Fault(
        "time-machine",
        "time-machine moves Python's clocks in C: the number is right all the same",
        _travelling("time_machine.travel('2040-01-01', tick=False)"),
        says=("1 passed",),
        keeps=10,
        exit=0,
        marks=_needs("time_machine"),
    ),
    Fault(
        "alarm-in-a-callback",
        "a time limit's alarm (pytest-timeout's) meets a callback of the event loop",
        _alarmed,
        says=("Timeout (>0.5s) from the alarm",),
    ),
    Fault(
        "resets-on-kept-connections",
        "every second request on a kept connection is reset before its answer",
        on_url("reset_before", after=3, every=2, load=_MANY),
        says=("requests were sent again", "closed or reset before any byte of a response", "`connection: fresh`"),
        keeps=40,
    ),
    Fault(
        "closes-on-kept-connections",
        "every second request on a kept connection finds it closed",
        on_url("close_before", after=3, every=2, load=_MANY),
        says=("requests were sent again", "INVALID"),
        keeps=40,
    ),
    Fault(
        "count-of-thirty-digits",
        "the server counts 10^30 tokens",
        on_url("count_huge", load=_FREE),
        says=("INVALID", "answers have more tokens than were asked for", "larger than any answer"),
        keeps=10,
    ),
    Fault(
        "count-of-four-hundred-digits",
        "the server counts tokens with 400 digits",
        on_url("count_hugest", load=_FREE),
        says=("INVALID", "larger than any answer"),
        keeps=10,
    ),
    Fault(
        "count-beyond-what-was-asked",
        f"the server counts more than {MAX_LENGTH_FACTOR:g} times the tokens that were asked for",
        on_url("count_thousandfold", load=_FREE),
        says=("INVALID", "first: 8000 tokens, 8 asked for", "max_tokens"),
        keeps=10,
    ),
    Fault(
        "no-run-with-a-value",
        "every request fails, and the limit on failures allows it",
        on_url("error_500", after=3, sla={"ttft_p99": "<= 5 s", "error_rate": "<= 100 %"}),
        says=("ttft_p99: no value", "boom"),
        keeps=10,
    ),
    Fault(
        "a-run-without-values",
        "every request of one run of three fails, and the limit on failures allows it",
        on_url("error_500", after=3, until=13, runs=3, sla={"ttft_p99": "<= 5 s", "error_rate": "<= 90 %"}),
        says=("ttft_p99: no value in 1 of",),
        keeps=30,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
