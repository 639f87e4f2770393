"""From the bytes of a response to a record: which chunks carry tokens, when they came, and what counts as failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from samples import cut

from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.endpoints.openai import error_text, request_body, shorten
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import RequestRecord

PLANNED = PlannedRequest(index=3, phase="measured", due_ns=None, prompt="p", output_tokens=4)
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def _sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chat(delta: dict[str, Any], finish_reason: str | None = None, usage: int | None = None, **choice: Any) -> bytes:
    event: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **choice}],
    }
    if usage is not None:
        event["usage"] = {"prompt_tokens": 7, "completion_tokens": usage, "total_tokens": 7 + usage}
    return _sse(event)


def _text(text: str, finish_reason: str | None = None, **more: Any) -> bytes:
    return _sse({"object": "text_completion", "choices": [{"text": text, "finish_reason": finish_reason}], **more})


def _record(*reads: bytes, error: str | None = None, **changes: Any) -> RequestRecord:
    """Read `i` came at 1000 * (i + 1) by the kernel's stamp, 50 ns later in user space."""
    given: dict[str, Any] = {
        "sent_ns": 500,
        "ended_ns": 99_999,
        "kernel_ns": tuple(1000 * (i + 1) for i in range(len(reads))),
        "user_ns": tuple(1000 * (i + 1) + 50 for i in range(len(reads))),
        **cut(reads),
        "status": 200,
        "content_type": "text/event-stream; charset=utf-8",
        "error": error,
    }
    return AnswerReader().record(Capture(**(given | changes)), PLANNED, "kernel", request_id="id", due_ns=None)


ROLE = _chat({"role": "assistant", "content": ""})


def test_vllm_chat_with_usage_in_the_last_chunk() -> None:
    record = _record(
        ROLE + _chat({"content": "Hel"}),
        _chat({"content": "lo"}),
        _chat({"content": "!"}, "length"),
        _sse({"choices": [], "usage": USAGE}) + DONE,
    )
    assert record.error is None
    assert record.chunk_ns == (1000, 2000, 3000)
    assert record.chunk_tokens is None
    assert (record.input_tokens, record.output_tokens, record.token_source) == (7, 3, "usage")
    assert (record.finish_reason, record.status, record.end_ns) == ("length", 200, 4000)
    assert (record.first_output_ns, record.coalesced_chunks) == (1000, 0)
    assert (record.index, record.phase, record.request_id, record.sent_ns) == (3, "measured", "id", 500)
    assert record.requested_output_tokens == 4


def test_usage_in_every_chunk_decides_what_is_a_token() -> None:
    """Empty text counts when usage grows, text does without growth, and a chunk may hold several tokens."""
    record = _record(
        _chat({"role": "assistant", "content": ""}, usage=0),
        _chat({"content": ""}, usage=1),
        _chat({"content": "a"}, usage=2),
        _chat({"content": "held back text"}, usage=2),
        _chat({"content": "bcd"}, usage=5),
        _chat({"content": ""}, "stop", usage=5),
        _sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}) + DONE,
    )
    assert record.chunk_ns == (2000, 3000, 4000, 5000)
    assert record.chunk_tokens == (1, 1, 0, 3)
    assert (record.output_tokens, record.first_output_ns, record.usage_doubt) == (5, 2000, None)


def test_without_usage_chunks_are_counted() -> None:
    record = _record(ROLE, _chat({"content": "a"}), _chat({"content": ""}), _chat({"content": "b"}, "stop"), DONE)
    assert record.chunk_ns == (2000, 4000)
    assert (record.input_tokens, record.output_tokens, record.token_source) == (None, 2, "chunks")


def test_completions() -> None:
    record = _record(_text("a"), _text(""), _text("b", "length"), _sse({"choices": [], "usage": USAGE}))
    assert record.chunk_ns == (1000, 3000)
    assert (record.output_tokens, record.ok) == (3, True)


