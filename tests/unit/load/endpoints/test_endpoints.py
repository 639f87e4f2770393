"""The Responses API and Triton's generate: bodies, and streams as servers write them, cut at every byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from samples import cut
from tiny_tokenizer import make_tokenizer

from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.endpoints.table import ENDPOINTS
from pytest_llmperf.load.trace.tokenizer import load_tokenizer
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import RequestRecord

PLANNED = PlannedRequest(index=0, phase="measured", due_ns=None, prompt="p", output_tokens=3)
KNOWN = PlannedRequest(index=0, phase="measured", due_ns=None, prompt=(1, 2), output_tokens=3, input_tokens=2)


def _capture(*reads: bytes, **changes: Any) -> Capture:
    given: dict[str, Any] = {
        "sent_ns": 500,
        "ended_ns": 99_999,
        "kernel_ns": tuple(1000 * (i + 1) for i in range(len(reads))),
        "user_ns": tuple(1000 * (i + 1) + 50 for i in range(len(reads))),
        **cut(reads),
        "status": 200,
        "content_type": "text/event-stream; charset=utf-8",
        "error": None,
    }
    return Capture(**(given | changes))


def _record(
    endpoint: str, *reads: bytes, planned: PlannedRequest = PLANNED, count: Any = None, **changes: Any
) -> RequestRecord:
    capture = _capture(*reads, **changes)
    reader = AnswerReader(ENDPOINTS[endpoint], count=count)
    return reader.record(capture, planned, "kernel", request_id="id", due_ns=None)


def _event(kind: str, **more: Any) -> bytes:
    return (
        b"event: "
        + kind.encode()
        + b"\ndata: "
        + json.dumps({"type": kind, **more}, ensure_ascii=False).encode()
        + b"\n\n"
    )


def _sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


def _end(kind: str = "response.completed", **more: Any) -> bytes:
    usage = {"input_tokens": 7, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 1}}
    return _event(kind, sequence_number=9, response={"id": "resp_1", "usage": usage, **more})


RESPONSES = [
    _event("response.created", response={"id": "resp_1", "status": "in_progress", "error": None, "usage": None}),
    _event("response.in_progress", response={"id": "resp_1", "usage": None}),
    _event("response.output_item.added", output_index=0, item={"type": "reasoning"}),
    _event("response.reasoning_text.delta", delta="hm", output_index=0),
    _event("response.reasoning_text.done", text="hm"),
    _event("response.output_text.delta", delta="Hé", output_index=1),
    _event("response.output_text.delta", delta="llo", output_index=1),
    _event("response.output_text.done", text="Héllo"),
    _end(),
]


def test_responses() -> None:
    record = _record("responses", *RESPONSES)
    assert record.error is None
    assert record.chunk_ns == (4000, 6000, 7000)
    assert (record.first_output_ns, record.chunk_tokens) == (6000, None)
    assert (record.input_tokens, record.output_tokens, record.token_source) == (7, 4, "usage")
    assert (record.input_tokens_source, record.finish_reason, record.end_ns) == ("usage", "stop", 9000)
    assert AnswerReader(ENDPOINTS["responses"]).text(_capture(*RESPONSES)) == "Héllo"


def test_an_answer_of_full_length_is_incomplete_and_no_error() -> None:
    end = _end("response.incomplete", incomplete_details={"reason": "max_output_tokens"})
    record = _record("responses", *RESPONSES[:-1], end)
    assert (record.error, record.finish_reason, record.output_tokens) == (None, "length", 4)
    end = _end("response.incomplete", incomplete_details={"reason": "content_filter"})
    assert _record("responses", *RESPONSES[:-1], end).finish_reason == "content_filter"


@pytest.mark.parametrize("kind", ["response.function_call_arguments.delta", "response.refusal.delta"])
def test_tool_calls_and_refusals_are_output(kind: str) -> None:
    record = _record("responses", _event(kind, delta="{"), _end())
    assert (record.chunk_ns, record.first_output_ns) == ((1000,), 1000)


def test_reasoning_summaries_are_reasoning() -> None:
    record = _record("responses", _event("response.reasoning_summary_text.delta", delta="a"), _end())
    assert (record.chunk_ns, record.first_output_ns) == ((1000,), None)


@pytest.mark.parametrize(
    "event",
    [
        _event("response.failed", response={"status": "failed", "error": {"code": "server_error", "message": "boom"}}),
        _event("error", code="server_error", message="boom", param=None),
        _event("error", error={"message": "boom"}),
        _sse({"error": {"message": "boom"}}),
    ],
)
def test_responses_that_fail_after_200(event: bytes) -> None:
    record = _record("responses", *RESPONSES[:6], event)
    assert record.error == "error in the stream: boom"
    assert record.chunk_ns == (4000, 6000)


def test_responses_stream_that_just_ends() -> None:
    assert "stream ended early" in (_record("responses", *RESPONSES[:-1]).error or "")
    assert "event not understood" in (_record("responses", b"data: {oops\n\n").error or "")
    assert "event not understood (not a JSON object" in (_record("responses", b"data: [1]\n\n").error or "")
    assert "event not understood (a value is missing" in (
        _record("responses", _event("response.completed")).error or ""
    )


GENERATE = [
    _sse({"model_name": "m", "model_version": "1", "text_output": " Hé"}),
    _sse({"model_name": "m", "model_version": "1", "text_output": ""}),
    _sse({"model_name": "m", "model_version": "1", "text_output": ["llo"]}),
    _sse({"model_name": "m", "model_version": "1", "text_output": "!"}),
    _sse({"model_name": "m", "model_version": "1", "text_output": ""}),
]


def test_generate_counts_chunks_with_text_and_needs_no_sign_of_an_end() -> None:
    record = _record("generate", *GENERATE)
    assert record.error is None
    assert record.chunk_ns == (1000, 3000, 4000)
    assert (record.output_tokens, record.token_source) == (3, "chunks")
    assert (record.input_tokens, record.input_tokens_source) == (None, None)


def test_generate_with_counts_of_the_server() -> None:
    def response(text: str, tokens: int, reason: str = "None") -> bytes:
        return _sse({"text_output": text, "num_output_tokens": tokens, "num_input_tokens": 9, "finish_reason": reason})

    record = _record("generate", response("a", 1), response("", 1), response("bc", 2), response("", 0, "length"))
    assert (record.chunk_ns, record.chunk_tokens) == ((1000, 2000, 3000), (1, 1, 2))
    assert (record.output_tokens, record.token_source, record.input_tokens) == (4, "usage", 9)
    assert record.finish_reason == "length"


def test_generate_with_a_tokenizer_and_known_input(tmp_path: Path) -> None:
    """The joined text is counted: two chunks that make one word are one token."""
    count = load_tokenizer(make_tokenizer(tmp_path, 4000)).count
    record = _record(
        "generate", _sse({"text_output": " peo"}), _sse({"text_output": "ple"}), planned=KNOWN, count=count
    )
    assert len(record.chunk_ns) == 2
    assert (record.output_tokens, record.token_source) == (1, "tokenizer")
    assert (record.input_tokens, record.input_tokens_source) == (2, "token-ids")


@pytest.mark.parametrize("at", [0, 2])
def test_generate_error_in_the_stream(at: int) -> None:
    record = _record("generate", *GENERATE[:at], _sse({"error": "in ensemble 'm', out of memory"}))
    assert record.error == "error in the stream: in ensemble 'm', out of memory"


def test_generate_error_before_the_stream() -> None:
    body = b'{"error":"failed to parse the request JSON buffer: Invalid value."}'
    record = _record("generate", body, status=400, content_type="application/json")
    assert record.error == "HTTP 400: failed to parse the request JSON buffer: Invalid value."


def test_generate_without_any_token_and_cut_off() -> None:
    assert _record("generate", GENERATE[-1]).error == "the stream carried no token"
    assert _record("generate", GENERATE[0], error="connection closed").error == "connection closed"
    assert _record("generate", b"data: [DONE]\n\n").error == "the stream carried no token"


COMPLETIONS = [
    _sse({"choices": [{"text": " two", "finish_reason": None}]}),
    _sse({"choices": [{"text": " words", "finish_reason": "stop"}]}),
]
CHAT = [
    _sse({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}),
    _sse({"choices": [{"delta": {"reasoning_content": "the "}, "finish_reason": None}]}),
    _sse({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "get"}}]}, "finish_reason": None}]}),
    _sse({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": " man"}}]}, "finish_reason": None}]}),
    _sse({"choices": [{"delta": {"content": "é"}, "finish_reason": "stop"}]}),
]
STREAMS = {"responses": RESPONSES, "generate": GENERATE, "completions": COMPLETIONS, "chat": CHAT}


@pytest.mark.parametrize("endpoint", STREAMS)
@pytest.mark.parametrize("style", ["plain", "crlf", "comments", "done"])
def test_a_stream_cut_anywhere_says_the_same(endpoint: str, style: str) -> None:
    """All its bytes one by one, and in two reads at every place; with CRLF, comments, with and without [DONE]."""
    stream = b"".join(STREAMS[endpoint])
    if style == "crlf":
        stream = stream.replace(b"\n", b"\r\n")
    elif style == "comments":
        stream = b": ping\n\n" + stream.replace(b"\n\n", b"\n\n: ping\n\n")
    elif style == "done" and endpoint != "generate":
        stream += b"data: [DONE]\n\n"
    whole = _record(endpoint, stream)
    assert whole.error is None
    facts = (whole.output_tokens, whole.input_tokens, whole.finish_reason, len(whole.chunk_ns))
    cuts = [[stream[:at], stream[at:]] for at in range(1, len(stream))]
    for reads in [[stream[at : at + 1] for at in range(len(stream))], *cuts]:
        record = _record(endpoint, *reads)
        assert (record.output_tokens, record.input_tokens, record.finish_reason, len(record.chunk_ns)) == facts
        assert record.error is None


def test_reasoning_tool_calls_and_text_are_counted_together(tmp_path: Path) -> None:
    counted: list[str] = []
    record = _record("chat", *CHAT, count=lambda text: counted.append(text) or 5)
    assert counted == ["the get man" + "é"]
    assert (record.output_tokens, record.token_source) == (5, "tokenizer")
    assert (record.chunk_ns, record.first_output_ns) == ((2000, 3000, 4000, 5000), 3000)
    assert AnswerReader().text(_capture(*CHAT)) == "é"


def test_usage_and_token_ids_are_better_than_a_tokenizer() -> None:
    usage = _sse({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    record = _record("completions", *COMPLETIONS, usage, count=len)
    assert (record.output_tokens, record.token_source) == (2, "usage")
    ids = [_sse({"choices": [{"text": "ab", "token_ids": [1, 2, 3], "finish_reason": "stop"}]})]
    record = _record("completions", *ids, count=len)
    assert (record.output_tokens, record.token_source) == (3, "usage")


def test_failed_request_has_no_answer_and_no_input_length() -> None:
    assert AnswerReader().text(_capture(b"busy", status=503)) is None
    record = _record("generate", b"busy", status=503, planned=KNOWN)
    assert (record.input_tokens, record.input_tokens_source) == (None, None)


def _point(**changes: Any) -> LoadPoint:
    given: dict[str, Any] = {"name": "p", "input_tokens": 5, "output_tokens": 9, "concurrency": 1, "requests": 1}
    return LoadPoint(**(given | changes))


def _body(endpoint: str, **changes: Any) -> dict[str, Any]:
    point = _point(endpoint=endpoint, **changes)
    return ENDPOINTS[endpoint].body(point, "hi", 6, model="m", every_chunk_usage=True)


def test_responses_body() -> None:
    assert _body("responses") == {
        "model": "m",
        "input": "hi",
        "stream": True,
        "store": False,
        "max_output_tokens": 6,
        "temperature": 0.0,
        "ignore_eos": True,
        "min_tokens": 6,
    }
    assert _body("responses", ignore_eos=False, extra_body={"store": True})["store"] is True


def test_generate_body() -> None:
    assert _body("generate", extra_body={"parameters": {"top_k": 1, "stream": True}, "bad_words": ""}) == {
        "text_input": "hi",
        "parameters": {
            "stream": True,
            "max_tokens": 6,
            "exclude_input_in_output": True,
            "temperature": 0.0,
            "ignore_eos": True,
            "min_tokens": 6,
            "top_k": 1,
        },
        "bad_words": "",
    }


def test_null_leaves_a_field_of_triton_and_of_responses_out() -> None:
    assert "min_tokens" not in _body("responses", extra_body={"min_tokens": None})
    body = _body("generate", extra_body={"parameters": {"ignore_eos": None, "min_tokens": None}, "bad_words": None})
    assert set(body) == {"text_input", "parameters"}
    assert set(body["parameters"]) == {"stream", "max_tokens", "exclude_input_in_output", "temperature"}
    assert _body("generate", extra_body={"parameters": None}) == {"text_input": "hi", "parameters": {}}


def test_paths() -> None:
    paths = {name: endpoint.path("org/m") for name, endpoint in ENDPOINTS.items()}
    assert paths == {
        "chat": "/v1/chat/completions",
        "completions": "/v1/completions",
        "responses": "/v1/responses",
        "generate": "/v2/models/org%2Fm/generate_stream",
        "generate-once": "/v2/models/org%2Fm/generate",
        "infer": "/v2/models/org%2Fm/infer",
        "grpc": "/v2/models/org%2Fm/generate_stream",
    }
