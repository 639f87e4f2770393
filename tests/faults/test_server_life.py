"""Faults of a server's life"""

import os
import shutil
import signal
import subprocess

import pytest
from arrangements import of_own
from fault import Fault, check, rows
from sandbox import TEST, without_proc


def _may_mount():
    """Root may, but not in every container."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/proc"]
    return os.geteuid() == 0 and shutil.which("unshare") and not subprocess.run(command, capture_output=True).returncode


_ROOT = (pytest.mark.skipif(not _may_mount(), reason="nothing may be mounted here"),)
_LONG = {"requests": 3000, "concurrency": 4, "warmup_requests": 0}


def _port_of_the_server(session):
    """Once it is started."""

    def lines():
        return [line for line in session.processes("--life=late").values() if "supervisor" not in line]

    session.until(lines)
    return int(lines()[0].split("--port ")[1].split()[0])


def _impostor(life):
    """Another server takes the port while ours is still at its start."""

    def run(sandbox):
        sandbox.own_plan(*life, load=_LONG)
        session = sandbox.pytest()
        sandbox.serve(port=_port_of_the_server(session))
        return session

    return run


def _signalled(word, signum, *arguments, words=(), load=_LONG):
    """A process of the session, known by a word of its command line, gets a signal once the load has begun."""

    def run(sandbox):
        sandbox.own_plan(*arguments, load=load)
        session = sandbox.pytest(*words)
        session.until_log("the load has begun")
        session.until(lambda: session.processes(word))
        os.kill(min(session.processes(word)), signum)
        return session

    return run


def _leaving_shared_memory(sandbox):
    sandbox.own_plan("--answer=kill_self", "--after=8", f"--life=shared_memory:psm_{sandbox.mark}")
    return sandbox.pytest()


def _flooding(sandbox):
    """The plan's test looks at what the log takes of the disk, which is not its length."""
    sandbox.own_plan("--life=flood:x", load={"requests": 100})
    size = "sum(log.stat().st_blocks * 512 for log in llm_server.logs)"
    sandbox.write("test_x.py", f"{TEST}    assert {size} < 512 << 20\n")
    return sandbox.pytest()


def _blind(sandbox):
    sandbox.own_plan("--life=strays")
    return sandbox.pytest(prepare=without_proc)


def _orphaned(sandbox):
    """pytest itself is killed."""
    sandbox.own_plan("--life=strays", f"--life=shared_memory:psm_{sandbox.mark}", load=_LONG)
    session = sandbox.pytest()
    session.until_log("listening")
    session.signal(signal.SIGKILL)
    return session


FAULTS = (
    Fault(
        "dies-midway",
        "the server dies in the middle of an answer, with an error in its log",
        of_own("--answer=die", "--after=4"),
        says=("server 's' died", "exit code 7", "an illegal memory access", "s.log"),
        keeps=3,
    ),
    Fault(
        "killed-midway",
        "the server is killed by SIGKILL, as by the kernel out of memory",
        of_own("--answer=kill_self", "--after=4"),
        says=("server 's' died", "exit code 137 (SIGKILL)", "out of memory?"),
        keeps=3,
    ),
    Fault(
        "crashes-midway",
        "the server ends by SIGSEGV in the middle of an answer",
        of_own("--answer=crash_self", "--after=4"),
        says=("server 's' died", "exit code 139 (SIGSEGV)"),
        keeps=3,
    ),
    Fault(
        "dies-in-warm-up",
        "the server dies in the warm-up",
        of_own("--answer=die"),
        says=("server 's' died", "exit code 7", "an illegal memory access"),
    ),
    Fault(
        "ends-at-start",
        "the server ends before it is ready, with an error in its log",
        of_own("--life=exit:1"),
        says=("ended before it was ready", "exit code 1", "s.log"),
    ),
    Fault(
        "ends-well-at-start",
        "the server ends before it is ready with exit code 0",
        of_own("--life=exit:0"),
        says=("ended before it was ready", "exit code 0", "s.log"),
    ),
    Fault(
        "killed-at-start",
        "the server is killed before it is ready",
        of_own("--life=signal:9"),
        says=("ended before it was ready", "exit code 137 (SIGKILL)"),
    ),
    Fault(
        "never-ready",
        "the server never listens",
        of_own("--life=never_listens", entry={"ready_timeout": "1 s"}),
        says=("was not ready within 1 s (ready_timeout)", "s.log"),
    ),
    Fault(
        "log-of-many-processes",
        "a log with lines of 50,000 processes, and then the end",
        of_own("--life=many_processes:50000"),
        says=("ended before it was ready", "exit code 1"),
    ),
    Fault(
        "impostor",
        "another server takes the port before ours listens, and ours dies of it",
        _impostor(["--life=late:5"]),
        says=("server 's' is not what answers", "listens on its port", "run again, which takes another port"),
    ),
    Fault(
        "impostor-beside",
        "another server takes the port, and ours lives on without one",
        _impostor(["--life=late:60"]),
        says=("server 's' is not what answers", "listens on its port", "run again, which takes another port"),
    ),
    Fault(
        "supervisor-killed",
        "the supervisor is killed, and the server has processes in other sessions that ignore SIGTERM",
        _signalled("supervisor.py", signal.SIGKILL, "--life=strays"),
        says=("server 's' died", "its supervisor was killed by SIGKILL"),
    ),
    Fault(
        "supervisor-stopped",
        "the supervisor is stopped (SIGSTOP) and never continued",
        _signalled("supervisor.py", signal.SIGSTOP, load={"requests": 40}),
        says=("1 passed",),
        keeps=40,
        exit=0,
    ),
    Fault(
        "worker-stopped",
        "one of two processes of the load driver is stopped (SIGSTOP)",
        _signalled("spawn_main", signal.SIGSTOP, words=("--llmperf-workers=2",), load=_LONG),
        says=("worker process", "of 2 of the load driver gives no sign of life (stopped, or wedged)"),
    ),
    Fault(
        "worker-killed",
        "one of two processes of the load driver is killed",
        _signalled("spawn_main", signal.SIGKILL, words=("--llmperf-workers=2",), load=_LONG),
        says=("worker process", "of 2 of the load driver died (exit code -9)"),
    ),
    Fault(
        "shared-memory-after-a-kill",
        "the server is killed and leaves a segment of shared memory",
        _leaving_shared_memory,
        says=("exit code 137 (SIGKILL)",),
    ),
    Fault(
        "log-without-end",
        "the server floods its log",
        _flooding,
        says=("1 passed",),
        keeps=100,
        exit=0,
    ),
    Fault(
        "sampler-stopped",
        "the process that samples the server is stopped (SIGSTOP)",
        _signalled("sampler.py", signal.SIGSTOP, load={"requests": 100, "warmup_requests": 0}),
        says=("1 passed",),
        keeps=100,
        exit=0,
    ),
    Fault(
        "strays",
        "the server leaves processes in other sessions that ignore SIGTERM",
        of_own("--life=strays"),
        says=("1 passed",),
        keeps=10,
        exit=0,
    ),
    Fault(
        "no-proc",
        "there is no /proc, and the server has processes in other sessions that ignore SIGTERM",
        _blind,
        says=("1 passed", "could not be checked: /proc does not tell"),
        keeps=10,
        exit=0,
        marks=_ROOT,
    ),
    Fault(
        "pytest-killed",
        "pytest is killed (SIGKILL) while it measures",
        _orphaned,
        says=(),
        exit=-9,
        has_report=False,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