def test_total_in_the_last_chunk_with_content_is_no_count_per_chunk() -> None:
    record = _record(_text("a"), _text("b"), _text("c", "stop", usage=USAGE), DONE)
    assert record.chunk_ns == (1000, 2000, 3000)
    assert record.chunk_tokens is None
    assert record.output_tokens == 3


def test_null_usage_is_none() -> None:
    record = _record(_text("a", usage=None), _text("b", "stop", usage=None), _sse({"choices": [], "usage": USAGE}))
    assert record.chunk_tokens is None
    assert record.chunk_ns == (1000, 2000)


def test_token_ids_make_an_empty_chunk_count() -> None:
    record = _record(
        _chat({"role": "assistant", "content": ""}),
        _chat({"content": ""}, token_ids=[1]),
        _chat({"content": "ab"}, "stop", token_ids=[2, 3]),
        DONE,
    )
    assert record.chunk_ns == (2000, 3000)
    assert record.chunk_tokens == (1, 2)
    assert (record.output_tokens, record.token_source) == (3, "usage")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("usage", [True, False])
def test_reasoning_tokens_count_but_are_not_output(key: str, usage: bool) -> None:
    totals = iter([0, 1, 2, 3]) if usage else iter([None] * 4)
    record = _record(
        _chat({"role": "assistant", "content": ""}, usage=next(totals)),
        _chat({key: "hm"}, usage=next(totals)),
        _chat({key: "m"}, usage=next(totals)),
        _chat({"content": "yes"}, "stop", usage=next(totals)),
        DONE,
    )
    assert record.chunk_ns == (2000, 3000, 4000)
    assert record.first_output_ns == 4000


def test_all_reasoning_has_no_first_output() -> None:
    record = _record(_chat({"reasoning": "a"}, usage=1), _chat({"content": ""}, "length", usage=2), DONE)
    assert record.chunk_ns == (1000, 2000)
    assert record.first_output_ns is None


def test_tool_calls_carry_tokens() -> None:
    call = {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}
    record = _record(ROLE, _chat(call), _chat({}, "tool_calls"), DONE)
    assert record.chunk_ns == record.chunk_ns[:1] == (2000,)
    assert record.first_output_ns == 2000


def test_chunks_of_one_read_share_its_stamp_and_are_counted() -> None:
    record = _record(ROLE + _text("a") + _text("b"), _text("c"), _text("d") + _text("e") + _text("f", "stop"))
    assert record.chunk_ns == (1000, 1000, 2000, 3000, 3000, 3000)
    assert record.coalesced_chunks == 5


def test_chunks_of_several_prompts_in_one_read_are_as_the_server_sent_them() -> None:
    def step(text: str, *prompts: int) -> bytes:
        return b"".join(_sse({"choices": [{"index": prompt, "text": text}]}) for prompt in prompts)

    assert _record(step("a", 0, 1, 2), step("b", 2, 0, 1)).coalesced_chunks == 0
    assert _record(step("a", 0, 1, 2), step("b", 0, 1, 1)).coalesced_chunks == 2


def test_an_event_has_the_time_of_the_read_that_completed_it() -> None:
    event = _text("a")
    record = _record(event[:-1], event[-1:] + _text("b", "stop")[:20], _text("b", "stop")[20:], DONE)
    assert record.chunk_ns == (2000, 3000)
    assert record.coalesced_chunks == 0


