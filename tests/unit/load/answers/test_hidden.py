"""Tokens that were counted and never streamed, and those that came with the first chunk."""

from __future__ import annotations

from typing import Any

import pytest
from streams import DONE, delta, end, read, sse

from pytest_llmperf.records import RequestRecord

WORDS = [f" w{number}" for number in range(16)]


def _usage(tokens: int, reasoned: int | None = None, name: str = "completion_tokens") -> dict[str, Any]:
    details = {} if reasoned is None else {f"{name}_details": {"reasoning_tokens": reasoned}}
    return {"prompt_tokens": 7, name: tokens, "total_tokens": 7 + tokens, **details}


def _visible(total: Any, field: str = "content") -> RequestRecord:
    return read(delta({"role": "assistant", "content": ""}), *(delta({field: word}) for word in WORDS), *end(total))


@pytest.mark.parametrize("name", ["completion_tokens", "output_tokens"])
def test_reasoning_that_is_counted_and_not_streamed_is_hidden(name: str) -> None:
    record = _visible(_usage(20, 4, name))
    assert (record.output_tokens, record.hidden_tokens, record.first_chunk_tokens) == (20, 4, (1.0,))
    assert len(record.chunk_ns) == 16


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning_details", "thinking"])
def test_reasoning_that_is_streamed_is_not_hidden(field: str) -> None:
    assert _visible(_usage(16, 12), field).hidden_tokens == 0


def test_reasoning_that_is_streamed_as_text_is_not_hidden() -> None:
    """The chunks with text are more than what is left: they hold the reasoning too."""
    assert _visible(_usage(16, 12)).hidden_tokens == 0


def test_a_summary_of_the_reasoning_is_not_the_reasoning() -> None:
    chunks = [delta({"reasoning": "In short."}), *(delta(word) for word in WORDS)]
    record = read(*chunks, *end(_usage(1017, 1000)))
    assert (record.hidden_tokens, record.output_tokens) == (999, 1017)


def test_reasoning_that_is_counted_apart_is_part_of_the_tokens() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 16, "total_tokens": 123}
    record = _visible({**usage, "completion_tokens_details": {"reasoning_tokens": 100}})
    assert (record.output_tokens, record.hidden_tokens) == (116, 100)


def test_total_that_the_text_cannot_hold() -> None:
    record = _visible(_usage(500))
    assert (record.hidden_tokens, record.first_chunk_tokens) == (484, (1.0,))


@pytest.mark.parametrize("total", [16, 17, 18, 24, 40])
def test_special_tokens_bursts_and_merged_bytes_are_not_hidden(total: int) -> None:
    assert _visible(_usage(total)).hidden_tokens == 0


def test_empty_chunks_are_tokens_without_text_and_hide_none() -> None:
    chunks = [delta("a" if number % 20 == 0 else "") for number in range(100)]
    record = read(*chunks, *end(_usage(100)))
    assert (record.hidden_tokens, record.output_tokens) == (0, 100)
    totals = [delta("a" if number % 20 == 0 else "", number + 1) for number in range(100)]
    counted = read(*totals, *end(100))
    assert (counted.hidden_tokens, len(counted.chunk_ns)) == (0, 100)


@pytest.mark.parametrize("reasoned", [None, 84])
def test_running_total_that_begins_far_above_the_text(reasoned: int | None) -> None:
    chunks = [delta(word, 85 + number) for number, word in enumerate(WORDS)]
    record = read(delta({"role": "assistant", "content": ""}, 0), *chunks, *end(_usage(100, reasoned)))
    assert (record.hidden_tokens, record.output_tokens) == (84, 100)
    assert (record.chunk_tokens, record.first_chunk_tokens) == ((1,) * 16, (1.0,))


def test_chunk_of_hidden_tokens_alone_is_no_token_chunk() -> None:
    chunks = [delta(word, 85 + number) for number, word in enumerate(WORDS)]
    record = read(delta({"role": "assistant", "content": ""}, 84), *chunks, *end(100))
    assert (record.hidden_tokens, record.chunk_ns[0], record.tokenless_ns[0]) == (84, 2000, 1000)


