"""Several answers in one request, and several in one event."""

from __future__ import annotations

from typing import Any

import pytest
from streams import DONE, delta, end, read, sse, with_usage

from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.endpoints.table import Asked
from pytest_llmperf.load.transport.capture import Capture

TWO = Asked(n=2)
TEXTS = ("a", "bcd", "ef")


def _together(text: str, reason: str | None = None, usage: Any = None, answers: int = 2, **more: Any) -> bytes:
    choices = [{"index": index, "delta": {"content": text}, "finish_reason": reason} for index in range(answers)]
    return sse({"choices": choices, **with_usage(usage), **more})


def _apart(text: str, reason: str | None = None) -> bytes:
    return delta(text, reason=reason) + delta(text, reason=reason, index=1)


@pytest.mark.parametrize("make", [_together, _apart])
def test_every_answer_is_read(make: Any) -> None:
    total = sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 6}})
    record = read(*map(make, TEXTS), make("", "stop"), total, DONE, asked=TWO)
    assert (record.error, record.answers, record.prompts, record.requested_output_tokens) == (None, 2, 1, 16)
    assert record.chunk_ns == (1000, 1000, 2000, 2000, 3000, 3000)
    assert record.chunk_answers == (0, 1, 0, 1, 0, 1)
    assert (record.output_tokens, record.input_tokens, record.first_chunk_tokens) == (6, 7, (1.0, 1.0))
    assert (record.coalesced_chunks, record.tokenless_ns) == (0, (4000, 4000))


def test_several_chunks_of_one_answer_in_one_read_are_counted_as_such() -> None:
    record = read(_together("a") + _together("b"), _together("c"), _together("", "stop"), asked=TWO)
    assert record.coalesced_chunks == 4
    assert read(_apart("a") + delta("b"), _apart("c"), _apart("", "stop"), asked=TWO).coalesced_chunks == 2


def test_running_totals_of_each_answer() -> None:
    """As vLLM tells them; the last event has the sum."""
    chunks = [delta(" w", count, index=index) for count in (1, 2, 4) for index in (0, 1)]
    whole = sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 8}})
    for total in ((whole,), ()):
        record = read(*chunks, _apart("", "stop"), *total, DONE, asked=TWO)
        assert (record.output_tokens, record.chunk_tokens, record.usage_doubt) == (8, (1, 1, 1, 1, 2, 2), None)
        assert (record.input_tokens, record.first_chunk_tokens) == (7, (1.0, 1.0))


def test_running_totals_of_the_request() -> None:
    chunks = [delta(" w", count, index=index) for index, count in zip((0, 1) * 3, (1, 2, 3, 5, 6, 8), strict=True)]
    for total in ((), (sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 8}}),)):
        record = read(*chunks, _apart("", "stop"), *total, DONE, asked=TWO)
        assert (record.output_tokens, record.chunk_tokens, record.usage_doubt) == (8, (1, 1, 1, 2, 1, 2), None)


def test_usage_in_an_event_of_several_answers_is_of_all() -> None:
    record = read(_together("a", usage=2), _together("b", usage=4), _together("", "stop", usage=5), asked=TWO)
    assert (record.output_tokens, record.chunk_tokens) == (5, None)


def test_prompts_of_a_batch_are_counted_once_each() -> None:
    chunks = [delta("a", usage=2, reason="stop", index=index) for index in range(4)]
    record = read(*chunks, asked=TWO, prompts=2)
    assert (record.answers, record.input_tokens, record.output_tokens) == (4, 14, 8)


def test_first_chunk_of_each_answer_by_its_own_text() -> None:
    long, short = delta("a" * 30) + delta("b", index=1), delta("a" * 10) + delta("b", index=1)
    record = read(long, short, short, _apart("", "stop"), *end(53)[1:], asked=TWO)
    assert record.first_chunk_tokens == (30.0, 1.0)


def test_fewer_answers_than_asked_for() -> None:
    assert read(_together("a"), delta("", reason="stop"), DONE, asked=TWO).error == "1 of 2 answers came to their end"
    assert read(delta("a"), DONE, asked=TWO).error == "1 of 2 answers came to their end"
    assert read(_together("a"), DONE, asked=TWO).error is None


def test_answer_without_any_chunk_has_no_first_one() -> None:
    record = read(delta("a", index=1), delta("b", index=1), _apart("", "stop"), *end(2)[1:], asked=TWO)
    assert (record.first_chunk_tokens, record.chunk_answers) == ((1.0,), (1, 1))


def test_more_answers_than_asked_for_are_read_too() -> None:
    record = read(_together("a"), _together("b"), _together("", "stop"))
    assert (record.answers, record.chunk_answers) == (1, (0, 1, 0, 1))


def test_error_of_one_of_several_answers() -> None:
    event = sse({"choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "error": "boom"}]})
    assert read(event, _together("", "stop"), asked=TWO).error == "error in the stream: boom"


def test_choices_without_an_index_are_told_apart_by_their_place() -> None:
    event = sse({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]})
    assert read(event, event, _together("", "stop"), asked=TWO).chunk_answers == (0, 1, 0, 1)


def test_a_conversation_goes_on_with_the_first_answer() -> None:
    body = delta("no", index=1) + delta("yes") + _apart("", "stop")
    capture = Capture(0, 9, (1,), (1,), (len(body),), body, 200, "text/event-stream", None)
    assert AnswerReader(asked=TWO).text(capture) == "yes"


def test_outputs_of_several_answers_in_one_response_of_triton() -> None:
    response = {"model_name": "m", "text_output": ["a", "b"], "num_output_tokens": [1, 2]}
    record = read(sse(response), sse(response), endpoint="generate")
    assert (record.chunk_answers, record.chunk_tokens, record.output_tokens) == ((0, 1, 0, 1), (1, 2, 1, 2), 6)
