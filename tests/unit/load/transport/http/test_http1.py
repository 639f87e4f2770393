"""HTTP/1.1 reader: exact framing however the bytes are cut, and clear errors."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.transport.http.http1 import ProtocolError, ResponseReader

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

WHOLE = {
    "chunked": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 200, b"hello world"),
    "extensions": (CHUNKED + b'5;a=1;b="x"\r\nhello\r\n0;last\r\n\r\n', 200, b"hello"),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nServer-Timing: a\r\nX: y\r\n\r\n", 200, b"hello"),
    "hex sizes": (
        CHUNKED + b"00A\r\n0123456789\r\n1f\r\n" + b"z" * 31 + b"\r\n0\r\n\r\n",
        200,
        b"0123456789" + b"z" * 31,
    ),
    "body that looks like the end": (CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", 200, b"\r\n0\r\n\r\n"),
    "content-length": (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\nbusy", 503, b"busy"),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "interim responses": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        200,
        b"ok",
    ),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
    "bare line feeds in the head": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, b"ok"),
    "other letters": (
        b"HTTP/1.1 200 ok\r\nTRANSFER-ENCODING: Chunked\r\nconnection: Keep-Alive\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        200,
        b"hello",
    ),
    "HTTP/1.0 that stays": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        200,
        b"ok",
    ),
    "length twice the same": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
}


def _read(pieces: list[bytes]) -> tuple[ResponseReader, bytes]:
    reader = ResponseReader()
    return reader, b"".join([reader.feed(piece) for piece in pieces])


def _cuts(stream: bytes) -> list[list[bytes]]:
    two = [[stream[:cut], stream[cut:]] for cut in range(len(stream) + 1)]
    return [[stream], [stream[i : i + 1] for i in range(len(stream))], *two]


@pytest.mark.parametrize(("stream", "status", "body"), WHOLE.values(), ids=WHOLE)
def test_responses_do_not_depend_on_the_cuts(stream: bytes, status: int, body: bytes) -> None:
    for pieces in _cuts(stream):
        reader, got = _read(pieces)
        assert (reader.complete, reader.status, got) == (True, status, body)
        assert reader.keep_alive
        reader.feed_eof()


@pytest.mark.parametrize(("stream", "status", "body"), WHOLE.values(), ids=WHOLE)
def test_complete_exactly_at_the_last_byte(stream: bytes, status: int, body: bytes) -> None:
    reader, _ = _read([stream[:-1]])
    assert not reader.complete
    with pytest.raises(ProtocolError, match="connection closed by the server in the middle"):
        reader.feed_eof()


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40)),
    cuts=st.lists(st.integers(min_value=0, max_value=3000)),
)
def test_any_chunks_in_any_cuts(chunks: list[bytes], cuts: list[int]) -> None:
    stream = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    bounds = [0, *sorted(cuts), len(stream)]
    reader, body = _read([stream[a:b] for a, b in itertools.pairwise(bounds)])
    assert reader.complete
    assert body == b"".join(chunks)


def test_body_bytes_come_with_the_read_that_held_them() -> None:
    reader = ResponseReader()
    reads = [CHUNKED + b"2\r\nab", b"\r\n3\r\ncde\r\n", b"4\r\nfghi\r\n", b"0\r\n", b"\r", b"\n"]
    assert [reader.feed(read) for read in reads] == [b"ab", b"cde", b"fghi", b"", b"", b""]
    assert reader.complete


def test_until_close_ends_at_eof() -> None:
    reader, body = _read([b"HTTP/1.1 200 OK\r\n\r\nabc", b"def"])
    assert not reader.complete
    reader.feed_eof()
    assert reader.complete
    assert body == b"abcdef"
    assert not reader.keep_alive


def test_headers_are_lower_case_and_joined() -> None:
    reader, _ = _read([b"HTTP/1.1 200 OK\r\nX-A: 1 \r\nx-a:\t2\r\nContent-Length: 0\r\n\r\n"])
    assert reader.headers == {"x-a": "1, 2", "content-length": "0"}


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nbytes that nobody asked for",
    ],
)
def test_connection_that_cannot_be_used_again(head: bytes) -> None:
    reader, body = _read([head])
    assert reader.complete
    assert body == b""
    assert not reader.keep_alive


def test_late_surplus_is_no_body() -> None:
    reader, _ = _read([CHUNKED + b"0\r\n\r\n"])
    assert reader.feed(b"surplus") == b""
    assert not reader.keep_alive


def test_eof_before_anything() -> None:
    with pytest.raises(ProtocolError, match="before any response"):
        ResponseReader().feed_eof()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP/1.1 status line: b'SSH-2.0"),
        (b"HTTP/2 200\r\n\r\n", "status line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "switches protocols"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "not a header line: b'no colon'"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "not a header line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "not a content-length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not a content-length: '-1'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "not supported"),
        (CHUNKED + b"0x5\r\nhello\r\n", "not a chunk size: b'0x5'"),
        (CHUNKED + b"+5\r\nhello\r\n", "not a chunk size"),
        (CHUNKED + b"1_0\r\nhello\r\n", "not a chunk size"),
        (CHUNKED + b"\r\nhello\r\n", "not a chunk size"),
        (CHUNKED + b"5\nhello\n0\n\n", r"ends without a carriage return: b'5\\n'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "'chunked, chunked'"),
        (CHUNKED + b"11111111111111111\r\n", "not a chunk size"),
        (CHUNKED + b"5\r\nhello!\r\n", "instead of a line end"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, "the head of the response is longer"),
        (CHUNKED + b"5;" + b"x" * 5000, "a line of the chunked body of the response is longer"),
    ],
)
def test_malformed(stream: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        ResponseReader().feed(stream)
    if len(stream) < 1000:
        with pytest.raises(ProtocolError, match=message):
            _read([stream[i : i + 1] for i in range(len(stream))])
