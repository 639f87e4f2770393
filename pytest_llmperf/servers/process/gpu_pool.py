"""GPUs of this machine for servers that are started here: one server each, and none that others compute on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pytest_llmperf import clock
from pytest_llmperf.errors import ServerError
from pytest_llmperf.servers.process.ports import program
from pytest_llmperf.telemetry.gpu import Gpu, ask_nvml, nvml_handle

_FOLDER = Path(tempfile.gettempdir()) / "llmperf-gpus"
_PAUSE_S = 0.5
_own_locks: set[Path] = set()
"""Locks that this process holds: waiting for them would be for ever, where it is done in the thread that is to end."""
_SETTLE_S = 2.0
"""Time that a driver may take to free the memory of a server that has just ended."""


@dataclass(frozen=True, slots=True)
class GpuSharing:
    """The limits for a machine whose GPUs others use too."""

    wait_s: float = 1800.0
    """Longest wait for GPUs that other sessions hold, in seconds."""
    busy_share: float = 0.1
    """A GPU of whose memory others use more than this share (0 to 1) is avoided."""


SHARING = GpuSharing()
"""The default, where a plan gives no limits."""


@contextlib.contextmanager
def held_gpus(gpus: Sequence[Gpu], count: int, sharing: GpuSharing) -> Iterator[tuple[Gpu, ...]]:
    """Holds `count` of `gpus` that are free, the first ones in order; nobody else gets them meanwhile.

    A GPU is locked by a file that the kernel unlocks when its owner ends, however that is. Containers that do not
    share the temporary folder do not see each other's locks, only each other's use of memory. Raises ServerError that
    says who has the GPUs that are not free, at once where no wait can help.
    """
    begun = clock.monotonic()
    with contextlib.ExitStack() as stack:
        while True:
            taken, refused = _free(gpus, count, sharing.busy_share, stack)
            if len(taken) == count:
                yield taken
                return
            stack.close()
            longest_s = max(_SETTLE_S, sharing.wait_s if any(refusal.by_session for refusal in refused) else 0.0)
            if clock.monotonic() - begun >= longest_s:
                why = "; ".join(refusal.reason for refusal in refused)
                raise ServerError(f"needs {count} of {len(gpus)} GPUs, and {len(taken)} free: {why}")
            time.sleep(_PAUSE_S)


class _Refusal(NamedTuple):
    by_session: bool
    """Another session of ours has the GPU, and gives it back when it ends."""
    reason: str


def _free(
    gpus: Sequence[Gpu], count: int, busy_share: float, stack: contextlib.ExitStack
) -> tuple[tuple[Gpu, ...], list[_Refusal]]:
    """Locks GPUs that are free, until there are `count`, for as long as `stack` lasts."""
    taken: list[Gpu] = []
    refused: list[_Refusal] = []
    for gpu in gpus:
        if len(taken) == count:
            break
        with contextlib.ExitStack() as lock:
            if refusal := _lock(gpu, lock) or _foreign_use(gpu, busy_share):
                refused.append(refusal)
            else:
                taken.append(gpu)
                stack.push(lock.pop_all())
    return tuple(taken), refused


def _lock(gpu: Gpu, stack: contextlib.ExitStack) -> _Refusal | None:
    """Locks the GPU for as long as `stack` lasts; says who has it when that is somebody else."""
    path = _FOLDER / f"{gpu.uuid or gpu.device}.lock".replace("/", "-")
    file = stack.enter_context(_lock_file(gpu, path))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if path in _own_locks:
            return _Refusal(False, f"GPU {gpu.device} is held by another server of this process")
        owner = file.readline(20).strip()
        by = _process_name(int(owner)) if owner.isdigit() else "another session"
        return _Refusal(True, f"GPU {gpu.device} is held by {by}")
    with contextlib.suppress(OSError):  # read-only where another user made it
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    _own_locks.add(path)
    stack.callback(_own_locks.discard, path)
    return None


def _lock_file(gpu: Gpu, path: Path) -> TextIO:
    """Opens the lock of a GPU; everybody on the machine may, and no link is followed. Raises ServerError."""
    try:
        with contextlib.suppress(FileExistsError):
            _FOLDER.mkdir()
            _FOLDER.chmod(0o1777)
        return _opened(path)
    except OSError as error:
        raise ServerError(f"the lock of GPU {gpu.device} cannot be used: {path}: {error.strerror}") from error


def _opened(path: Path) -> TextIO:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666), "r+")
    except PermissionError:  # another user's
        return os.fdopen(os.open(path, os.O_RDONLY | flags))


def _foreign_use(gpu: Gpu, busy_share: float) -> _Refusal | None:
    """Says how much memory others use on a GPU, and which processes; None when that is `busy_share` at most."""
    use = ask_nvml(lambda nvml: _memory_use(nvml, nvml_handle(nvml, gpu)))
    if use is None or use.used <= busy_share * use.total:
        return None
    by = f" by {', '.join(map(_process_name, use.pids))}" if use.pids else ""
    size = f"{use.used / 2**30:.1f} of {use.total / 2**30:.1f} GiB"
    return _Refusal(False, f"GPU {gpu.device} is busy: {size} in use{by}")


class _MemoryUse(NamedTuple):
    used: int
    """Bytes."""
    total: int
    """Bytes."""
    pids: tuple[int, ...]
    """Processes that compute on it; containers hide those of others."""


def _memory_use(nvml: Any, handle: Any) -> _MemoryUse:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    pids = tuple(process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    return _MemoryUse(memory.used, memory.total, pids)


def _process_name(pid: int) -> str:
    name = program(pid)
    return f"{name} ({pid})" if name else f"process {pid}"
