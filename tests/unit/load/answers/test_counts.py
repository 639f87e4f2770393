"""Which token counts are believed: the stream is the witness of time, usage of counts where nothing contradicts it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import DONE, delta, end, read, sse

from pytest_llmperf.load.answers.counts import (
    NO_NUMBERS,
    NO_PROMPT_COUNT,
    NO_RUNNING_TOTALS,
    TOTAL_TOO_LARGE,
    TOTAL_TOO_SMALL,
)
from pytest_llmperf.records import RequestRecord

TIMES = (1000, 2000, 3000, 4000)


def _streamed(counts: Any, total: Any = None, text: str = " w") -> RequestRecord:
    """Four chunks of text with these counts, and the request's total."""
    return read(*(delta(text, usage) for usage in counts), *end(total))


def test_running_totals_that_end_at_the_total_are_counts_of_chunks() -> None:
    record = _streamed((1, 3, 4, 6), 6)
    assert (record.chunk_ns, record.chunk_tokens, record.output_tokens) == (TIMES, (1, 2, 1, 2), 6)
    assert (record.usage_doubt, record.first_chunk_tokens) == (None, (1.0,))


@pytest.mark.parametrize(
    ("counts", "total", "tokens", "source", "doubt"),
    [
        ((1, 1, 1, 1), 4, 4, "usage", NO_RUNNING_TOTALS),
        ((1, 1, 1, 1), 1, 4, "chunks", TOTAL_TOO_SMALL),
        ((3, 1, 2, 3), 9, 9, "usage", NO_RUNNING_TOTALS),
        ((3, 1, 2, 3), None, 4, "chunks", TOTAL_TOO_SMALL),
        ((1, 2, 3, 4), 9, 9, "usage", NO_RUNNING_TOTALS),
        ((2, 4, 6, 8), 3, 8, "usage", TOTAL_TOO_SMALL),
        ((2, 4, 6, 8), -1, 8, "usage", NO_NUMBERS),
        ((0, 1, 2, 3), 4, 4, "usage", NO_RUNNING_TOTALS),
        ((0, 0, 0, 0), 5, 5, "usage", NO_RUNNING_TOTALS),
        ((0, 0, 0, 5), None, 5, "usage", NO_RUNNING_TOTALS),
        ((-1, -2, -3, -4), 4, 4, "usage", NO_NUMBERS),
        (("1", "2", "3", "4"), "4", 4, "chunks", NO_NUMBERS),
        ((True, True, True, True), True, 4, "chunks", NO_NUMBERS),
        ((None, None, None, None), float("nan"), 4, "chunks", NO_NUMBERS),
        ((None, None, None, None), float("inf"), 4, "chunks", NO_NUMBERS),
        ((None, None, None, None), 4.5, 4, "chunks", NO_NUMBERS),
        ((None, None, None, None), 4.0, 4, "usage", None),
        ((None, None, None, None), 10**30, 4, "chunks", TOTAL_TOO_LARGE),
        ((None, None, None, None), 0, 4, "chunks", TOTAL_TOO_SMALL),
        ((None, None, None, None), 3, 4, "chunks", TOTAL_TOO_SMALL),
        ((None, None, None, None), None, 4, "chunks", None),
        ((None, None, None, 6), None, 6, "usage", None),
        ((6, 6, 6, 6), 6, 6, "usage", NO_RUNNING_TOTALS),
    ],
)
def test_counts_that_the_stream_contradicts_change_no_times(
    counts: Any, total: Any, tokens: int, source: str, doubt: str | None
) -> None:
    record = _streamed(counts, total)
    assert (record.error, record.chunk_ns) == (None, TIMES)
    assert (record.output_tokens, record.token_source, record.usage_doubt) == (tokens, source, doubt)


def test_total_of_the_chunk_that_ends_an_answer_is_told_by_itself() -> None:
    zeros = read(*(delta(" w", 0) for _ in range(4)), delta({}, 5, "stop"), DONE)
    own = read(*(delta(" w", count) for count in (2, 1, 2, 1)), delta({}, 6, "stop"), DONE)
    assert (zeros.chunk_ns, zeros.output_tokens) == (TIMES, 5)
    assert (own.chunk_ns, own.output_tokens, own.usage_doubt) == (TIMES, 6, NO_RUNNING_TOTALS)