@pytest.mark.parametrize("reads", [1, 2, 7, 10_000])
def test_how_the_stream_is_cut_changes_times_only(reads: int) -> None:
    stream = ROLE + b": ping\n\n" + _chat({"content": "é"}, usage=1) + _chat({"content": "b"}, "stop", usage=2) + DONE
    size = max(1, len(stream) // reads)
    record = _record(*[stream[i : i + size] for i in range(0, len(stream), size)])
    assert (record.chunk_tokens, record.output_tokens, record.error) == ((1, 1), 2, None)


def test_stamps_of_the_two_clocks_are_not_mixed() -> None:
    record = _record(_text("a"), _text("b", "stop"), kernel_ns=(1000, 0))
    assert record.chunk_ns == (1050, 2050)
    assert record.end_ns == 2050


@pytest.mark.parametrize("last", [_text("", "stop"), DONE])
def test_any_one_sign_of_an_end_is_enough(last: bytes) -> None:
    record = _record(_text("a"), last)
    assert (record.error, record.end_told) == (None, True)


def test_usage_is_no_end() -> None:
    record = _record(_text("a"), _sse({"choices": [], "usage": USAGE}))
    assert (record.error, record.end_told) == ("stream ended early: no finish_reason, no [DONE]", False)


def test_stream_that_just_ends_is_failed_and_keeps_what_it_had() -> None:
    record = _record(_text("a"), _text("b"))
    assert record.error == "stream ended early: no finish_reason, no [DONE]"
    assert record.chunk_ns == (1000, 2000)
    assert record.output_tokens == 2


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}, "EngineCore died"),
        ({"error": "boom"}, "boom"),
        ({"error": {"code": 3}}, '{"code": 3}'),
        ({"choices": [], "error": {"message": "late"}}, "late"),
        ({"object": "error", "message": "old vLLM"}, "old vLLM"),
        ({"error": {}}, '{"error": {}}'),
    ],
)
def test_error_event_after_200_is_failed_with_the_servers_words(event: dict[str, Any], words: str) -> None:
    record = _record(_text("a"), _sse(event), DONE)
    assert record.error == f"error in the stream: {words}"
    assert record.chunk_ns == (1000,)


def test_servers_words_win_over_the_broken_connection_that_follows() -> None:
    record = _record(_text("a"), _sse({"error": "boom"}), error="connection reset by peer")
    assert record.error == "error in the stream: boom"


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_request_that_the_server_gave_up_is_failed(reason: str) -> None:
    assert repr(reason) in (_record(_text("a"), _text("", reason), DONE).error or "")


def test_no_token_at_all_is_failed() -> None:
    record = _record(ROLE, _chat({}, "stop"), DONE)
    assert record.error == "the stream carried no token"
    assert (record.output_tokens, record.token_source) == (None, None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error": {"message": "no such model", "code": 404}}', "HTTP 404: no such model"),
        (b'{"object": "error", "message": "no such model"}', "HTTP 404: no such model"),
        (b'{"detail": "Not Found"}', "HTTP 404: Not Found"),
        (b'{"detail": [{"loc": ["body"]}]}', 'HTTP 404: [{"loc": ["body"]}]'),
        (b"<html>\n <b>gone</b></html>", "HTTP 404: <html> <b>gone</b></html>"),
        (b"\xff\xfe", "HTTP 404: \ufffd\ufffd"),
        (b"", "HTTP 404 without a body"),
        (b"null", "HTTP 404: null"),
    ],
)
def test_http_error(body: bytes, error: str) -> None:
    record = _record(body, status=404, content_type="application/json")
    assert (record.error, record.status, record.chunk_ns) == (error, 404, ())


def test_long_error_is_shortened() -> None:
    record = _record(b"x" * 5000, status=500)
    assert record.error is not None
    assert len(record.error) == len("HTTP 500: ") + 500
    assert shorten("a\n b") == "a b"


def test_answer_that_is_no_stream_is_failed_with_what_was_seen() -> None:
    record = _record(b'{"choices": [{"text": "all at once"}]}', content_type="application/json")
    assert record.error is not None
    assert record.error.startswith("no event stream but application/json: ")
    assert "all at once" in record.error
    record = _record(b'{"error": "quota"}', content_type="application/json")
    assert record.error == "no event stream but application/json: quota"


@pytest.mark.parametrize("event", [b"{oops", b"[1]", b'"text"', b'{"choices": 1}', b'{"choices": ["a"]}', b"\xff"])
def test_event_that_is_not_understood_is_failed_with_what_was_seen(event: bytes) -> None:
    record = _record(_text("a"), b"data: " + event + b"\n\n", _text("b", "stop"), DONE)
    assert record.error is not None
    assert record.error.startswith("event not understood (")
    assert record.chunk_ns == (1000,)


