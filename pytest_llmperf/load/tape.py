"""What came of each response, kept as bytes: in memory up to a limit, what is more in a file that has no name.

Python objects for the same facts would take three times the memory, and a long run has millions of chunks.
"""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator
from typing import IO, NamedTuple

KEPT_BYTES = 256 * 1024 * 1024
"""Of all tapes of a process together; about a million chunks."""

_HEAD = struct.Struct("=qqI")


class Read(NamedTuple):
    """One read of a socket. The kernel's stamp is 0 where it gave none."""

    kernel_ns: int
    user_ns: int
    piece: bytes
    """Of the response's body."""


class Tape:
    """The reads of one response, in order."""

    __slots__ = ("_bytes", "_moved", "_store", "count", "unstamped")

    def __init__(self, store: Store) -> None:
        self.count = 0
        self.unstamped = 0
        """Reads without a stamp from the kernel."""
        self._store = store
        self._bytes = bytearray()
        self._moved: list[tuple[int, int]] = []  # where in the file, how many bytes

    def add(self, kernel_ns: int, user_ns: int, piece: bytes) -> None:
        if not self._bytes:
            self._store.holding.append(self)
        self._bytes += _HEAD.pack(kernel_ns, user_ns, len(piece))
        self._bytes += piece
        self.count += 1
        self.unstamped += not kernel_ns
        self._store.kept_bytes += _HEAD.size + len(piece)

    def move(self) -> None:
        """What it holds goes to the store's file. Raises OSError with nothing lost."""
        self._moved.append((self._store.write(self._bytes), len(self._bytes)))
        self._store.kept_bytes -= len(self._bytes)
        self._bytes = bytearray()

    def reads(self) -> Iterator[Read]:
        """From memory or disk, one response's worth at a time. Raises OSError."""
        data = b"".join([*(self._store.read(at, size) for at, size in self._moved), self._bytes])
        at = 0
        while at < len(data):
            kernel_ns, user_ns, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size + size
            yield Read(kernel_ns, user_ns, data[at - size : at])


class Store:
    """The tapes of a load; use as a context manager. Its file is unlinked from the start, so that nothing survives."""

    def __init__(self, limit_bytes: int) -> None:
        self.kept_bytes = 0
        self.holding: deque[Tape] = deque()
        """Tapes with something in memory, the oldest first."""
        self._limit_bytes: float = limit_bytes
        self._file: IO[bytes] | None = None
        self._end = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    async def relieve(self) -> None:
        """Moves the oldest tapes to the file when more is kept than the limit, until half of it is left.

        In small steps between which tokens are received; a disk that is too slow shows as loop lag.
        """
        if self.kept_bytes <= self._limit_bytes:
            return
        while self.holding and self.kept_bytes > self._limit_bytes / 2:
            try:
                self.holding[0].move()
            except OSError as error:
                self._limit_bytes = float("inf")
                warnings.warn(f"raw capture stays in memory, its file cannot be written: {error}", stacklevel=1)
                return
            self.holding.popleft()
            await asyncio.sleep(0)

    def write(self, data: bytearray) -> int:
        """Where in the file it is now. Raises OSError."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="llmperf-", dir=_folder(), buffering=0)  # noqa: SIM115 - __exit__ closes it
        start, left = self._end, memoryview(data)
        while left:
            left = left[os.pwrite(self._file.fileno(), left, start + len(data) - len(left)) :]
        self._end += len(data)
        return start

    def read(self, at: int, size: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file.fileno(), size, at)


def _folder() -> str | None:
    """/tmp is memory on many systems."""
    return None if "TMPDIR" in os.environ or not os.access("/var/tmp", os.W_OK) else "/var/tmp"
