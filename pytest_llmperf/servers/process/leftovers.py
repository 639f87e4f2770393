"""Cleans up after a supervisor that was killed itself: its processes are known by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

from pytest_llmperf import clock
from pytest_llmperf.servers.process.supervisor import mapped_files, remove_leftovers, shared_memory

_NAME = "LLMPERF_LAUNCH"
_TIMEOUT_S = 10.0


class Mark:
    """The mark of one launch, in the environment of the server and of all that it starts."""

    def __init__(self) -> None:
        self.value = uuid.uuid4().hex
        self._before = shared_memory()

    @property
    def environ(self) -> dict[str, str]:
        return {_NAME: self.value}

    def clear(self) -> None:
        """Kills what carries the mark, and removes the shared memory that it had mapped."""
        left = self._processes()
        ours = mapped_files(left)
        deadline = clock.monotonic() + _TIMEOUT_S
        while left and clock.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
            left = self._processes()
        remove_leftovers(self._before, ours)

    def _processes(self) -> set[int]:
        """Process ids of the living processes with the mark; none without /proc."""
        wanted, found = f"{_NAME}={self.value}".encode(), set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
        return found
