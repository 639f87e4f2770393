"""SSE parser: whatever way the bytes are cut, the same events come out, as early as they can."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.answers.sse import Message, SseParser

STREAMS = {
    "plain": (b'data: {"a": 1}\n\ndata: [DONE]\n\n', [b'{"a": 1}', b"[DONE]"]),
    "crlf": (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
    "cr": (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
    "mixed ends": (b"data: one\r\n\ndata: two\n\r\ndata: three\r\r\n", [b"one", b"two", b"three"]),
    "multi-line": (b"data: one\ndata: two\ndata:\n\n", [b"one\ntwo\n"]),
    "comment and other fields": (b": ping\n\nevent: x\nid: 7\ndata: one\nretry: 5\n\n", [b"one"]),
    "one space is taken, no more": (b"data:  a \n\ndata:b\n\n", [b" a ", b"b"]),
    "data without a colon": (b"data\n\n", [b""]),
    "field that only starts with data": (b"database: x\ndata: one\n\n", [b"one"]),
    "blank lines": (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
    "byte order mark": (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
    "unfinished event": (b"data: one\n\ndata: two\n", [b"one"]),
    "utf-8": ("data: žluťoučký\n\n".encode(), ["žluťoučký".encode()]),
    "line separators of str are text": ("data: a\u2028b\x0bc\x85\n\n".encode(), ["a\u2028b\x0bc\x85".encode()]),
}


def _events(pieces: list[bytes]) -> list[bytes]:
    parser = SseParser()
    return [event.data for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(("stream", "events"), STREAMS.values(), ids=STREAMS)
def test_events_do_not_depend_on_the_cuts(stream: bytes, events: list[bytes]) -> None:
    assert _events([stream]) == events
    assert _events([stream[i : i + 1] for i in range(len(stream))]) == events
    for cut in range(len(stream) + 1):
        assert _events([stream[:cut], stream[cut:]]) == events


ODD = {
    "event field": (b"event: ping\ndata: {}\n\n", [Message(b"{}", b"ping")]),
    "event without data": (b"event: error\n\ndata: a\n\n", [Message(b"", b"error"), Message(b"a")]),
    "error field": (b'error: {"code": 500}\n\ndata: a\n\n', [Message(b'{"code": 500}', b"error"), Message(b"a")]),
    "error field, written large": (b"Error: boom\n\n", [Message(b"boom", b"error")]),
    "unframed JSON": (b'{"error":\n {"code": 4}}\n\n', [Message(b"", b"", b'{"error":\n {"code": 4}}')]),
    "a page": (b"<html>\n<p>gone</p>\n\n", [Message(b"", b"", b"<html>\n<p>gone</p>")]),
    "a line of text": (b"upstream connect error\n\n", [Message(b"", b"", b"upstream connect error")]),
    "beside data": (b"data: a\nno field\n\n", [Message(b"a", b"", b"no field")]),
    "extension with data": (b"x-trace: 7\ndata: a\n\n", [Message(b"a")]),
    "extension alone": (b"detail: gone\n\n", [Message(b"", b"", b"detail: gone")]),
    "id and retry alone": (b"id: 7\nretry: 3\n\n: note\n\n", []),
}


@pytest.mark.parametrize(("stream", "events"), ODD.values(), ids=ODD)
def test_what_is_no_plain_event_is_kept_apart(stream: bytes, events: list[Message]) -> None:
    for cut in range(len(stream) + 1):
        parser = SseParser()
        assert parser.feed(stream[:cut]) + parser.feed(stream[cut:]) == events
        assert parser.is_between_events


@pytest.mark.parametrize("left", [b"", b"\n", b"\r", b"\r\n", b"\r\n\r"])
def test_last_event_may_lack_its_blank_line(left: bytes) -> None:
    """What is there when the body ends counts; an event that had its blank line is not told again."""
    for stream in (b"data: a\n\ndata: b", b"data: a\r\n\r\nevent: x\ndata: b", b"\xef\xbb\xbfdata: a\r\rdata: b"):
        parser = SseParser()
        told = parser.feed(stream + left) + parser.end()
        assert [event.data for event in told] == [b"a", b"b"]
        assert parser.end() == []


def test_end_of_a_stream_with_nothing_left() -> None:
    parser = SseParser()
    parser.feed(b"data: a\n\n: bye")
    assert parser.end() == []


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
    assert parser.feed(end[-1:]) == [Message(b"one")]


def test_short_cut_is_not_taken_inside_an_event() -> None:
    parser = SseParser()
    assert parser.feed(b"data: one\n") == []
    assert parser.feed(b"data: two\n\n") == [Message(b"one\ntwo")]


def test_a_long_line_in_many_reads_is_scanned_once() -> None:
    """A parser that starts over at every read needs about 2000 times as long: no tight limit is needed to see it."""
    parser = SseParser()
    piece = b"x" * 1000
    parser.feed(b"data: ")
    started = time.process_time()
    for _ in range(20_000):
        parser.feed(piece)
    assert parser.feed(b"\n\n") == [Message(piece * 20_000)]
    assert time.process_time() - started < 5
