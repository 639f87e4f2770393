"""HTTP/1.1 responses, sans I/O: raw reads in, status, headers and exactly framed body bytes out (RFC 9112).

Own code instead of h11, because it runs once per token: the usual read, exactly one chunk, takes a short cut.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*")
_HEX = b"0123456789abcdefABCDEF"
_MAX_HEAD = 64 * 1024
_MAX_LINE = 4 * 1024


class ProtocolError(Exception):
    """The peer does not speak HTTP/1.1 as it should; the message says what was seen."""


class ResponseReader:
    """Reads one response. Feed it every read in order; `complete` is true from the read that held the last byte."""

    __slots__ = (
        "_between_chunks",
        "_buffer",
        "_left",
        "_scanned",
        "_step",
        "chunks",
        "complete",
        "headers",
        "keep_alive",
        "status",
        "until_close",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = MappingProxyType({})
        """Lower-case names; values of repeated headers joined with ", "."""
        self.complete = False
        self.keep_alive = False
        """True if the connection may carry another request after this response."""
        self.until_close = False
        self.chunks = 0
        """Number of chunks that began in the last read; 0 where it is exactly one."""
        self._buffer = bytearray()
        self._scanned = 0
        self._left = 0  # bytes to come of the body (content-length) or of the chunk
        self._between_chunks = False
        self._step: Callable[[list[bytes]], bool] = self._head

    @property
    def streaming(self) -> bool:
        """True if the next byte begins a chunk, or the end of them."""
        return self._between_chunks and not self._buffer

    def one_chunk(self, data: bytes) -> bytes | None:
        """The body bytes of a read that is exactly one chunk, as nearly every read of a stream is; else None, and
        nothing has happened."""
        if not self._between_chunks or self._buffer:
            return None
        size = len(data)
        head = _HEADS.get(size) or _remembered_head(size)
        if data.startswith(head) and data.endswith(b"\r\n"):
            return data[len(head) : -2]
        return None

    def feed(self, data: bytes) -> bytes:
        """The body bytes in this read. Raises ProtocolError on anything malformed."""
        self.chunks = 0
        piece = self.one_chunk(data)
        if piece is not None:
            return piece
        self._buffer += data
        body: list[bytes] = []
        while self._step(body):
            pass
        return body[0] if len(body) == 1 else b"".join(body)

    def feed_eof(self) -> None:
        """The peer closed: the regular end of a body without framing, a ProtocolError anywhere else."""
        if self.until_close:
            self.complete = True
        if not self.complete:
            where = "in the middle of the response" if self.status or self._buffer else "before any response"
            raise ProtocolError(f"connection closed by the server {where}")

    # Each step takes what it can from the buffer and says whether another step may follow.

    def _head(self, body: list[bytes]) -> bool:
        end = _HEAD_END.search(self._buffer, max(self._scanned - 3, 0))
        if end is None:
            self._scanned = len(self._buffer)
            self._check_limit(_MAX_HEAD, "the head")
            return False
        head = _parse_head(bytes(self._buffer[: end.start()]))
        self._consume(end.end())
        if head.status >= 200:
            self.status, self.headers = head.status, head.headers
            self._choose_framing(http_1_0=head.http_1_0)
        return True

    def _choose_framing(self, http_1_0: bool) -> None:
        connection = {token.strip().lower() for token in self.headers.get("connection", "").split(",")}
        self.keep_alive = "keep-alive" in connection if http_1_0 else "close" not in connection
        coding = self.headers.get("transfer-encoding", "").lower()
        if self.status in (204, 304):
            self._finish()
        elif coding == "chunked":
            self._expect_chunk()
        elif coding:
            raise ProtocolError(f"transfer-encoding {coding!r} is not supported")
        elif "content-length" in self.headers:
            self._left = _parse_length(self.headers["content-length"])
            self._step = self._sized
        else:
            self.until_close = True
            self.keep_alive = False
            self._step = self._rest

    def _sized(self, body: list[bytes]) -> bool:
        self._take(body)
        if self._left == 0:
            self._finish()
        return False

    def _rest(self, body: list[bytes]) -> bool:
        self._left = len(self._buffer)
        self._take(body)
        return False

    def _expect_chunk(self) -> None:
        self._between_chunks = True
        self._step = self._chunk_size

    def _chunk_size(self, body: list[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        self._between_chunks = False
        self.chunks += 1
        self._left = _parse_chunk_size(line)
        self._step = self._chunk_data if self._left else self._trailer
        return True

    def _chunk_data(self, body: list[bytes]) -> bool:
        self._take(body)
        if self._left == 0:
            self._step = self._chunk_end
        return self._left == 0

    def _chunk_end(self, body: list[bytes]) -> bool:
        if len(self._buffer) < 2:
            return False
        if not self._buffer.startswith(b"\r\n"):
            raise ProtocolError(f"a chunk is followed by {bytes(self._buffer[:8])!r} instead of a line end")
        self._consume(2)
        self._expect_chunk()
        return True

    def _trailer(self, body: list[bytes]) -> bool:
        line = self._line()
        if line:
            return True
        if line is not None:
            self._finish()
        return False

    def _finish(self) -> None:
        self.complete = True
        self._step = self._surplus
        if self._buffer:
            self._surplus([])

    def _surplus(self, body: list[bytes]) -> bool:
        """Bytes after the end: this response is whole, but the connection can't be trusted with another."""
        if self._buffer:
            self.keep_alive = False
            self._buffer.clear()
        return False

    def _take(self, body: list[bytes]) -> None:
        piece = bytes(self._buffer[: self._left])
        if piece:
            body.append(piece)
            self._consume(len(piece))
            self._left -= len(piece)

    def _line(self) -> bytes | None:
        """The next line without its CRLF; None when it is not complete yet."""
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._buffer)
            self._check_limit(_MAX_LINE, "a line of the chunked body")
            return None
        line = bytes(self._buffer[: end + 1])
        if not line.endswith(b"\r\n"):
            raise ProtocolError(f"a line of the chunked body ends without a carriage return: {line[:40]!r}")
        self._consume(end + 1)
        return line[:-2]

    def _consume(self, count: int) -> None:
        del self._buffer[:count]
        self._scanned = 0

    def _check_limit(self, limit: int, what: str) -> None:
        if len(self._buffer) > limit:
            raise ProtocolError(f"{what} of the response is longer than {limit} bytes")


