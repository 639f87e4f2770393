"""Runs one server and outlives pytest just long enough to take it down.

    python supervisor.py

The supervisor stands between pytest and the server so that nothing survives, however pytest ends. It holds the read end
of a pipe from pytest on its standard input, whose first line says as JSON what to run: words on its own command line
could be read by every user of the machine. When the pipe reaches its end (pytest closed it, or was killed with SIGKILL)
the server is stopped: its stop command runs, or its signal goes to the whole process group and to descendants that
left it (found because the supervisor is their subreaper). What is left after its time of grace gets KILL. A normal stop
and pytest's death take this same path.

What the server writes goes into the log, through this process where there are secrets to be hidden in it.

It is run as a file with the standard library alone: it starts in some 20 ms and imports nothing of the package.
Its exit code is the server's (128 + N for a signal N).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Prefixes of files that killed engines leave in /dev/shm: vLLM's TP/PP rings, Python's SharedMemory, torch, Triton's
# stubs, SGLang's rings and load snapshots.
_SHM_PREFIXES = ("vllm_", "psm_", "sem.mp-", "torch_", "triton_python_backend", "nccl-", "sgl_shm_", "sglang_loads_")
_SHM = Path("/dev/shm")
_TRACKER_GRACE_S = 2.0
KILL_TIMEOUT_S = 30.0
_MOST_PIDS = 1 << 22
_LOOK_S = 0.2
"""Time between two looks at what there is in shared memory: a server may be killed at any moment, and its maps go."""
_LOOKS = 25
"""Number of looks for the owner of a new segment; another server's is none of ours however often we look."""
_MOST_LOG_BYTES = 128 << 20
"""Most bytes of a log on disk, fewer on a small disk: its beginning and its end are kept, which is all that is read."""
_LEFT_OUT = b"\n[llmperf: what comes here was too much for this log and is left out]\n"
_PUNCH_HOLE = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE."""
_DRAIN_S = 2.0
"""Time for output that is not in the log yet; a process that got away may hold its end of the pipe for ever."""


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> set[int]:
    """All below a process; without /proc the own children only, and nobody else's."""
    if not os.path.isdir(f"/proc/{pid}"):
        return _found_children() if pid == os.getpid() else set()
    found: set[int] = set()
    frontier = [pid]
    while frontier:
        for child in _children(frontier.pop()):
            if child not in found:
                found.add(child)
                frontier.append(child)
    return found


def _children(pid: int) -> Iterable[int]:
    if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
        yield from (child for child, parent in _parents() if parent == pid)
        return
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())


def _parents() -> Iterable[tuple[int, int]]:
    """Every process with its parent, where the kernel lists no children (CONFIG_PROC_CHILDREN)."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{name}/stat").read_text(errors="replace")
            yield int(name), int(stat.rpartition(")")[2].split()[1])


def _found_children() -> set[int]:
    """Our children without /proc: the kernel answers for any number whether we may wait for it.

    As their subreaper we get those whose parents we kill, and so, one after the other, all descendants.
    """
    newest = os.fork()
    if newest == 0:
        os._exit(0)
    os.waitpid(newest, 0)
    oldest = os.getpid()
    numbers = range(oldest, newest) if oldest < newest else (*range(oldest, _MOST_PIDS), *range(2, newest))
    return {pid for pid in numbers if _is_child(pid)}


def _is_child(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except OSError:
        return False


def _has_children() -> bool:
    """True while a descendant lives: all of them are children of this process, which is their subreaper."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _take_down(server: subprocess.Popen[bytes], grace: float, signum: int, stop: list[str]) -> None:
    """Stop, then KILL of what is left; Python's resource tracker last, because it removes the others' shared memory."""
    if not (stop and server.poll() is None and _runs(stop, grace)):
        _signal(descendants(os.getpid()), signum)
    _wait_for_none(server, grace)
    rest = descendants(os.getpid())
    _signal({pid for pid in rest if not _is_resource_tracker(pid)}, signal.SIGKILL)
    _wait_for_none(server, _TRACKER_GRACE_S)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while _has_children() and time.monotonic() < deadline:
        # Again and again, since one may have been forked while the others were killed.
        _signal(descendants(os.getpid()), signal.SIGKILL)
        _wait_for_none(server, 0.2)


def _runs(command: list[str], timeout: float) -> bool:
    """Runs a command whose output goes into the server's log; True if it ended well within `timeout` seconds."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, timeout=timeout, check=False, preexec_fn=_default_signals_and_leash
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"the server's stop command failed: {error}\n")
        return False
    return done.returncode == 0


def _signal(pids: Iterable[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _is_resource_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _wait_for_none(server: subprocess.Popen[bytes], timeout: float) -> None:
    """A process in the kernel's hands (a hung driver) cannot be waited for: the time is bounded."""
    deadline = time.monotonic() + timeout
    while (server.poll() is None or _has_children()) and time.monotonic() < deadline:
        _reap_orphans(server)
        time.sleep(0.02)


def _reap_orphans(server: subprocess.Popen[bytes]) -> None:
    """Collect descendants that were orphaned to us; the server itself is waited for by subprocess."""
    if server.poll() is not None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _wait_for_an_end(server: subprocess.Popen[bytes], before: set[str]) -> set[_File]:
    """Waits until pytest writes to the pipe or closes it, dies (a fork of it may still hold the pipe), or the server
    ends.

    Returns the shared memory that the server and its descendants had mapped.
    """
    watched, parent = os.pidfd_open(server.pid), os.getppid()
    looks: dict[str, int] = {}
    ours: set[_File] = set()
    log = BoundedLog(1)
    while not select.select([0, watched], [], [], _LOOK_S)[0] and os.getppid() == parent:
        new = [name for name in shared_memory() - before if looks.get(name, 0) < _LOOKS]
        if new:
            ours |= mapped_files(descendants(os.getpid()))
            looks |= {name: looks.get(name, 0) + 1 for name in new}
        log.check()
    os.close(watched)
    return ours | mapped_files(descendants(os.getpid()))


