"""Events read by templates are exactly what the parser reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import cut

from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.answers.templates import Templates
from pytest_llmperf.load.endpoints import openai, responses, triton_generate
from pytest_llmperf.load.endpoints.openai import Event
from pytest_llmperf.load.endpoints.table import ENDPOINTS
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.capture import Capture

PLANNED = PlannedRequest(index=0, phase="measured", due_ns=None, prompt="", output_tokens=4)
READERS = (openai.read_event, openai.read_event, responses.read_event, triton_generate.read_event)

texts = st.text(max_size=6) | st.sampled_from(
    [" the", "a~", '"', "\\", "\n", "é", "\u2028", "0", "]}", '"content":"x"']
)
counts = st.integers(0, 12) | st.just(10**9) | st.just(10**12) | st.none() | st.just(2.5) | st.just(True)
usages = st.none() | st.fixed_dictionaries(
    {"prompt_tokens": counts, "completion_tokens": counts},
    optional={"total_tokens": counts, "details": st.fixed_dictionaries({"prompt_tokens": counts, "text": texts})},
)
calls = st.lists(
    st.fixed_dictionaries({"id": texts, "function": st.fixed_dictionaries({"name": texts, "arguments": texts})}),
    max_size=2,
)
deltas = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant"),
        "content": texts | st.none(),
        "reasoning_content": texts | st.none(),
        "reasoning": texts,
        "tool_calls": calls,
    },
)
choices = st.fixed_dictionaries(
    {"index": st.integers(0, 1)},
    optional={
        "delta": deltas,
        "text": texts,
        "finish_reason": st.sampled_from([None, "stop"]),
        "token_ids": st.lists(st.integers(0, 5), max_size=2),
        "logprobs": st.none() | st.fixed_dictionaries({"content": st.lists(st.fixed_dictionaries({"text": texts}))}),
    },
)
events = st.fixed_dictionaries(
    {"id": texts, "choices": st.lists(choices, max_size=2)},
    optional={"created": counts, "usage": usages, "object": st.just("chat.completion.chunk"), "error": st.none()},
)


def _raw(event: dict[str, Any], first: int, ascii_only: bool, spaced: bool, twice: bool) -> bytes:
    """An event as a server may write it: keys in any order, one of them twice."""
    separators = None if spaced else (",", ":")
    keys = [*event][first:] + [*event][:first]
    items = [json.dumps({key: event[key]}, ensure_ascii=ascii_only, separators=separators)[1:-1] for key in keys]
    return ("{" + ",".join(items + items[:twice]) + "}").encode("utf-8", "surrogatepass")


raws = st.builds(_raw, events, st.integers(0, 3), st.booleans(), st.booleans(), st.booleans())


def _record(pieces: list[bytes], read_event: Callable[[bytes], Event], templates: Templates) -> tuple[Any, ...]:
    capture = Capture(
        sent_ns=0,
        ended_ns=10**6,
        kernel_ns=tuple(range(1, len(pieces) + 1)),
        user_ns=tuple(range(1, len(pieces) + 1)),
        **cut(pieces),
        status=200,
        content_type="text/event-stream",
        error=None,
    )
    endpoint = ENDPOINTS["chat"]._replace(read=read_event)
    texts: list[str] = []

    def count(text: str) -> int:
        texts.append(text)
        return len(text)

    reader = AnswerReader(endpoint, count=count, templates=templates)
    record = reader.record(capture, PLANNED, "kernel", request_id="", due_ns=None)
    return record, texts, reader.text(capture)


def _same(pieces: list[bytes], read_event: Callable[[bytes], Event], templates: Templates) -> None:
    """Repeated, because the templates of a load serve one request after the other."""
    slowly = _record(pieces, read_event, Templates(read_event, tries=0))
    for _ in range(2):
        assert repr(_record(pieces, read_event, templates)) == repr(slowly)


@given(st.lists(raws, max_size=8), st.sampled_from(READERS))
def test_any_events(datas: list[bytes], read_event: Callable[[bytes], Event]) -> None:
    _same([b"data: %b\n\n" % data for data in datas], read_event, Templates(read_event))


@given(raws, st.lists(st.tuples(texts, texts, counts, counts), max_size=8), st.data())
def test_events_that_differ_little(first: bytes, others: list[Any], data: st.DataObject) -> None:
    """The event again and again with other values, some of them damaged at one byte."""
    pieces = [first]
    for values in others:
        raw = first
        for key, value in zip(("content", "id", "completion_tokens", "created"), values, strict=True):
            old = data.draw(st.sampled_from([None, "", " the", "a~", 0, 1]))
            for before, after in ((b":", b""), (b": ", b" ")):
                found = b'"%b"%b%b' % (key.encode(), before, json.dumps(old).encode())
                raw = raw.replace(found, b'"%b":%b%b' % (key.encode(), after, json.dumps(value).encode()))
        damaged = bytearray(raw)
        if data.draw(st.booleans()):
            damaged[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from(b'"\\{}:,\n\r \x00\x7f\xff0a'))
        pieces.append(bytes(damaged))
    _same([b"data: %b\n\n" % piece for piece in pieces], openai.read_event, Templates(openai.read_event))


def _chat(
    text: str, usage: int | None = None, key: str = "content", number: int = 1, ascii_only: bool = False
) -> bytes:
    event: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": 1755900000 + number,
        "model": "m",
        "choices": [{"index": 0, "delta": {key: text}, "logprobs": None, "finish_reason": None}],
    }
    if usage is not None:
        event["usage"] = {"prompt_tokens": 7, "total_tokens": 7 + usage, "completion_tokens": usage}
    return json.dumps(event, ensure_ascii=ascii_only, separators=(",", ":")).encode("utf-8", "surrogatepass")


@given(st.lists(texts.filter(lambda text: text.isprintable()), min_size=2), st.booleans(), st.booleans())
def test_streams_of_one_server(words: list[str], with_usage: bool, thinks: bool) -> None:
    key = "reasoning_content" if thinks else "content"
    datas = [_chat(word, at if with_usage else None, key, at) for at, word in enumerate(words)]
    _same([b"data: %b\n\n" % data for data in datas], openai.read_event, Templates(openai.read_event))


@given(
    st.lists(texts | st.sampled_from(["\ud83d", "\U0001f600", "\x7f", "\ufeff"]), min_size=1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([b"", b": ping\n\n", b"event: x\n", b"\r\n", b"\xff"]),
    st.lists(st.integers(0, 2000), max_size=20),
)
def test_streams_cut_anywhere(
    words: list[str], with_usage: bool, ascii_only: bool, between: bytes, cuts: list[int]
) -> None:
    datas = [_chat(word, at if with_usage else None, ascii_only=ascii_only) for at, word in enumerate(words)]
    stream = b"data: %b\n\n" % _chat("a", with_usage or None)
    stream += b"".join(b"data: %b\n\n" % data for data in datas[:5]) + between
    stream += b"".join(b"data: %b\n\n" % data for data in datas[5:]) + b"data: [DONE]\n\n"
    bounds = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(bounds)]
    _same(pieces, openai.read_event, Templates(openai.read_event))


@pytest.mark.parametrize("usage", [None, 3])
@pytest.mark.parametrize("key", ["content", "reasoning_content", "reasoning"])
def test_the_next_chunks_and_the_next_request_need_no_parser(usage: int | None, key: str) -> None:
    templates = Templates(openai.read_event)
    first, texts = _chat(" a", usage, key), ("né", '\\"', "\n", "c")
    templates.learn(first, openai.read_event(first))
    others = [_chat(text, usage and usage + at, key, number=77) for at, text in enumerate(texts)]
    body = b"".join(b"data: %b\n\n" % other for other in others)
    alike = templates.read(body + b"data: [DONE]\n\n", 0)
    assert alike is not None
    assert alike.ends[-1] == len(body)
    assert alike.event.text + alike.event.other_text == "".join(texts)
    assert list(alike.counts) == [openai.read_event(other).completion_tokens for other in others]


@pytest.mark.parametrize("text", ["", "\ud83d"])
def test_texts_that_may_mean_something_else_are_left_to_the_parser(text: str) -> None:
    templates = Templates(openai.read_event)
    templates.learn(_chat("a"), openai.read_event(_chat("a")))
    assert templates.read(b"data: %b\n\n" % _chat("b"), 0)
    assert templates.read(b"data: %b\n\n" % _chat(text, ascii_only=True), 0) is None


@pytest.mark.parametrize(
    "piece",
    [
        _chat("b"),
        b"data: %b\n" % _chat("b"),
        b"data: %b\n\n" % _chat("b").replace(b'"b"', b'"\xff"'),
        b"data: %b\n\n" % _chat("b").replace(b'"b"', b'"\xed\xa0\x80"'),
        b"data: %b\n\n" % _chat("b").replace(b'"b"', b'"\\x"'),
        b"data: %b\n\n" % _chat("b").replace(b"1755900001", b"01"),
        b"data: %b\n\n" % _chat("b").replace(b"null}", b'"stop"}'),
    ],
)
def test_what_does_not_match_in_full_is_left_to_the_parser(piece: bytes) -> None:
    templates = Templates(openai.read_event)
    templates.learn(_chat("a"), openai.read_event(_chat("a")))
    assert templates.read(piece, 0) is None


def test_half_an_event_before_is_no_part_of_the_next() -> None:
    pieces = [b"data: %b\n\n" % _chat("a"), b"data: 1", b"data: %b\n\n" % _chat("b"), b"data: %b\n\n" % _chat("c")]
    _same(pieces, openai.read_event, Templates(openai.read_event))
