"""Bodies that were compressed unasked: decoded read by read, within bounds, or told why not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.transport.http import decoding
from pytest_llmperf.load.transport.http.decoding import decoded, is_encoded
from pytest_llmperf.load.transport.tape import Reads

EVENTS = [b'data: {"a": "%d"}\n\n' % number for number in range(5)]
BODY = b"".join(EVENTS)


def _flushed(wbits: int) -> list[bytes]:
    """One piece per event, as a proxy that flushes sends them, and the end."""
    stream = zlib.compressobj(wbits=wbits)
    pieces = [stream.compress(event) + stream.flush(zlib.Z_SYNC_FLUSH) for event in EVENTS]
    return [*pieces, stream.flush()]


def _reads(pieces: list[bytes]) -> Reads:
    body = b"".join(pieces)
    ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
    times = tuple(range(1, len(pieces) + 1))
    return Reads(times, times, tuple(ends), body)


def _pieces(reads: Reads) -> list[bytes]:
    begins = (0, *reads.ends)
    return [reads.body[begin:end] for begin, end in zip(begins, reads.ends, strict=False)]


@pytest.mark.parametrize(
    ("coding", "wbits"), [("gzip", 31), ("X-GZIP", 31), ("deflate", 15), ("Deflate", -15), ("identity, gzip", 31)]
)
def test_each_read_gives_what_its_bytes_hold(coding: str, wbits: int) -> None:
    reads, error = decoded(_reads(_flushed(wbits)), coding)
    assert error is None
    assert _pieces(reads) == [*EVENTS, b""]
    assert reads.kernel_ns == (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, zlib.compress, lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]) + b"\0\0"],
)
def test_the_cuts_of_the_reads_do_not_matter(compress: Callable[[bytes], bytes]) -> None:
    packed = compress(BODY)
    coding = "gzip" if packed.startswith(b"\x1f") else "deflate"
    cuts = [[packed[:cut], packed[cut:]] for cut in range(len(packed) + 1)]
    for pieces in ([packed], [packed[i : i + 1] for i in range(len(packed))], *cuts):
        reads, error = decoded(_reads(pieces), coding)
        assert (reads.body, error, len(reads.ends)) == (BODY, None, len(pieces))


@given(st.binary(max_size=500), st.lists(st.integers(1, 50), max_size=10))
def test_codings_one_in_another(body: bytes, sizes: list[int]) -> None:
    packed, pieces = gzip.compress(zlib.compress(body)), []
    for size in sizes:
        pieces.append(packed[:size])
        packed = packed[size:]
    reads, error = decoded(_reads([*pieces, packed]), "deflate, gzip")
    assert (reads.body, error) == (body, None)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "compress"])
def test_an_encoding_that_we_do_not_know_is_told_by_name(coding: str) -> None:
    reads, error = decoded(_reads([b"x", b"y"]), coding)
    assert error is not None
    assert f"{coding.rpartition(' ')[2]} is not supported" in error
    assert (reads.body, reads.ends) == (b"", (0, 0))


def test_what_came_before_the_damage_is_kept() -> None:
    first, second, *_ = _flushed(31)
    reads, error = decoded(_reads([first, b"\xff" * 30, second]), "gzip")
    assert error is not None
    assert error.startswith("content-encoding 'gzip', which nobody asked for: Error -3")
    assert _pieces(reads) == [EVENTS[0], b"", b""]


def test_a_stream_that_breaks_off_gives_what_came() -> None:
    reads, error = decoded(_reads(_flushed(31)[:3]), "gzip")
    assert (_pieces(reads), error) == (EVENTS[:3], None)


def test_a_small_body_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_BYTES", 1 << 20)
    bomb = gzip.compress(b"\0" * (8 << 20))
    reads, error = decoded(_reads([bomb[:100], bomb[100:]]), "gzip")
    assert error is not None
    assert "more than 1 MiB" in error
    assert len(reads.body) <= 1 << 20


@pytest.mark.parametrize(("coding", "answer"), [("", False), ("identity", False), (" Identity ,", False), ("br", True)])
def test_what_is_encoded(coding: str, answer: bool) -> None:
    assert is_encoded(coding) is answer