@pytest.mark.parametrize("reasoned", [None, 100])
def test_answer_that_is_hidden_whole_is_a_good_one(reasoned: int | None) -> None:
    record = read(delta({"role": "assistant", "content": ""}), *end(_usage(100, reasoned)))
    assert (record.ok, record.chunk_ns, record.hidden_tokens, record.output_tokens) == (True, (), 100, 100)
    assert record.first_chunk_tokens == ()


def test_counted_tokens_do_not_make_up_for_an_end() -> None:
    assert not read(delta({"role": "assistant"}), sse({"choices": [], "usage": _usage(100)})).ok
    assert not read(delta({"role": "assistant"}), sse({"choices": [], "usage": _usage(100)}), DONE).ok


def test_hidden_reasoning_of_the_responses_api() -> None:
    usage = {"input_tokens": 7, "output_tokens": 30, "output_tokens_details": {"reasoning_tokens": 28}}
    text = [sse({"type": "response.output_text.delta", "delta": word}) for word in (" a", " b")]
    record = read(*text, sse({"type": "response.completed", "response": {"usage": usage}}), endpoint="responses")
    assert (record.hidden_tokens, record.output_tokens, record.error) == (28, 30, None)


def test_first_chunk_of_several_tokens_by_its_share_of_the_text() -> None:
    chunks = [delta(" w" * 16) for _ in range(4)]
    assert read(*chunks, *end(64)).first_chunk_tokens == (16.0,)
    alone = [delta(" w"), *(delta(" w" * 3) for _ in range(10))]
    assert read(*alone, *end(31)).first_chunk_tokens == (1.0,)
    assert read(delta(" w" * 16, 16), delta(" w" * 8, 24), *end(24)).first_chunk_tokens == (16.0,)


@pytest.mark.parametrize("total", [3, 4])
def test_first_chunk_is_one_token_where_chunks_are_tokens(total: int) -> None:
    """Also where the end is a token more, however long the first word is."""
    assert read(delta("Certainly"), delta(","), delta(" I"), *end(total)).first_chunk_tokens == (1.0,)


def test_the_first_chunk_leaves_a_token_to_each_of_the_others() -> None:
    assert read(delta("a" * 1000), delta("b"), delta("c"), *end(6)).first_chunk_tokens == (4.0,)


@pytest.mark.parametrize("reasoned", [None, 200])
def test_running_total_that_jumps_in_mid_stream(reasoned: int | None) -> None:
    chunks = [delta(word, number + (1 if number < 8 else 201)) for number, word in enumerate(WORDS)]
    record = read(*chunks, *end(_usage(216, reasoned)))
    assert (record.hidden_tokens, record.chunk_tokens, record.output_tokens) == (200, (1,) * 16, 216)


def test_running_total_that_grows_with_a_long_text_hides_none() -> None:
    record = read(delta("w"), delta(" w", 2), delta(" w" * 40, 42), delta(" w", 43), delta(" w", 44), *end(44))
    assert record.hidden_tokens == 0


def test_long_summary_of_much_longer_reasoning() -> None:
    chunks = [delta({"reasoning": " I weigh the next thing now"}) for _ in range(10)]
    record = read(*chunks, *(delta(word) for word in WORDS), *end(_usage(216, 200)))
    assert (record.hidden_tokens, record.output_tokens) == (190, 216)


def test_total_of_more_tokens_than_words_have() -> None:
    assert read(*(delta(" words") for _ in range(20)), *end(100)).hidden_tokens == 80


@pytest.mark.parametrize("text", ["\u4f60\u597d" * 5, "0123456789", "abcdefghij"])
def test_chunks_of_a_token_a_character_hide_none(text: str) -> None:
    assert read(*(delta(text) for _ in range(8)), *end(80)).hidden_tokens == 0
