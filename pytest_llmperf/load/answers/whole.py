"""Tells whole answers from others: the server wrote that they ended, and nothing was wrong before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_llmperf.load.answers.same_events import SameEvents
from pytest_llmperf.records import RequestRecord

_GOOD_REASONS = frozenset((
    "stop", "length", "tool_calls", "tool_call", "tool_use", "function_call",  # OpenAI and those who speak like it
    "end_turn", "max_tokens", "max_output_tokens", "stop_sequence", "eos", "eos_token", "eos_token_id", "stop_token",
    "stop_str", "stop_string", "stop_word", "stop_words", "end_id", "word", "limit", "max_length", "max_new_tokens",
    "model_length", "token_limit", "complete", "completed", "end_of_text", "end_of_turn", "normal", "finished",
))  # fmt: skip
"""Ends as OpenAI, Triton, TGI, llama.cpp, SGLang, TensorRT-LLM, Mistral, Cohere, Gemini, watsonx and others say it."""
_NO_REASONS = ("", "null", "none", "not_finished", "not_stopped", "finish_reason_unspecified")
"""Reasons that servers write where an answer goes on."""
_OTHERS_ENDED = "stream ended early: its end was not told, as that of other answers of the run was"
_OTHERS_SAID_WHY = "stream ended early: [DONE] without a finish_reason, which other answers of the run had"


def finish_reason(events: Sequence[SameEvents]) -> str | None:
    """The last reason given, as the server wrote it; None where it gave none."""
    return next(_reasons(reversed(events)), (0, None))[1]


def _reasons(events: Iterator[SameEvents] | Sequence[SameEvents]) -> Iterator[tuple[int, str]]:
    """Index of an answer, and why it ended."""
    for some in events:
        reason = some.event.finish_reason
        if reason is not None and reason.lower() not in _NO_REASONS:
            yield some.event.choice, reason


def failure(events: Sequence[SameEvents], allowed: Sequence[str]) -> str | None:
    """Returns the server's words on a failure: an error, something odd in place of content, a reason that is no end.

    `allowed` are reasons that count as good ends beside the usual ones.
    """
    error = next((some.event.error for some in events if some.event.error), None)
    if error:
        return f"error in the stream: {error}"
    for some in events:
        if some.event.finish_reason or some.event.done:
            break
        if some.event.odd:
            return f"no part of an answer in the stream: {some.event.odd}"
    for _, reason in _reasons(events):
        plain = reason.lower()
        if plain.removeprefix("finish_reason_") not in _GOOD_REASONS and plain not in map(str.lower, allowed):
            return f"the server ended the request with finish_reason {reason!r}"
    return None


def count_ends(events: Sequence[SameEvents], with_content: set[int]) -> int:
    """Number of answers whose end was reported: by a reason each, or for all that carried content (`with_content`) by
    [DONE].
    """
    finished = {answer for answer, _ in _reasons(events)}
    return len(finished) or (len(with_content) if any(some.event.done for some in events) else 0)


def incomplete_reason(
    events: Sequence[SameEvents], ends: int, answers: int, with_content: int, tokens: int | None, says_end: bool
) -> str | None:
    """Returns why a stream without a failure is not `answers` whole ones.

    `ends` of them said that they were over, and `with_content` carried a token.
    """
    if says_end and not ends and not any(some.event.done for some in events):
        return "stream ended early: no finish_reason, no [DONE]"
    if answers > 1 and ends < answers:
        return f"{ends} of {answers} answers came to their end"
    if answers > 1 and 0 < with_content < answers:
        return f"{with_content} of {answers} answers carried a token"
    return None if tokens and (ends or not says_end) else "the stream carried no token"


def with_missing_ends_failed(records: Sequence[RequestRecord]) -> tuple[RequestRecord, ...]:
    """The records of a run; where the server reports the ends of answers, those without a reported end are failed.

    A proxy that closes every stream with [DONE] hides that the server gave up: where other answers of the run have a
    finish_reason, [DONE] alone is no end.
    """
    good = [record for record in records if record.ok]
    ends, reasons = any(record.end_told for record in good), any(record.finish_reason for record in good)
    return tuple(_with_own_end(record, ends, reasons) if record.ok else record for record in records)


def _with_own_end(record: RequestRecord, ends: bool, reasons: bool) -> RequestRecord:
    if ends and not record.end_told:
        return replace(record, error=_OTHERS_ENDED)
    return replace(record, error=_OTHERS_SAID_WHY) if reasons and not record.finish_reason else record
