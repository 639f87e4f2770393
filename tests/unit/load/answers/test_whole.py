"""What a whole answer is: its end was told, and nothing went wrong before."""

from __future__ import annotations

from typing import Any

import pytest
from samples import record as made_record
from streams import DONE, delta, end, read, sse

from pytest_llmperf.load.answers.whole import with_missing_ends_failed
from pytest_llmperf.load.endpoints.table import Asked, asked_by
from pytest_llmperf.plan.load.point import LoadPoint

SAID = (delta("a"), delta("b"))


@pytest.mark.parametrize(
    "reason",
    [
        "stop", "length", "tool_calls", "function_call", "eos_token", "stop_sequence", "eos", "STOP", "MAX_TOKENS",
        "FINISH_REASON_STOP", "end_turn", "max_tokens", "COMPLETE", "stop_str", "limit", "word", "model_length",
        {"type": "stop", "matched": 2}, {"type": "length", "length": 2},
    ],
)  # fmt: skip
def test_reasons_that_are_a_good_end(reason: Any) -> None:
    record = read(*SAID, delta({}, reason=reason))
    assert (record.error, record.end_told) == (None, True)


@pytest.mark.parametrize(
    "reason",
    [
        "error", "abort", "network_error", "insufficient_system_resource", "content_filter", "SAFETY", "timeout",
        "cancelled", "sensitive", "model_context_window_exceeded", "USER_CANCEL", "what nobody knows",
    ],
)  # fmt: skip
def test_any_other_reason_is_a_failure_and_told_by_name(reason: str) -> None:
    record = read(*SAID, *end(2, reason))
    assert record.error == f"the server ended the request with finish_reason {reason!r}"
    assert (record.finish_reason, len(record.chunk_ns)) == (reason, 2)
    allowed = read(*SAID, *end(2, reason), asked=Asked(good_finish_reasons=(reason.upper(), "other")))
    assert (allowed.error, allowed.end_told) == (None, True)


def test_a_plan_allows_more_reasons() -> None:
    given: dict[str, Any] = {"name": "p", "input_tokens": 5, "output_tokens": 9, "concurrency": 1, "requests": 1}
    point = LoadPoint(**given, good_finish_reasons=["sensitive"], extra_body={"n": 2})
    assert point.as_dict()["good_finish_reasons"] == ["sensitive"]
    assert asked_by(point) == Asked(2, ("sensitive",))


def test_reason_that_is_an_object_of_a_failure_is_told_in_its_words() -> None:
    reason = {"type": "abort", "message": "out of memory", "status_code": 500}
    assert "'abort: out of memory'" in (read(*SAID, delta({}, reason=reason)).error or "")


@pytest.mark.parametrize("reason", [None, "", "null", "None"])
def test_no_reason_is_no_end(reason: Any) -> None:
    record = read(*SAID, delta({}, reason=reason))
    assert (record.error, record.end_told) == ("stream ended early: no finish_reason, no [DONE]", False)
    assert read(*SAID, delta({}, reason=reason), DONE).ok


def _event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()


FAILURES = {
    "event error, text": (_event("error", "upstream died"), "upstream died"),
    "event error, JSON": (_event("error", '{"message": "upstream died"}'), "upstream died"),
    "event error, without data": (b"event: error\n\n", "error"),
    "event of another name for it": (_event("server_error", "upstream died"), "upstream died"),
    "field error": (b'error: {"message": "upstream died"}\n\n', "upstream died"),
    "field error, CRLF": (b'error:{"message":"upstream died"}\r\n\r\n', "upstream died"),
    "field error in an event": (b"id: 7\nerror: upstream died\n\n", "upstream died"),
    "unframed JSON": (b'{"error": {"message": "upstream died"}}\n\n', "upstream died"),
    "unframed JSON in lines": (b'{\n "error": {\n "message": "upstream died"}}\n\n', "upstream died"),
    "unframed page": (b"<html>\n<h1>upstream died</h1>\n</html>\n\n", "<html> <h1>upstream died</h1> </html>"),
    "unframed text": (b"upstream died\n\n", "upstream died"),
    "unframed text like a field": (b"reason: upstream died\n\n", "reason: upstream died"),
    "detail": (sse({"detail": "upstream died"}), "upstream died"),
    "message and code": (sse({"message": "upstream died", "code": 500}), "upstream died"),
    "errors": (sse({"errors": ["upstream died"]}), '{"errors": ["upstream died"]}'),
    "status": (sse({"status": "upstream died"}), '{"status": "upstream died"}'),
    "id and status": (sse({"id": "x", "status": "upstream died"}), "upstream died"),
    "no choices": (sse({"choices": None, "message": "upstream died"}), "upstream died"),
    "error in a choice": (sse({"choices": [{"delta": {}, "error": {"message": "upstream died"}}]}), "upstream died"),
    "error beside content": (sse({"error": "upstream died", "choices": [{"delta": {"content": "a"}}]}), "upstream"),
    "a type that says so": (sse({"type": "error", "request_id": "upstream died"}), "upstream died"),
    "a code beside no choices": (sse({"choices": [], "code": "InternalError"}), "InternalError"),
    "a status of a chunk": (sse({"object": "chat.completion.chunk", "status": "failed", "code": 500}), "failed"),
    "event aborted": (_event("abort", "upstream died"), "upstream died"),
    "event failed": (_event("failed", "upstream died"), "upstream died"),
    "event timeout": (_event("request.timeout", "upstream died"), "upstream died"),
    "text as data": (b"data: upstream died\n\n", "upstream died"),
}


