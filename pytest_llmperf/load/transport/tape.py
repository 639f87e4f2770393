"""The reads of each response, kept as bytes: in memory up to a limit, what is more in a file that has no name.

Python objects for the same facts would take three times the memory, and a long run has millions of chunks.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import tempfile
import warnings
from collections import deque
from itertools import accumulate
from typing import IO, NamedTuple

import numpy as np

KEPT_BYTES = 256 * 1024 * 1024
"""Most bytes of all tapes of a process together; about a million chunks."""

READ_SIZE = 8 * 1024
"""Bytes of a socket's read at most."""
STAMP_SIZE = struct.calcsize("@ll")
"""Size of a `struct timespec`."""
_HEAD = struct.Struct(f"={STAMP_SIZE}sqI")
_HEAD_FIELDS = np.dtype([("s", "l"), ("ns", "l"), ("user_ns", "=i8"), ("size", "=u4")])
_pack = _HEAD.pack
_OVERHEAD = _HEAD.size + sys.getsizeof(b"") + 8
"""Bytes that a read takes besides its own."""


class Reads(NamedTuple):
    """Reads of a socket, in order."""

    kernel_ns: tuple[int, ...] = ()
    """0 where the kernel gave no stamp."""
    user_ns: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    """Offset in the body of the end of each read."""
    body: bytes = b""


class Tape:
    """The reads of one response, in order."""

    __slots__ = ("_heads", "_moved", "_pieces", "_store", "unstamped")

    def __init__(self, store: Store) -> None:
        self.unstamped = 0
        """Reads without a stamp from the kernel."""
        self._store = store
        self._heads = bytearray()
        self._pieces: list[bytes] = []  # one growing buffer would be copied again and again
        self._moved: list[tuple[int, int, int]] = []  # where in the file, how many bytes of heads and of body

    @property
    def count(self) -> int:
        return (len(self._heads) + sum(heads for _, heads, _ in self._moved)) // _HEAD.size

    def is_larger_than(self, most_bytes: int, longest_read: int) -> bool:
        """True if it holds more body than `most_bytes`; bytes are only added up once the reads could be that many."""
        if self.count * longest_read <= most_bytes:
            return False
        return sum(body for _, _, body in self._moved) + sum(map(len, self._pieces)) > most_bytes

    def add(self, stamp: bytes, user_ns: int, piece: bytes) -> None:
        """`stamp` is the kernel's `struct timespec` as it came; empty where none did."""
        if not self._heads:
            self._store.holding.append(self)
        self._heads += _pack(stamp, user_ns, len(piece))
        self._pieces.append(piece)
        if not stamp:
            self.unstamped += 1
        self._store.kept_bytes += _OVERHEAD + len(piece)

    def move(self) -> None:
        """Moves what it holds to the store's file. Raises OSError with nothing lost."""
        body = b"".join(self._pieces)
        self._moved.append((self._store.write(self._heads + body), len(self._heads), len(body)))
        self._store.kept_bytes -= len(self._pieces) * _OVERHEAD + len(body)
        self._heads, self._pieces = bytearray(), []

    def reads(self) -> Reads:
        """The reads of a response, from memory or disk. Raises OSError."""
        heads, pieces = b"", list[bytes]()
        for at, heads_size, body_size in self._moved:
            both = self._store.read(at, heads_size + body_size)
            heads += both[:heads_size]
            pieces.append(both[heads_size:])
        table = np.frombuffer(heads + self._heads, dtype=_HEAD_FIELDS)
        kernel_ns = table["s"].astype("=i8") * 1_000_000_000 + table["ns"]
        ends = accumulate(table["size"].tolist())
        body = b"".join((*pieces, *self._pieces))
        return Reads(tuple(kernel_ns.tolist()), tuple(table["user_ns"].tolist()), tuple(ends), body)


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
        for _ in range(len(self.holding)):  # those that are filled meanwhile have their turn later
            if self.kept_bytes <= self._limit_bytes / 2:
                return
            try:
                self.holding[0].move()
            except OSError as error:
                self._limit_bytes = float("inf")
                _warn(f"raw capture stays in memory, its file cannot be written: {error}")
                return
            self.holding.popleft()
            await asyncio.sleep(0)

    def write(self, data: bytearray) -> int:
        """Appends to the file; returns the offset. Raises OSError."""
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


def _warn(text: str) -> None:
    """Warns, where a filter makes errors of warnings (`-W error`) too: what was received is worth more."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.warn(text, stacklevel=3)


def _folder() -> str | None:
    """/tmp is memory on many systems."""
    return None if "TMPDIR" in os.environ or not os.access("/var/tmp", os.W_OK) else "/var/tmp"
