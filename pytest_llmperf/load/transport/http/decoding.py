"""Bodies that a server or a proxy has compressed though nobody asked for it. Runs after the load; pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import accumulate, pairwise

from pytest_llmperf.load.transport.tape import Reads

MOST_BYTES = 64 << 20
"""The most that one body may be when decoded: a few kilobytes can hold gigabytes of zeros."""
_GZIP, _ZLIB, _BARE = 31, 15, -15
"""zlib's names for its containers."""


class Undecodable(ValueError):
    """The body is not what its headers say, or nothing that we can decode."""


def decoded(reads: Reads, coding: str) -> tuple[Reads, str | None]:
    """The reads with decoded bodies, each with what its own bytes gave, and what went wrong.

    `coding` is the response's content-encoding. What was decoded before an error is kept.
    """
    pieces: list[bytes] = []
    error = None
    try:
        for piece in _decoded_pieces(reads, coding):
            pieces.append(piece)
    except Undecodable as problem:
        error = f"content-encoding {coding[:40]!r}, which nobody asked for: {problem}"
    pieces += [b""] * (len(reads.ends) - len(pieces))
    return reads._replace(ends=tuple(accumulate(map(len, pieces))), body=b"".join(pieces)), error


def _decoded_pieces(reads: Reads, coding: str) -> Iterator[bytes]:
    """One per read. Raises Undecodable."""
    layers = [_Layer(name) for name in reversed(_names(coding))]
    left = MOST_BYTES
    for begin, end in pairwise((0, *reads.ends)):
        piece = reads.body[begin:end]
        for layer in layers:
            piece = layer.feed(piece, left)
        left -= len(piece)
        yield piece


def is_encoded(coding: str) -> bool:
    """True if the response's content-encoding changes the body."""
    return bool(_names(coding))


def _names(coding: str) -> list[str]:
    names = (name.strip().lower() for name in coding.split(","))
    return [name for name in names if name not in ("", "identity")]


class _Layer:
    """One content coding while its bytes come. Raises Undecodable for a coding of another name."""

    def __init__(self, name: str) -> None:
        if name not in ("gzip", "x-gzip", "deflate"):
            raise Undecodable(f"{name} is not supported (gzip and deflate are); turn compression off")
        self._is_gzip = name != "deflate"
        self._waiting = b""
        """The first bytes, until they show the container."""
        self._zlib = zlib.decompressobj(_GZIP) if self._is_gzip else None

    def feed(self, data: bytes, most: int) -> bytes:
        """Decodes these bytes, as far as they can be yet. Raises Undecodable, also for more than `most` bytes."""
        if self._zlib is None:
            data = self._waiting = self._waiting + data
            if len(data) < 2:
                return b""
            # The standard puts `deflate` into zlib's container; some servers send it bare.
            has_zlib_head = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._zlib = zlib.decompressobj(_ZLIB if has_zlib_head else _BARE)
        found: list[bytes] = []
        while data:
            if self._zlib.eof:
                if not self._is_gzip or not data.startswith(b"\x1f"):
                    break  # padding
                self._zlib = zlib.decompressobj(_GZIP)  # gzip files in a row are one
            found.append(self._inflated(self._zlib, data, most))
            most -= len(found[-1])
            data = self._zlib.unused_data
        return b"".join(found)

    def _inflated(self, stream: zlib._Decompress, data: bytes, most: int) -> bytes:
        try:
            piece = stream.decompress(data, most + 1)
        except zlib.error as error:
            raise Undecodable(str(error)) from error
        if len(piece) > most:
            raise Undecodable(f"the body is more than {MOST_BYTES >> 20} MiB when decoded")
        return piece
