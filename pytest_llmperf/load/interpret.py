"""Capture of one request -> RequestRecord. Pure; runs after the load, so that it costs no measured time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pytest_llmperf.load.capture import Capture
from pytest_llmperf.load.endpoints import ENDPOINTS, Endpoint, Framing
from pytest_llmperf.load.openai import Event, body_text, shorten
from pytest_llmperf.load.prompts import PlannedRequest
from pytest_llmperf.load.sse import SseParser
from pytest_llmperf.records import InputTokensSource, RequestRecord, ServerTimes, Stamps, TokenSource

_BAD_ENDS = ("abort", "error")
"""What vLLM gives as finish_reason of a request that it gave up."""


class _Timed(NamedTuple):
    read: int
    event: Event


class _TokenChunk(NamedTuple):
    read: int
    tokens: int | None
    event: Event


@dataclass(frozen=True, slots=True)
class _Stream:
    """What a response said, and why it counts as failed."""

    chunks: tuple[_TokenChunk, ...] = ()
    tokenless_reads: tuple[int, ...] = ()
    """Reads that completed an event with choices that is no token chunk."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    token_source: TokenSource | None = None
    finish_reason: str | None = None
    error: str | None = None
    text: str = ""
    """The answer, without reasoning."""
    server_ns: ServerTimes | None = None


def interpret(
    capture: Capture,
    planned: PlannedRequest,
    stamps: Stamps,
    *,
    request_id: str,
    due_ns: int | None,
    endpoint: Endpoint = ENDPOINTS["chat"],
    count: Callable[[str], int] | None = None,
) -> RequestRecord:
    """The record of a finished, failed, cancelled or interrupted request. `count` is the tokenizer's, if any."""
    stream = _read_stream(capture, endpoint, count, planned.prompts)
    input_tokens, input_tokens_source = _input_tokens(stream, planned)
    cancelled = capture.cancelled and stream.error == capture.error
    read_ns = capture.read_ns(stamps)
    return RequestRecord(
        index=planned.index,
        phase=planned.phase,
        request_id=request_id,
        due_ns=due_ns,
        sent_ns=capture.sent_ns,
        chunk_ns=tuple([read_ns[chunk.read] for chunk in stream.chunks]),
        chunk_tokens=_chunk_tokens(stream.chunks),
        first_output_ns=_first_output_ns(stream.chunks, read_ns),
        end_ns=read_ns[-1] if capture.error is None and read_ns else capture.ended_ns,
        input_tokens=input_tokens,
        output_tokens=stream.output_tokens,
        requested_output_tokens=planned.output_tokens * planned.prompts,
        token_source=stream.token_source,
        finish_reason=stream.finish_reason,
        status=capture.status,
        error=None if cancelled else stream.error,
        coalesced_chunks=_coalesced(stream.chunks),
        prompts=planned.prompts,
        cancelled=cancelled,
        held_ns=capture.held_ns,
        connect_ns=capture.connect_ns,
        input_tokens_source=input_tokens_source,
        server_ns=stream.server_ns,
        conversation=planned.conversation,
        turn=planned.turn,
        tokenless_ns=tuple([read_ns[read] for read in stream.tokenless_reads]),
        textless_chunks=_textless(stream.chunks),
    )


def answer_text(capture: Capture, endpoint: Endpoint) -> str | None:
    """What the model said, for the history of a conversation; None when the request failed."""
    stream = _read_stream(capture, endpoint, None, prompts=1)
    return None if stream.error else stream.text


def _input_tokens(stream: _Stream, planned: PlannedRequest) -> tuple[int | None, InputTokensSource | None]:
    if stream.input_tokens is not None:
        return stream.input_tokens, "usage"
    if planned.input_tokens is None or stream.error:
        return None, None
    return planned.input_tokens, "token-ids" if isinstance(planned.prompt, tuple) else "tokenizer"


def _read_stream(capture: Capture, endpoint: Endpoint, count: Callable[[str], int] | None, prompts: int) -> _Stream:
    if capture.status is None:
        return _Stream(error=capture.error)
    if capture.status != 200:
        return _Stream(error=f"HTTP {capture.status}: {body_text(b''.join(capture.pieces))}")
    if endpoint.framing == "sse" and not capture.content_type.startswith("text/event-stream"):
        body = body_text(b"".join(capture.pieces))
        return _Stream(error=capture.error or f"no event stream but {capture.content_type or 'no type'}: {body}")
    timed, bad_event = _read_events(_cut(capture.pieces, endpoint.framing), endpoint.read)
    return _judge(timed, capture.error or bad_event, endpoint.says_end, count, prompts)


def _cut(pieces: tuple[bytes, ...], framing: Framing) -> Iterator[tuple[int, bytes]]:
    """Every event, with the number of the read that completed it."""
    if framing == "body" and pieces:
        yield len(pieces) - 1, b"".join(pieces)
    elif framing == "messages":
        yield from enumerate(pieces)
    elif framing == "sse":
        parser = SseParser()
        for read, piece in enumerate(pieces):
            yield from ((read, data) for data in parser.feed(piece))


def _read_events(
    events: Iterable[tuple[int, bytes]], read_event: Callable[[bytes], Event]
) -> tuple[list[_Timed], str | None]:
    """The events, up to the first that is not understood."""
    timed: list[_Timed] = []
    for read, data in events:
        try:
            timed.append(_Timed(read, read_event(data)))
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            return timed, shorten(f"event not understood ({error}): {data.decode('utf-8', 'replace')}")
    return timed, None


