"""What a delta carries: every field of the known APIs, and content in fields that none of them has."""

from __future__ import annotations

from typing import Any

import pytest
from streams import DONE, delta, end, read, sse

from pytest_llmperf.load.endpoints.content import read_delta

TEXT = {
    "text": {"content": "a"},
    "completions text": {"text": "a"},
    "part": {"content": [{"type": "text", "text": "a"}]},
    "part without a list": {"content": {"text": "a"}},
    "part as text": {"content": ["a"]},
    "nested part": {"content": [{"type": "output_text", "text": {"value": "a", "annotations": ["x"]}}]},
}
THOUGHT = {
    "reasoning_content": {"reasoning_content": "a", "content": None},
    "reasoning": {"reasoning": "a"},
    "reasoning as an object": {"reasoning": {"text": "a"}},
    "reasoning in both": {"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0}]},
    "reasoning_details": {"reasoning_details": [{"type": "reasoning.summary", "summary": "a"}], "content": ""},
    "reasoning_text": {"reasoning_text": "a"},
    "thinking": {"thinking": "a"},
    "thinking_blocks": {"thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": "s"}]},
    "thinking part": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]},
    "reasoning part": {"content": [{"type": "reasoning", "text": "a"}]},
}
OTHER = {
    "tool call": {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"arguments": "a"}}]},
    "custom tool": {"tool_calls": [{"index": 0, "type": "custom", "custom": {"input": "a"}}]},
    "function call": {"function_call": {"arguments": "a"}},
    "refusal": {"refusal": "a", "content": None},
    "sound": {"audio": {"id": "s", "transcript": "a"}},
}
NOTHING = {
    "role": {"role": "assistant", "content": ""},
    "nulls": {"content": None, "refusal": None, "tool_calls": None, "reasoning": None, "audio": None},
    "empty": {"content": [], "tool_calls": [], "reasoning_details": [], "thinking": ""},
    "marks": {"id": "x", "name": "y", "type": "z", "index": 3, "provider": "p", "annotations": [{"url": "u"}]},
    "signature": {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]},
    "encrypted": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "eHg="}]},
    "numbers": {"score": 3, "flag": True, "nothing": {}},
}


@pytest.mark.parametrize("fields", TEXT.values(), ids=TEXT)
def test_text(fields: dict[str, Any]) -> None:
    assert read_delta(fields)[:3] == ("a", "", "")


@pytest.mark.parametrize("fields", THOUGHT.values(), ids=THOUGHT)
def test_reasoning(fields: dict[str, Any]) -> None:
    assert read_delta(fields)[:3] == ("", "a", "")
    record = read(delta(fields), delta(fields), delta("b"), *end(3))
    assert (record.chunk_ns, record.first_output_ns, record.unknown_fields) == ((1000, 2000, 3000), 3000, ())


@pytest.mark.parametrize("fields", OTHER.values(), ids=OTHER)
def test_calls_refusals_and_sound_are_output(fields: dict[str, Any]) -> None:
    assert read_delta(fields)[:3] == ("", "", "a")
    record = read(delta(fields), delta("b"), *end(2))
    assert (record.chunk_ns, record.first_output_ns, record.unknown_fields) == ((1000, 2000), 1000, ())


@pytest.mark.parametrize("fields", NOTHING.values(), ids=NOTHING)
def test_no_content(fields: dict[str, Any]) -> None:
    record = read(delta(fields), delta("b"), *end(1))
    assert (record.chunk_ns, record.tokenless_ns[0], record.unknown_fields) == ((2000,), 1000, ())


@pytest.mark.parametrize(
    "value", ["a", ["a"], [{"text": "a"}], [{"type": "x"}], [1, 2], {"text": "a"}, {"b": [{"c": "a"}]}]
)
def test_unknown_field_with_content_is_a_token_chunk(value: Any) -> None:
    record = read(delta({"role": "assistant", "content": ""}), delta({"dream": value}), delta("b"), *end(2))
    assert (record.chunk_ns, record.unknown_fields, record.error) == ((2000, 3000), ("dream",), None)


def test_the_same_content_again_and_again_is_content() -> None:
    record = read(*(delta({"dream": " w", "content": ""}) for _ in range(4)), *end(4))
    assert (len(record.chunk_ns), record.unknown_fields) == (4, ("dream",))


def test_field_that_says_the_same_beside_content_is_a_mark() -> None:
    chunks = [delta({"role": "assistant", "content": "", "agent": "x"}), delta({"content": "a", "agent": "x"})]
    record = read(*chunks, delta({"agent": "x"}, reason="stop"))
    assert (record.chunk_ns, record.unknown_fields) == ((2000,), ())