@pytest.mark.parametrize(
    ("choice", "usage"),
    [
        ({"delta": {"content": 7}}, None),
        ({"delta": "b"}, None),
        ({"text": 7}, None),
        ({"text": "b", "finish_reason": ["stop"]}, None),
        ({"text": "b", "index": [0]}, None),
        ({"text": "b", "index": "0"}, None),
    ],
)
def test_event_with_facts_of_another_kind_fails_its_request_only(choice: dict[str, Any], usage: Any) -> None:
    record = _record(_text("a"), _sse({"choices": [choice], "usage": usage}), _text("c", "stop"), DONE)
    assert record.error is not None
    assert record.error.startswith("event not understood (")
    assert record.chunk_ns == (1000,)


def test_transport_error_without_a_response() -> None:
    record = _record(status=None, content_type="", error="no connection: connection refused", sent_ns=None)
    assert (record.error, record.status, record.sent_ns) == ("no connection: connection refused", None, None)
    assert record.end_ns == 99_999


def test_broken_connection_keeps_the_chunks_before_it() -> None:
    record = _record(_text("a"), _text("b"), error="connection closed by the server in the middle of the response")
    assert record.error == "connection closed by the server in the middle of the response"
    assert record.chunk_ns == (1000, 2000)
    assert record.end_ns == 99_999


@pytest.mark.parametrize("answer", [{}, [], None, 3, {"error": {}}, {"error": {"message": {"a": 1}}}])
def test_error_text_takes_anything(answer: Any) -> None:
    assert error_text(answer)


def _point(**changes: Any) -> LoadPoint:
    given: dict[str, Any] = {"name": "p", "input_tokens": 5, "output_tokens": 9, "concurrency": 1, "requests": 1}
    return LoadPoint(**(given | changes))


def test_chat_body() -> None:
    assert request_body(_point(), "hi", 9, model="m", every_chunk_usage=False) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.0,
        "ignore_eos": True,
        "min_tokens": 9,
    }


def test_completions_body() -> None:
    body = request_body(_point(endpoint="completions", ignore_eos=False), "hi", 9, model="m", every_chunk_usage=True)
    assert body == {
        "model": "m",
        "prompt": "hi",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 9,
        "temperature": 0.0,
    }


@pytest.mark.parametrize(
    ("extra", "left_out", "sent"),
    [
        ({"stream_options": None, "model": None, "user": None}, {"stream_options", "model", "user"}, {}),
        (
            {"ignore_eos": None, "min_tokens": None, "temperature": None},
            {"ignore_eos", "min_tokens", "temperature"},
            {},
        ),
        ({"stream_options": {"continuous_usage_stats": None}}, set(), {"stream_options": {"include_usage": True}}),
        ({"stream_options": {"include_usage": None, "continuous_usage_stats": None}}, {"stream_options"}, {}),
        ({"stream_options": {"x": 1}}, set(), {"stream_options": {"x": 1}}),
        ({"max_tokens": None, "n_predict": 4}, {"max_tokens"}, {"n_predict": 4}),
        ({"tools": [{"default": None}], "format": {"const": None}}, set(), {"format": {"const": None}}),
    ],
)
def test_null_leaves_a_field_out(extra: dict[str, Any], left_out: set[str], sent: dict[str, Any]) -> None:
    plain = request_body(_point(), "hi", 9, model="m", every_chunk_usage=True)
    body = request_body(_point(extra_body=extra), "hi", 9, model="m", every_chunk_usage=True)
    assert body.keys() == plain.keys() - left_out | {name for name, value in extra.items() if value} - left_out
    assert {name: body[name] for name in sent} == sent


def test_what_the_limit_of_tokens_is_called() -> None:
    body = request_body(_point(max_tokens_field="max_completion_tokens"), "hi", 9, model="m", every_chunk_usage=False)
    assert (body["max_completion_tokens"], "max_tokens" in body) == (9, False)