def shared_memory() -> set[str]:
    return {name for name in os.listdir(_SHM) if name.startswith(_SHM_PREFIXES)} if _SHM.is_dir() else set()


_File = tuple[int, int, int]
"""Major, minor, inode. Names will not do: a semaphore is mapped under the temporary name that it was made with."""


def mapped_files(pids: Iterable[int]) -> set[_File]:
    """The shared-memory files (and all others) that these processes have mapped."""
    files = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                device, inode = line.split(maxsplit=5)[3:5]
                major, minor = device.split(":")
                files.add((int(major, 16), int(minor, 16), int(inode)))
    return files


def remove_leftovers(before: set[str], ours: set[_File]) -> None:
    """Segments that came up during the server's life, that it had mapped, and that no living process has."""
    new = shared_memory() - before if ours else set()
    used = mapped_files(map(int, filter(str.isdigit, os.listdir("/proc")))) if new else set()
    for name in new:
        with contextlib.suppress(OSError):
            facts = (_SHM / name).stat()
            if (os.major(facts.st_dev), os.minor(facts.st_dev), facts.st_ino) in ours - used:
                (_SHM / name).unlink()


class Filter:
    """Hides secrets in bytes that come in pieces of any size."""

    def __init__(self, secrets: Sequence[str]) -> None:
        hidden = sorted((secret.encode("utf-8", "surrogateescape") for secret in secrets), key=len, reverse=True)
        self._secrets = re.compile(b"|".join(map(re.escape, hidden)))
        starts = {secret[:size] for secret in hidden for size in range(1, len(secret))}
        self._started = re.compile(rb"(?:%s)\Z" % b"|".join(map(re.escape, sorted(starts, key=len, reverse=True))))
        self._longest = len(hidden[0])
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Returns the text that can be written now: all but an end with which a secret may begin."""
        data = self._held + data
        begun = self._started.search(data, max(0, len(data) - self._longest))
        cut = begun.start() if begun else len(data)
        cut = max(
            (found.end() for found in self._secrets.finditer(data) if found.start() < cut < found.end()), default=cut
        )
        self._held = data[cut:]
        return self._secrets.sub(b"***", data[:cut])

    def end(self) -> bytes:
        """The rest."""
        return self._secrets.sub(b"***", self._held)


def _copy(source: int, sink: int, secrets: Sequence[str]) -> None:
    """Copies what a program writes into its log until nobody can write any more; a full disk does not stop it."""
    found = Filter(secrets)
    with os.fdopen(source, "rb", buffering=0) as file:
        while data := file.read(1 << 16):
            _write(sink, found.feed(data))
    _write(sink, found.end())
    os.close(sink)


def _write(sink: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(sink, data) :]


class BoundedLog:
    """A file that a server writes: its middle goes where it gets too large, so that the report has room on the disk."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._most = _MOST_LOG_BYTES
        with contextlib.suppress(OSError):
            disk = os.fstatvfs(descriptor)
            self._most = min(self._most, disk.f_bavail * disk.f_frsize // 4)
        self._kept = self._most // 4
        self._gone = 0

    def check(self) -> None:
        """Frees what lies between the beginning and the end; where the file system cannot, the log stays whole."""
        with contextlib.suppress(OSError):
            size = os.fstat(self._descriptor).st_size
            if size - self._gone <= self._most:
                return
            start, length = self._kept, size - 2 * self._kept
            sizes = (ctypes.c_long(start), ctypes.c_long(length))
            if ctypes.CDLL(None).fallocate(self._descriptor, _PUNCH_HOLE, *sizes) == 0:
                os.pwrite(self._descriptor, _LEFT_OUT, start)
            self._gone = length


@contextlib.contextmanager
def filtered(log: int, secrets: Sequence[str]) -> Iterator[int]:
    """The descriptor for a program whose output goes to `log`. On leaving, what it wrote is there."""
    if not secrets:
        yield log
        return
    source, sink = os.pipe()
    # A descriptor of its own: a late thread must not write to a file that is opened next under the same number.
    copier = threading.Thread(target=_copy, args=(source, os.dup(log), secrets), daemon=True)
    copier.start()
    try:
        yield sink
    finally:
        os.close(sink)
        copier.join(_DRAIN_S)


def main() -> int:
    job = json.loads(_first_line())
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # pytest blocks Ctrl-C while it starts us, and a mask is inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before = shared_memory()
    with filtered(1, job["secrets"]) as log:
        server = subprocess.Popen(
            job["argv"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_default_signals_and_leash,
        )
        ours = _wait_for_an_end(server, before)
        _take_down(server, job["grace_s"], job["stop_signal"], job["stop"])
        remove_leftovers(before, ours)
    with contextlib.suppress(OSError):
        os.unlink(job["secret_file"])
    code = server.poll()
    return 1 if code is None else code if code >= 0 else 128 - code


def _first_line() -> bytes:
    """Byte by byte, since what comes after it is for `_wait_for_an_end`. Exits when pytest is gone before its end."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)
        line += byte
    return line


def _default_signals_and_leash() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
