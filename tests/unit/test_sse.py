"""SSE parser: whatever way the bytes are cut, the same events come out, as early as they can."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.sse import SseParser

STREAMS = {
    "plain": (b'data: {"a": 1}\n\ndata: [DONE]\n\n', [b'{"a": 1}', b"[DONE]"]),
    "crlf": (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
    "cr": (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
    "mixed ends": (b"data: one\r\n\ndata: two\n\r\ndata: three\r\r\n", [b"one", b"two", b"three"]),
    "multi-line": (b"data: one\ndata: two\ndata:\n\n", [b"one\ntwo\n"]),
    "comment and other fields": (b": ping\n\nevent: x\nid: 7\ndata: one\nretry: 5\n\n", [b"one"]),
    "one space is taken, no more": (b"data:  a \n\ndata:b\n\n", [b" a ", b"b"]),
    "data without a colon": (b"data\n\n", [b""]),
    "field that only starts with data": (b"database: x\n\n", []),
    "blank lines": (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
    "byte order mark": (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
    "unfinished event": (b"data: one\n\ndata: two\n", [b"one"]),
    "utf-8": ("data: žluťoučký\n\n".encode(), ["žluťoučký".encode()]),
    "line separators of str are text": ("data: a\u2028b\x0bc\x85\n\n".encode(), ["a\u2028b\x0bc\x85".encode()]),
}


def _events(pieces: list[bytes]) -> list[bytes]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(("stream", "events"), STREAMS.values(), ids=STREAMS)
def test_events_do_not_depend_on_the_cuts(stream: bytes, events: list[bytes]) -> None:
    assert _events([stream]) == events
    assert _events([stream[i : i + 1] for i in range(len(stream))]) == events
    for cut in range(len(stream) + 1):
        assert _events([stream[:cut], stream[cut:]]) == events


_TEXT = st.binary(max_size=20).map(lambda data: data.translate(None, b"\r\n"))


@given(
    data=st.lists(_TEXT, min_size=1),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    cuts=st.lists(st.integers(min_value=0, max_value=2000)),
)
def test_any_events_in_any_cuts(data: list[bytes], end: bytes, cuts: list[int]) -> None:
    stream = b"".join(b"data: " + event + end + end for event in data)
    bounds = [0, *sorted(cuts), len(stream)]
    assert _events([stream[a:b] for a, b in itertools.pairwise(bounds)]) == data


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r"])
def test_event_comes_with_the_bytes_that_complete_it(end: bytes) -> None:
    parser = SseParser()
    assert parser.feed(b"data: one" + end[:-1]) == []
    assert parser.feed(end[-1:]) == [b"one"]


def test_short_cut_is_not_taken_inside_an_event() -> None:
    parser = SseParser()
    assert parser.feed(b"data: one\n") == []
    assert parser.feed(b"data: two\n\n") == [b"one\ntwo"]


def test_a_long_line_in_many_reads_is_scanned_once() -> None:
    """A parser that starts over at every read needs about 2000 times as long: no tight limit is needed to see it."""
    parser = SseParser()
    piece = b"x" * 1000
    parser.feed(b"data: ")
    started = time.process_time()
    for _ in range(20_000):
        parser.feed(piece)
    assert parser.feed(b"\n\n") == [piece * 20_000]
    assert time.process_time() - started < 5