def test_extra_body_wins() -> None:
    body = request_body(_point(extra_body={"top_p": 0.5, "min_tokens": 1}), "hi", 9, model="m", every_chunk_usage=False)
    assert (body["top_p"], body["min_tokens"]) == (0.5, 1)


@pytest.mark.parametrize(
    ("temperature", "seed", "sent"), [(0.0, 3, None), (0.7, None, None), (0.7, 3, 3)], ids=["greedy", "unset", "asked"]
)
def test_seed_is_sent_only_where_it_is_asked_for_and_matters(temperature: float, seed: int | None, sent: Any) -> None:
    body = request_body(_point(temperature=temperature, seed=seed), "hi", 9, model="m", every_chunk_usage=False)
    assert body.get("seed") == sent


BATCH = PlannedRequest(0, "measured", None, "p", 2, batch=("q",))


def _of_batch(*reads: bytes, error: str | None = None, cancelled: bool = False) -> RequestRecord:
    stamps = tuple(1000 * (i + 1) for i in range(len(reads)))
    capture = Capture(500, 99_999, stamps, stamps, *cut(reads).values(), 200, "text/event-stream", error, cancelled)
    return AnswerReader().record(capture, BATCH, "kernel", request_id="id", due_ns=None)


def _part(index: int, finish_reason: str | None = None, usage: int | None = None) -> bytes:
    choice = {"index": index, "text": "a", "finish_reason": finish_reason}
    counts = {"prompt_tokens": 7, "completion_tokens": usage, "total_tokens": 0}
    return _sse({"choices": [choice], "usage": None if usage is None else counts})


def test_batch_with_usage_in_every_chunk() -> None:
    """Each choice has its own running total; the last event has the whole request's."""
    record = _of_batch(_part(0, usage=1) + _part(1, usage=1), _part(1, "length", 2), _part(0, "length", 2), DONE)
    assert (record.error, record.prompts, record.requested_output_tokens) == (None, 2, 4)
    assert (record.chunk_ns, record.chunk_tokens) == ((1000, 1000, 2000, 3000), (1, 1, 1, 1))
    assert (record.input_tokens, record.output_tokens, record.token_source) == (14, 4, "usage")


def test_batch_with_usage_in_the_last_chunk() -> None:
    total = _sse({"choices": [], "usage": {"prompt_tokens": 14, "completion_tokens": 5, "total_tokens": 19}})
    record = _of_batch(_part(0) + _part(1), _part(1, "length"), _part(0, "length"), total + DONE)
    assert (record.error, record.input_tokens, record.output_tokens) == (None, 14, 5)


def test_batch_of_which_a_prompt_got_no_answer() -> None:
    record = _of_batch(_part(0), _part(0, "length"), DONE)
    assert record.error == "1 of 2 answers came to their end"


def test_cancelled_request_is_neither_ok_nor_failed() -> None:
    record = _of_batch(_part(0), _part(1), error="cancelled", cancelled=True)
    assert (record.cancelled, record.ok, record.error) == (True, False, None)
    assert (record.chunk_ns, record.end_ns) == ((1000, 2000), 99_999)


def test_request_that_had_failed_before_it_was_cancelled_is_a_failed_one() -> None:
    record = _of_batch(_sse({"error": {"message": "no memory"}}), error="cancelled", cancelled=True)
    assert (record.cancelled, record.error) == (False, "error in the stream: no memory")


def test_chunks_with_choices_that_carry_no_token_keep_their_times() -> None:
    record = _record(ROLE, _chat({"content": "a"}), _chat({}, "stop"), _sse({"choices": [], "usage": USAGE}), DONE)
    assert record.chunk_ns == (2000,)
    assert record.tokenless_ns == (1000, 3000)


def test_tokens_without_text_are_marked() -> None:
    record = _record(_text("a", usage={"completion_tokens": 1}), _text("", "length", usage={"completion_tokens": 2}))
    assert (record.chunk_ns, record.textless_chunks, record.tokenless_ns) == ((1000, 2000), (1,), ())