@pytest.mark.parametrize(("name", "first"), [("thoughts", 2000), ("inner_reasoning", 2000), ("translation", 1000)])
def test_unknown_field_is_reasoning_where_its_name_says_so(name: str, first: int) -> None:
    assert read(delta({name: "a"}), delta("b"), *end(2)).first_output_ns == first


def test_message_in_the_place_of_a_delta() -> None:
    message = sse({"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}]})
    assert read(message, *end(1)).chunk_ns == (1000,)
    whole = sse({"choices": [{"index": 0, "delta": {}, "message": {"content": "ab"}, "finish_reason": "stop"}]})
    assert read(delta("a"), delta("b"), whole).chunk_ns == (1000, 2000)


def test_completions_with_a_field_of_its_own() -> None:
    chunk = sse({"choices": [{"index": 0, "text": "", "reasoning": "a", "logprobs": None, "matched_stop": 2}]})
    record = read(chunk, *end(1), endpoint="completions")
    assert (record.chunk_ns, record.first_output_ns) == ((1000,), None)


@pytest.mark.parametrize("fields", [{"content": 7}, {"content": True}, "text", ["a"]])
def test_content_that_is_none_fails_its_request(fields: Any) -> None:
    event = sse({"choices": [{"index": 0, "delta": fields}]})
    assert "event not understood" in (read(delta("a"), event, *end(2)).error or "")


def test_text_generation_inference_and_llama_cpp() -> None:
    token = {"id": 5, "text": " a", "logprob": -1.0, "special": False}
    last = {"id": 2, "text": "</s>", "logprob": -1.0, "special": True}
    details = {"finish_reason": "eos_token", "generated_tokens": 2, "input_length": 7}
    record = read(
        sse({"index": 1, "token": token, "generated_text": None, "details": None}),
        sse({"index": 2, "token": last, "generated_text": " a", "details": details}),
        endpoint="generate",
    )
    assert (record.chunk_ns, record.chunk_tokens, record.textless_chunks) == ((1000, 2000), (1, 1), (1,))
    assert (record.input_tokens, record.output_tokens, record.finish_reason) == (7, 2, "eos_token")
    own = {"stop": True, "stop_type": "limit", "tokens_predicted": 2, "tokens_evaluated": 7, "content": ""}
    record = read(*(sse({"content": text, "stop": False}) for text in (" a", " b")), sse(own), endpoint="generate")
    assert (record.chunk_ns, record.output_tokens, record.input_tokens) == ((1000, 2000), 2, 7)
    assert (record.finish_reason, record.end_told) == ("limit", True)


def test_triton_model_that_calls_its_text_otherwise() -> None:
    answers = [sse({"model_name": "m", "model_version": "1", "OUT": text}) for text in (" a", " b")]
    record = read(*answers, endpoint="generate")
    assert (record.chunk_ns, record.unknown_fields) == ((1000, 2000), ("OUT",))


@pytest.mark.parametrize("total", [3, None])
@pytest.mark.parametrize("field", ["delta", "message"])
def test_last_event_that_says_the_whole_answer_again_is_no_token(field: str, total: int | None) -> None:
    whole = {"role": "assistant", "content": "abc", "reasoning_content": "hm"}
    again = sse({"choices": [{"index": 0, field: whole, "finish_reason": "stop"}]})
    chunks = [delta({"reasoning_content": "hm"}), delta("a"), delta("bc")]
    record = read(*chunks, again, *(end(total)[1:] if total else (DONE,)))
    assert (record.chunk_ns, record.output_tokens, record.tokenless_ns) == ((1000, 2000, 3000), 3, (4000,))


def test_repetition_among_chunks_of_the_same_kind() -> None:
    record = read(*(delta(text, 4) for text in ("a", "b", "c", "d", "abcd")), *end(4))
    assert (len(record.chunk_ns), record.tokenless_ns[0]) == (4, 5000)


def test_last_chunk_like_the_one_before_it_is_a_token() -> None:
    assert len(read(delta("ha"), delta("ha", reason="stop"), DONE).chunk_ns) == 2
    assert len(read(delta("a"), delta("b"), delta("aba", reason="stop"), DONE).chunk_ns) == 3


def test_field_that_changes_is_a_mark_where_the_total_leaves_it_no_token() -> None:
    chunks = [delta({"content": text, "at": f"second {text}"}) for text in "abc"]
    last = delta({"at": "second d"}, reason="stop")
    record = read(*chunks, last, *end(3)[1:])
    assert (record.chunk_ns, record.unknown_fields, record.usage_doubt) == ((1000, 2000, 3000), (), None)
    assert read(*chunks, last, *end(4)[1:]).unknown_fields == ("at",)
