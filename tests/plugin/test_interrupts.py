"""However pytest ends, no process of a server stays behind, and what was measured is on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE_S = 60.0
LONG = """
model: embedded
runs: 50
servers: {slow: {engine: embedded, args: {step: modelled, decode-ms-per-step: 5}}}
loads: {short: {input_tokens: 8, output_tokens: 10, concurrency: 2, requests: 10, warmup_requests: 0}}
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)


def _processes_with(mark: str) -> list[str]:
    """Command lines of all processes that carry the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


# An interrupt within a library's constructor (a socket of httpx, say) leaves a half-made object to the garbage
# collector; what is asked here is that no process stays.
LENIENT = ("-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning")


class Started:
    """A pytest of its own in the background, everything of it marked."""

    def __init__(self, suite, *args: str) -> None:
        self.mark = f"LLMPERF_TEST_{uuid.uuid4().hex}"
        self.output = suite.output
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", *LENIENT, f"--llmperf-output={suite.output}", *args],
            cwd=suite.pytester.path,
            env={**os.environ, self.mark: "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, moment: str) -> None:
        logs, requests = self.output / "servers", self.output / "requests"
        reached = {
            "the server starts": lambda: logs.is_dir() and any(logs.iterdir()),
            "a run is over": lambda: requests.is_dir() and any(requests.iterdir()),
        }
        until(lambda: self.process.poll() is not None or reached[moment](), moment)
        assert self.process.poll() is None, self.process.stdout and self.process.stdout.read().decode()

    def end_with(self, signum: int) -> str:
        # To the whole group, as a terminal's Ctrl-C does; the server must not be in it.
        os.killpg(self.process.pid, signum)
        output = self.process.communicate(timeout=PATIENCE_S)[0].decode()
        until(lambda: not _processes_with(self.mark), "the server's processes to go")
        return output


@pytest.fixture
def long_suite(suite):
    suite.write(plan=LONG)
    return suite


@pytest.mark.parametrize("moment", ["the server starts", "a run is over"])
def test_ctrl_c_leaves_nothing_behind(long_suite, moment):
    started = Started(long_suite)
    started.wait_for(moment)
    output = started.end_with(signal.SIGINT)
    assert started.process.returncode == pytest.ExitCode.INTERRUPTED, output


def test_ctrl_c_keeps_what_was_measured(long_suite):
    started = Started(long_suite)
    started.wait_for("a run is over")
    output = started.end_with(signal.SIGINT)
    (point,) = json.loads((long_suite.output / "report.json").read_text())["points"]
    assert point["error"] == "interrupted"
    assert point["passed"] is None
    assert point["runs"][0]["metrics"]["requests"] == {"sent": 10, "ok": 10, "failed": 0, "cancelled": 0}
    lines = (long_suite.output / "requests" / "test_perf.py.test_serving-slow-short.jsonl").read_text().splitlines()
    assert len({json.loads(line)["run"] for line in lines}) == len(point["runs"])
    assert "slow-short" in output


@pytest.mark.parametrize("moment", ["the server starts", "a run is over"])
def test_a_killed_pytest_leaves_no_orphan(long_suite, moment):
    started = Started(long_suite)
    started.wait_for(moment)
    started.end_with(signal.SIGKILL)
    assert started.process.returncode == -signal.SIGKILL


def test_terminated_pytest_leaves_no_orphan(long_suite):
    started = Started(long_suite)
    started.wait_for("a run is over")
    started.end_with(signal.SIGTERM)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_worker_processes_of_the_load_end_with_pytest(long_suite, signum):
    started = Started(long_suite, "--llmperf-workers=2")
    started.wait_for("a run is over")
    started.end_with(signum)
