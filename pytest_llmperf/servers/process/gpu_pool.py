"""GPUs of this machine for servers that are started here: one server each, and none that others compute on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from pytest_llmperf.errors import ServerError
from pytest_llmperf.telemetry.gpu import Gpu, ask_nvml, nvml_handle

_FOLDER = Path(tempfile.gettempdir()) / "llmperf-gpus"
_PAUSE_S = 0.5
_SETTLE_S = 2.0
"""How long a driver may take to free the memory of a server that has just ended."""


class GpuPool:
    """The GPUs that servers of this session may use, shared with other processes on this machine.

    A GPU in use is locked by a file that the kernel unlocks when its owner ends, however that is. Containers that do
    not share the temporary folder do not see each other's locks, but each other's memory.
    """

    def __init__(self, gpus: Sequence[Gpu], *, wait_s: float = 0.0, busy_share: float = 0.1) -> None:
        """`wait_s`: how long to wait for GPUs that other sessions hold.

        A GPU of whose memory others use more than `busy_share` (0 to 1) is avoided.
        """
        self.gpus = tuple(gpus)
        self._wait_s, self._busy_share = wait_s, busy_share

    @contextlib.contextmanager
    def held(self, count: int) -> Iterator[tuple[Gpu, ...]]:
        """Holds `count` free GPUs, the first ones in order. Raises ServerError that says who has those that are not."""
        with contextlib.ExitStack() as stack:
            yield self._taken(count, stack) if count else ()

    def _taken(self, count: int, stack: contextlib.ExitStack) -> tuple[Gpu, ...]:
        begun = time.monotonic()
        while True:
            with contextlib.ExitStack() as attempt:
                taken, refused = self._free(count, attempt)
                if len(taken) == count:
                    stack.push(attempt.pop_all())
                    return taken
            patience_s = max(_SETTLE_S, self._wait_s if any(held for held, _ in refused) else 0.0)
            if time.monotonic() - begun >= patience_s:
                why = "; ".join(reason for _, reason in refused)
                raise ServerError(f"needs {count} of {len(self.gpus)} GPUs, and {len(taken)} free: {why}")
            time.sleep(_PAUSE_S)

    def _free(self, count: int, stack: contextlib.ExitStack) -> tuple[tuple[Gpu, ...], list[tuple[bool, str]]]:
        """Locks GPUs that are free until there are `count`; of the others, whether a session holds them, and who."""
        taken: list[Gpu] = []
        refused = []
        for gpu in self.gpus:
            if len(taken) == count:
                break
            with contextlib.ExitStack() as lock:
                if owner := _lock(gpu, lock):
                    refused.append((True, f"GPU {gpu.device} is held by {owner}"))
                elif use := ask_nvml(lambda nvml, gpu=gpu: _foreign_use(nvml, gpu, self._busy_share)):
                    refused.append((False, f"GPU {gpu.device} is busy: {use}"))
                else:
                    taken.append(gpu)
                    stack.push(lock.pop_all())
        return tuple(taken), refused


def _lock(gpu: Gpu, stack: contextlib.ExitStack) -> str | None:
    """Locks the GPU for as long as `stack` lasts. Returns who has it when that is somebody else."""
    file = stack.enter_context(_lock_file(gpu))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = file.readline(20).strip()
        return _process_name(int(owner)) if owner.isdigit() else "another session"
    with contextlib.suppress(OSError):  # read-only where another user made it
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    return None


def _lock_file(gpu: Gpu) -> TextIO:
    """Opens the lock of a GPU; everybody on the machine may, and no link is followed. Raises ServerError."""
    path = _FOLDER / f"{gpu.uuid or gpu.device}.lock".replace("/", "-")
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


def _foreign_use(nvml: Any, gpu: Gpu, busy_share: float) -> str | None:
    """Says how much memory others use on a GPU, and which processes; None when that is `busy_share` at most."""
    handle = nvml_handle(nvml, gpu)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    if memory.used <= busy_share * memory.total:
        return None
    pids = [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    by = f" by {', '.join(map(_process_name, pids))}" if pids else ""
    return f"{memory.used / 2**30:.1f} of {memory.total / 2**30:.1f} GiB in use{by}"


def _process_name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({pid})"
    return f"process {pid}"
