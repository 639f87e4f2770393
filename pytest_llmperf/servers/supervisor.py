"""Runs one server and outlives pytest just long enough to take it down: `python supervisor.py GRACE_S -- ARGV...`.

The supervisor stands between pytest and the server so that nothing survives, however pytest ends. It holds the read end
of a pipe from pytest on its standard input. When that reaches its end (pytest closed it, or was killed with SIGKILL)
the server's whole process group gets TERM, after GRACE_S seconds KILL, and so do descendants that left the group
(found because the supervisor is their subreaper). A normal stop and pytest's death take this same path.

It is run as a file with the standard library alone: it starts in some 20 ms and imports nothing of the package.
Its exit code is the server's (128 + N for a signal N).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# What engines leave in /dev/shm when they are killed: vLLM's TP/PP rings, Python's SharedMemory, torch, Triton's stubs.
_SHM_PREFIXES = ("vllm_", "psm_", "sem.mp-", "torch_", "triton_python_backend", "nccl-")
_SHM = Path("/dev/shm")


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_supervisor() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    frontier = [pid]
    while frontier:
        for child in _children(frontier.pop()):
            if child not in found:
                found.add(child)
                frontier.append(child)
    return found


def _children(pid: int) -> Iterable[int]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())


def _signal_all(group: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signum)
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _reap() -> None:
    """Collect descendants that were orphaned to us; the server itself is waited for by subprocess."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _take_down(server: subprocess.Popen[bytes], grace: float) -> None:
    _signal_all(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and (server.poll() is None or _descendants(os.getpid())):
        _reap_orphans(server)
        time.sleep(0.02)
    while _descendants(os.getpid()):
        _signal_all(server.pid, signal.SIGKILL)
        server.poll()
        _reap_orphans(server)
        time.sleep(0.02)


def _reap_orphans(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        _reap()


def _wait_for_an_end(server: subprocess.Popen[bytes]) -> None:
    """Until pytest closes the pipe, dies, or the server ends."""
    watched = os.pidfd_open(server.pid)
    readable: list[int] = []
    while watched not in readable:
        readable, _, _ = select.select([0, watched], [], [])
        if 0 in readable and os.read(0, 1) == b"":
            break
    os.close(watched)


def _shared_memory() -> set[str]:
    return {name for name in os.listdir(_SHM) if name.startswith(_SHM_PREFIXES)} if _SHM.is_dir() else set()


def _mapped_somewhere(name: str) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f"{_SHM}/{name}" in maps.read_text(errors="replace"):
                return True
    return False


def _remove_leftovers(before: set[str]) -> None:
    """Segments that came up during the server's life, are ours, and that no living process has mapped."""
    for name in _shared_memory() - before:
        with contextlib.suppress(OSError):
            path = _SHM / name
            if path.stat().st_uid == os.getuid() and not _mapped_somewhere(name):
                path.unlink()


def main(argv: list[str]) -> int:
    grace, command = float(argv[0]), argv[2:]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before = _shared_memory()
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_default_signals_and_leash
    )
    _wait_for_an_end(server)
    _take_down(server, grace)
    _remove_leftovers(before)
    code = server.wait()
    return code if code >= 0 else 128 - code


def _default_signals_and_leash() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    _die_with_supervisor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