@pytest.mark.parametrize(("failure", "words"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("said", [(), SAID], ids=["at once", "after content"])
@pytest.mark.parametrize("then", [(), (DONE,), end(2)], ids=["closed", "done", "as if nothing were"])
def test_failure_in_a_stream_is_told_in_the_servers_words(
    failure: bytes, words: str, said: tuple[bytes, ...], then: tuple[bytes, ...]
) -> None:
    record = read(*said, failure, *then)
    assert words in (record.error or "")
    assert len(record.chunk_ns) >= len(said)


@pytest.mark.parametrize("failure", [name for name in FAILURES if name != "error beside content"])
def test_last_failure_may_lack_its_blank_line(failure: str) -> None:
    event, words = FAILURES[failure]
    assert words in (read(*SAID, event.rstrip(b"\r\n")).error or "")


@pytest.mark.parametrize(
    "harmless",
    [
        b": OPENROUTER PROCESSING\n\n",
        b":\n",
        b"id: 7\n\n",
        b"retry: 100\n\n",
        b"data:\n\n",
        b"data\n\n",
        b"data: {}\n\n",
        b"data: null\n\n",
        b"event: ping\n\n",
        _event("ping", "2026-01-01"),
        _event("keep-alive", "{}"),
        _event("metadata", '{"run": "x"}'),
        sse({"type": "ping"}),
        sse({"type": "keepalive", "at": 3}),
        sse({"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "id": "", "object": "", "created": 0}),
        sse({"choices": [], "usage": None}),
        sse({"object": "chat.completion.chunk", "id": "x", "model": "m"}),
        sse({"choices": [{"delta": {"role": "assistant"}}], "error": None, "obfuscation": "xx"}),
        sse({"choices": [{"delta": {}}], "error": False}),
        sse({"choices": [{"delta": {}}], "error": {}}),
        sse({"code": 0, "msg": "success"}),
        sse({"choices": [{"delta": {}}], "usage": "none"}),
        sse({"timings": {"cache_n": 3}, "choices": []}),
        b"x-trace: 7\ndata: {}\n\n",
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_what_is_no_failure(harmless: bytes, place: int) -> None:
    pieces = [*SAID, *end(2)]
    record = read(*pieces[:place], harmless, *pieces[place:])
    assert (record.error, len(record.chunk_ns), record.output_tokens) == (None, 2, 2)


def test_what_follows_the_end_is_no_part_of_the_answer() -> None:
    late = sse({"metrics": {"queue_ms": 3}})
    assert read(*SAID, *end(2)[:1], late, DONE).ok
    assert not read(*SAID, late, *end(2)).ok
    assert not read(*SAID, *end(2)[:1], sse({"error": "late"}), DONE).ok


@pytest.mark.parametrize("lines", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("last", [delta({}, 2, "stop"), DONE])
def test_the_last_event_may_lack_its_blank_line(lines: bytes, last: bytes) -> None:
    stream = (b"".join(SAID) + last).replace(b"\n", lines)
    for kept in range(3):
        whole = stream[: len(stream) - (2 - kept) * len(lines)]
        for at in range(0, len(whole), 7):
            assert read(whole[:at], whole[at:]).ok
    assert not read(stream[: -2 * len(lines)], error="connection reset by peer").ok


def test_stream_that_is_cut_within_its_last_event_is_failed() -> None:
    event = delta({}, reason="stop")
    for kept in range(len(event) - 4):
        assert not read(*SAID, event[:kept]).ok


@pytest.mark.parametrize("endpoint", ["generate", "grpc"])
def test_servers_that_tell_no_end_are_whole_unless_others_of_the_run_told_theirs(endpoint: str) -> None:
    untold, told, failed = made_record(end_told=False), made_record(), made_record(error="boom", end_told=False)
    assert with_missing_ends_failed([untold, failed]) == (untold, failed)
    first, second, third = with_missing_ends_failed([untold, told, failed])
    assert (first.error, second, third) == (
        "stream ended early: its end was not told, as that of other answers of the run was", told, failed
    )  # fmt: skip
    assert with_missing_ends_failed((first, second, third)) == (first, second, third)


def test_generate_tells_its_end_where_the_model_has_a_reason() -> None:
    parts = [sse({"model_name": "m", "text_output": text}) for text in ("a", "b")]
    assert (read(*parts, endpoint="generate").error, read(*parts, endpoint="generate").end_told) == (None, False)
    last = sse({"model_name": "m", "text_output": "", "finish_reason": "length"})
    assert read(*parts, last, endpoint="generate").end_told
    bad = sse({"model_name": "m", "text_output": "", "finish_reason": "timed_out"})
    assert "'timed_out'" in (read(*parts, bad, endpoint="generate").error or "")
    odd = sse({"detail": "boom"})
    assert "boom" in (read(*parts, odd, endpoint="generate").error or "")


def test_events_of_the_responses_api_of_no_known_kind() -> None:
    done = sse({"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 2}}})
    text = sse({"type": "response.output_text.delta", "delta": "a"})
    new = sse({"type": "response.dream.delta", "delta": "b"})
    record = read(text, new, done, endpoint="responses")
    assert (record.unknown_fields, record.chunk_ns, record.error) == (("response.dream.delta",), (1000, 2000), None)
    assert "boom" in (read(text, sse({"status": "boom"}), done, endpoint="responses").error or "")
    cut_off = {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "content_filter"}}}
    assert "content_filter" in (read(text, sse(cut_off), endpoint="responses").error or "")
    assert read(text, sse({"type": "keepalive"}), done, endpoint="responses").ok


def test_end_that_is_no_text_fails_its_request() -> None:
    assert "event not understood" in (read(*SAID, delta({}, reason=["stop"])).error or "")


def test_done_alone_is_no_end_where_other_answers_gave_a_reason() -> None:
    """A proxy that closes every stream with [DONE] hides that the server gave up."""
    whole, cut = read(*SAID, *end(2)), read(*SAID, DONE)
    assert cut.ok
    first, second = with_missing_ends_failed([whole, cut])
    assert first.ok
    assert second.error == "stream ended early: [DONE] without a finish_reason, which other answers of the run had"
    assert all(record.ok for record in with_missing_ends_failed([cut, cut]))


def test_done_may_have_spaces_behind_it() -> None:
    assert read(*SAID, b"data: [DONE] \n\n").ok


def test_one_of_several_answers_without_a_token_fails_the_request() -> None:
    said = [delta("a"), delta("b"), *(delta({}, reason="stop", index=place) for place in (0, 1))]
    record = read(*said, asked=Asked(2))
    assert record.error == "1 of 2 answers carried a token"


def test_content_beside_an_empty_delta_is_seen() -> None:
    chunks = [sse({"choices": [{"index": 0, "delta": {}, "output": text}]}) for text in ("a", "b")]
    record = read(*chunks, *end(2))
    assert (record.error, len(record.chunk_ns), record.unknown_fields) == (None, 2, ("output",))


@pytest.mark.parametrize("kind", ["response.completed", "response.canceled"])
def test_response_that_failed_under_another_name(kind: str) -> None:
    response = {"status": "failed", "error": {"message": "upstream died"}}
    said = sse({"type": "response.output_text.delta", "delta": "a"})
    record = read(said, sse({"type": kind, "response": response}), DONE, endpoint="responses")
    assert "upstream died" in (record.error or "")
