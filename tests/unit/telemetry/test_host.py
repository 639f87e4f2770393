"""What others take of the machine is what is left when our own processes are taken off."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from samples import point, run

from pytest_llmperf.metrics.trust import validity
from pytest_llmperf.records import HostLoad
from pytest_llmperf.servers.process.ports import program
from pytest_llmperf.telemetry import sampler
from pytest_llmperf.telemetry.host import HostReading, host_load, read_host

TICKS = os.sysconf("SC_CLK_TCK")


def test_what_is_not_ours_is_that_of_others():
    before, after = HostReading(10.0, 1000, 400), HostReading(12.0, 1000 + 3 * TICKS, 400 + TICKS)
    found = host_load(before, after, own_known=True)
    assert found is not None
    assert found.other_cores == pytest.approx(1.0)
    assert found.cores == len(os.sched_getaffinity(0))


def test_stolen_time_is_nobodys_work_here():
    before, after = HostReading(10.0, 1000, 400, 50), HostReading(12.0, 1000 + 3 * TICKS, 400 + TICKS, 50 + TICKS)
    found = host_load(before, after, own_known=True)
    assert found is not None
    assert (found.other_cores, found.stolen_cores) == (pytest.approx(0.5), pytest.approx(0.5))
    unknown = host_load(before, after, own_known=False)
    assert unknown is not None
    assert (unknown.other_cores, unknown.stolen_cores) == (None, pytest.approx(0.5))


@pytest.mark.parametrize(("counts", "waiting"), [((0, 500_000), 0.25), ((0, 9_000_000), 1.0), ((None, None), None)])
def test_the_queue_for_processors_is_a_share_of_the_time(counts, waiting):
    before, after = (HostReading(2.0 * at, 1000 * at, 0, 0, count) for at, count in enumerate(counts))
    found = host_load(before, after, own_known=True)
    assert found is not None
    assert found.waiting == waiting


def test_a_hypervisor_that_takes_much_is_a_suspect():
    seen = replace(run([]), host=HostLoad(8, 3.0, None, stolen_cores=1.0))
    assert validity.busy_host(seen) == (
        "the hypervisor took 1.0 of the machine's 8 cores (load average 3.0) for other machines"
    )
    assert "the hypervisor 1.0; it was busy in run 1" in validity.host_sentence([seen])
    assert validity.busy_host(replace(run([]), host=HostLoad(8, 3.0, None, stolen_cores=0.5))) is None


@pytest.mark.parametrize(
    ("seconds", "own_known"), [(0.1, True), (2.0, False)], ids=["too short", "server not told apart"]
)
def test_what_cannot_be_told_is_no_zero(seconds, own_known):
    found = host_load(HostReading(0, 0, 0), HostReading(seconds, 10, 0), own_known=own_known)
    assert found is not None
    assert found.other_cores is None
    assert host_load(None, HostReading(2.0, 10, 0), own_known=True) is None


def test_a_child_is_our_own_also_when_it_has_ended():
    before = read_host()
    assert before is not None
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    after = read_host()
    assert after is not None
    assert after.own_ticks > before.own_ticks
    assert after.at_s <= time.monotonic()


@contextmanager
def child(code):
    """A Python below this process that has run `code` and waits."""
    words = [sys.executable, "-c", f"import os\n{code}\nprint('up', flush=True)\ninput()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.communicate(b"\n")


def test_a_name_that_is_cut_within_a_letter_hides_no_process():
    """The kernel keeps 15 bytes of it."""
    with child("with open('/proc/self/comm', 'wb') as file: file.write(b'a' * 14 + b'\\xd0')") as pid:
        assert read_host() is not None
        assert pid in sampler.family(os.getpid())
        assert program(pid) == "a" * 14 + "\ufffd"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_work_of_our_own_on_other_processors_is_not_told_apart():
    before, (first, second, *_) = os.sched_getaffinity(0), sorted(os.sched_getaffinity(0))
    known = read_host()
    os.sched_setaffinity(0, {first})
    try:
        with child(f"os.sched_setaffinity(0, {{{second}}})"):
            unknown = read_host()
    finally:
        os.sched_setaffinity(0, before)
    assert known is not None
    assert unknown is not None
    assert known.own_ticks is not None
    assert unknown.own_ticks is None
    found = host_load(HostReading(0.0, 0, 0), HostReading(2.0, 10, None), own_known=True)
    assert found is not None
    assert found.other_cores is None


@pytest.mark.parametrize(("others", "is_busy"), [(0.0, False), (1.9, False), (2.1, True), (None, False)])
def test_a_busy_machine_is_a_suspect_and_the_run_stays_valid(monkeypatch, others, is_busy):
    monkeypatch.setattr(validity, "MAX_OTHER_CPU", 0.25)
    seen = replace(run([]), host=HostLoad(8, 3.0, others))
    assert (validity.busy_host(seen) is not None) == is_busy
    assert ("suspect" in validity.host_sentence([seen])) == is_busy
    assert validity.disturbance(seen, point()) is None