_HEADS: dict[int, bytes] = {}
"""The size line of the only chunk in a read, by the read's size."""
_NO_HEAD = b"\n"


def _remembered_head(size: int) -> bytes:
    """One that no read begins with when no chunk makes a read of this size."""
    _HEADS[size] = next((head for digits in range(1, 16) if (head := _head(size, digits))), _NO_HEAD)
    return _HEADS[size]


def _head(size: int, digits: int) -> bytes:
    length = size - digits - 4
    return b"%x\r\n" % length if length > 0 and len(f"{length:x}") == digits else b""


def _parse_chunk_size(line: bytes) -> int:
    size = line.partition(b";")[0].rstrip(b" \t")
    # int() alone would take "+5", "0x5" and "1_0"
    if not size or len(size) > 16 or size.strip(_HEX):
        raise ProtocolError(f"not a chunk size: {line[:40]!r}")
    return int(size, 16)


def _parse_length(value: str) -> int:
    lengths = {part.strip() for part in value.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()):
        raise ProtocolError(f"not a content-length: {value[:40]!r}")
    return int(length)


class _Head(NamedTuple):
    http_1_0: bool
    status: int
    headers: Mapping[str, str]


# Hundreds of streams may begin within a few milliseconds, and then their heads differ in an id at most.
@functools.lru_cache(maxsize=64)
def _parse_head(head: bytes) -> _Head:
    lines = _LINE_END.split(head)
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise ProtocolError(f"not an HTTP/1.1 status line: {lines[0][:80]!r}")
    status = int(status_line[2])
    if status == 101:
        raise ProtocolError("the server switches protocols (101) unasked")
    headers = _parse_headers(lines[1:]) if status >= 200 else {}
    return _Head(status_line[1] == b"0", status, MappingProxyType(headers))


def _parse_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise ProtocolError(f"not a header line: {line[:80]!r}")
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