def test_last_believable_total_of_several_counts() -> None:
    record = read(*(delta(" w") for _ in range(4)), sse({"choices": [], "usage": {"completion_tokens": 6}}), *end(0))
    assert (record.output_tokens, record.token_source) == (6, "usage")


def test_without_a_believable_count_a_tokenizer_counts() -> None:
    record = read(delta("ab"), delta("cd"), *end(-5), count=len)
    assert (record.output_tokens, record.token_source) == (4, "tokenizer")


def test_empty_chunks_whose_count_grows_are_tokens_still() -> None:
    record = read(delta("", 0), delta("", 1), delta("a", 2), delta("", 3), *end(3))
    assert (record.chunk_ns, record.chunk_tokens, record.textless_chunks) == ((2000, 3000, 4000), (1, 1, 1), (0, 2))


def test_total_of_the_request_is_not_that_of_an_answer_with_another_index() -> None:
    record = read(delta({}), delta({}, 1, index=1))
    assert (record.output_tokens, record.first_chunk_tokens) == (1, (1.0,))


@pytest.mark.parametrize("count", [0, -3, "7", True, float("nan"), 0.5, 10**40])
def test_count_of_the_prompt_that_is_none(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 1, "total_tokens": 1}
    record = read(delta("a"), *end(usage))
    assert (record.input_tokens, record.output_tokens, record.usage_doubt) == (None, 1, NO_PROMPT_COUNT)


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [], "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "tps": 8.1}},
        {"choices": [], "usage": None, "x_groq": {"id": "r", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}},
        {"choices": [], "prompt_eval_count": 7, "eval_count": 3},
        {"choices": [], "usage": {"promptTokenCount": 7, "candidatesTokenCount": 3}},
        {"choices": [], "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3}},
        {"usage": {"num_input_tokens": 7, "num_output_tokens": 3}},
        {"usage": {"inputTokens": 7, "outputTokens": 3}},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "prompt_eval_count": 7, "eval_count": 3},
        {"choices": [{"delta": {}, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}]},
        {"choices": [{"delta": {"content": "", "audio": None}}], "usage": {"input_tokens": 7, "output_tokens": 3}},
    ],
)
def test_usage_under_other_names_and_in_other_places(event: dict[str, Any]) -> None:
    record = read(delta("ab"), sse(event), *end())
    assert (record.input_tokens, record.output_tokens, record.token_source) == (7, 3, "usage")


def test_totals_under_other_names_in_every_chunk() -> None:
    chunks = [delta("a", {"input_tokens": 7, "output_tokens": count}) for count in (1, 2, 4)]
    record = read(*chunks, *end({"input_tokens": 7, "output_tokens": 4}))
    assert (record.chunk_tokens, record.output_tokens, record.input_tokens) == ((1, 1, 2), 4, 7)


ODD = (
    st.none() | st.integers(-3, 12) | st.booleans() | st.floats() | st.text(max_size=2) | st.just(10**20) | st.just([])
)
TEXTS = st.sampled_from([" w", "é", "", "long text of a chunk"])


@given(st.lists(st.tuples(TEXTS, ODD), min_size=1, max_size=8), ODD, ODD)
def test_no_count_breaks_a_reading(chunks: list[tuple[str, Any]], total: Any, prompt: Any) -> None:
    """Whatever is told: text is a token chunk, nothing is negative, and the parts make up the whole."""
    streamed = [delta(text, {"prompt_tokens": 7, "completion_tokens": count}) for text, count in chunks]
    usage = {"prompt_tokens": prompt, "completion_tokens": total}
    record = read(*streamed, *end(json.loads(json.dumps(usage))))
    spoken = [1000 * (at + 1) for at, (text, _) in enumerate(chunks) if text]
    assert set(spoken) <= set(record.chunk_ns)
    assert (record.output_tokens or 0) >= len(spoken)
    assert record.input_tokens is None or record.input_tokens > 0
    assert 0 <= record.hidden_tokens <= (record.output_tokens or 0)
    assert all(tokens >= 1 for tokens in record.first_chunk_tokens)
    if record.chunk_tokens is not None:
        assert min(record.chunk_tokens) >= 0
        assert sum(record.chunk_tokens) + record.hidden_tokens == record.output_tokens