def _judge(
    timed: list[_Timed], error: str | None, says_end: bool, count: Callable[[str], int] | None, prompts: int
) -> _Stream:
    events = [item.event for item in timed]
    chunks = tuple(_token_chunks(timed))
    total = _total([event.completion_tokens for event in events], events)
    counted, source = _counted(chunks, events, total, count)
    said = next((event.error for event in events if event.error), None)
    error = error or _missing(events, prompts, counted, says_end)
    return _Stream(
        chunks=chunks,
        tokenless_reads=_tokenless_reads(timed, chunks),
        input_tokens=_total([event.prompt_tokens for event in events], events),
        output_tokens=counted,
        token_source=source,
        finish_reason=next((event.finish_reason for event in reversed(events) if event.finish_reason), None),
        server_ns=next((event.server_ns for event in reversed(events) if event.server_ns), None),
        error=f"error in the stream: {said}" if said else error,
        text="".join(event.text for event in events),
    )


def _total(counts: list[int | None], events: list[Event]) -> int | None:
    """The whole request's count: the last one of an event without choices, else the sum over the prompts; or None."""
    per_prompt: dict[int, int] = {}
    whole = None
    for count, event in zip(counts, events, strict=True):
        if count is not None and event.has_choices:
            per_prompt[event.choice] = max(count, per_prompt.get(event.choice, 0))
        elif count is not None:
            whole = count
    return whole or (sum(per_prompt.values()) if per_prompt else whole)


def _counted(
    chunks: tuple[_TokenChunk, ...], events: list[Event], total: int | None, count: Callable[[str], int] | None
) -> tuple[int | None, TokenSource | None]:
    """Output tokens and where that number comes from: the server, the tokenizer, or the chunks."""
    if total is not None:
        return total, "usage"
    if not chunks:
        return None, None
    if count is not None and any(chunk.tokens is None for chunk in chunks):
        return sum(map(count, _texts(events))), "tokenizer"
    told = all(chunk.tokens is not None for chunk in chunks)
    return sum(chunk.tokens or 1 for chunk in chunks), "usage" if told else "chunks"


def _texts(events: list[Event]) -> Iterator[str]:
    """The whole answer to each prompt: chunk by chunk, tokens would be counted that the model never made."""
    for choice in sorted({event.choice for event in events}):
        own = [event for event in events if event.choice == choice]
        yield "".join(event.other_text for event in own) + "".join(event.text for event in own)


def _missing(events: list[Event], prompts: int, counted: int | None, says_end: bool) -> str | None:
    """What keeps a stream from being a whole answer."""
    bad = next((event.finish_reason for event in reversed(events) if event.finish_reason in _BAD_ENDS), None)
    if bad:
        return f"the server ended the request with finish_reason {bad!r}"
    finished = {event.choice for event in events if event.finish_reason}
    has_usage = any(event.completion_tokens is not None for event in events)
    if says_end and not (finished or has_usage or any(event.done for event in events)):
        return "stream ended early: no finish_reason, no usage, no [DONE]"
    if prompts > 1 and len(finished) != prompts:
        return f"{len(finished)} of {prompts} prompts were answered to their end"
    return None if counted else "the stream carried no token"


def _token_chunks(timed: list[_Timed]) -> list[_TokenChunk]:
    """The events that carry tokens: by the growth of `usage` where every event has it, else by their content."""
    spoken = [item.event for item in timed if item.event.output or item.event.reasoning]
    counted = any(item.event.has_choices and item.event.completion_tokens for item in timed)
    # Some servers put the total into the last chunk with content: then the chunks before it have no usage.
    if counted and all(event.completion_tokens is not None for event in spoken):
        return _by_usage(timed)
    told = all(event.token_ids for event in spoken)
    return [
        _TokenChunk(read, event.token_ids if told else None, event)
        for read, event in timed
        if event.output or event.reasoning or event.token_ids
    ]


def _by_usage(timed: list[_Timed]) -> list[_TokenChunk]:
    chunks: list[_TokenChunk] = []
    before: dict[int, int] = {}
    for read, event in timed:
        now, then = event.completion_tokens, before.get(event.choice, 0)
        if event.has_choices and now is not None and now > then:
            chunks.append(_TokenChunk(read, now - then, event))
            before[event.choice] = now
    return chunks


def _tokenless_reads(timed: list[_Timed], chunks: tuple[_TokenChunk, ...]) -> tuple[int, ...]:
    spoken = {id(chunk.event) for chunk in chunks}
    return tuple([read for read, event in timed if event.has_choices and id(event) not in spoken])


def _textless(chunks: tuple[_TokenChunk, ...]) -> tuple[int, ...]:
    return tuple([i for i, chunk in enumerate(chunks) if not (chunk.event.output or chunk.event.reasoning)])


def _chunk_tokens(chunks: tuple[_TokenChunk, ...]) -> tuple[int, ...] | None:
    tokens = tuple([chunk.tokens for chunk in chunks if chunk.tokens is not None])
    return tokens if chunks and len(tokens) == len(chunks) else None


def _first_output_ns(chunks: tuple[_TokenChunk, ...], read_ns: tuple[int, ...]) -> int | None:
    """A token without text belongs to the reasoning in a stream that reasons, for all that can be known."""
    reasons = any(chunk.event.reasoning for chunk in chunks)
    return next((read_ns[chunk.read] for chunk in chunks if chunk.event.output or not reasons), None)


def _coalesced(chunks: tuple[_TokenChunk, ...]) -> int:
    reads = [chunk.read for chunk in chunks]
    sharing = 0
    for before, read, after in zip([-1, *reads], reads, [*reads[1:], -1], strict=False):
        sharing += read in (before, after)
    return sharing
