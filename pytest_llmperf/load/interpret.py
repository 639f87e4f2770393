"""Capture of one request -> RequestRecord. Pure; runs after the load, so that it costs no measured time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_llmperf.load.answers.refusal import is_event_stream, not_streamed, refused
from pytest_llmperf.load.capture import Capture
from pytest_llmperf.load.endpoints import ENDPOINTS, Endpoint, Framing
from pytest_llmperf.load.openai import NOT_UNDERSTOOD, Event, shorten
from pytest_llmperf.load.prompts import PlannedRequest
from pytest_llmperf.load.sse import SseParser
from pytest_llmperf.load.template import Templates
from pytest_llmperf.records import InputTokensSource, RequestRecord, ServerTimes, Stamps, TokenSource

_BAD_ENDS = ("abort", "error")
"""What vLLM gives as finish_reason of a request that it gave up."""


class _Said(NamedTuple):
    """Events that follow each other and differ in text and counts only: most of a stream's, or a single one."""

    reads: Sequence[int]
    """The read that completed each event."""
    event: Event
    """Of all of them: texts joined, counts the largest."""
    counts: Sequence[int | None]
    """Completion tokens that each event tells."""


class _Chunks(NamedTuple):
    """Token chunks that follow each other."""

    reads: Sequence[int]
    tokens: Sequence[int | None]
    event: Event


@dataclass(frozen=True, slots=True)
class _Stream:
    """What a response said, and why it counts as failed."""

    chunks: tuple[_Chunks, ...] = ()
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
    templates: Templates | None = None,
) -> RequestRecord:
    """The record of a finished, failed, cancelled or interrupted request. `count` is the tokenizer's, if any;
    `templates` are what the requests of one load share.
    """
    stream = _read_stream(capture, endpoint, count, planned.prompts, templates)
    input_tokens, input_tokens_source = _input_tokens(stream, planned)
    cancelled = capture.cancelled and stream.error == capture.error
    read_ns = capture.read_ns(stamps)
    reads = [read for chunks in stream.chunks for read in chunks.reads]
    return RequestRecord(
        index=planned.index,
        phase=planned.phase,
        request_id=request_id,
        due_ns=due_ns,
        sent_ns=capture.sent_ns,
        chunk_ns=tuple([read_ns[read] for read in reads]),
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


def answer_text(capture: Capture, endpoint: Endpoint, templates: Templates | None = None) -> str | None:
    """What the model said, for the history of a conversation; None when the request failed."""
    stream = _read_stream(capture, endpoint, None, 1, templates)
    return None if stream.error else stream.text


def _input_tokens(stream: _Stream, planned: PlannedRequest) -> tuple[int | None, InputTokensSource | None]:
    if stream.input_tokens is not None:
        return stream.input_tokens, "usage"
    if planned.input_tokens is None or stream.error:
        return None, None
    return planned.input_tokens, "token-ids" if isinstance(planned.prompt, tuple) else "tokenizer"


def _read_stream(
    capture: Capture,
    endpoint: Endpoint,
    count: Callable[[str], int] | None,
    prompts: int,
    templates: Templates | None = None,
) -> _Stream:
    if capture.status is None:
        return _Stream(error=capture.error)
    if capture.status != 200:
        return _Stream(error=refused(capture.status, capture.body, capture.location, capture.error))
    if endpoint.framing == "sse" and not is_event_stream(capture.content_type, capture.body):
        return _Stream(error=capture.error or not_streamed(capture.content_type, capture.body))
    if endpoint.framing == "sse":
        said, bad_event = _read_sse(capture.body, capture.ends, endpoint.read, templates or Templates(endpoint.read))
    else:
        said, bad_event = _read_events(_cut(capture, endpoint.framing), endpoint.read)
    return _judge(said, capture.error or bad_event, endpoint.says_end, count, prompts)


def _read_sse(
    body: bytes, ends: tuple[int, ...], read_event: Callable[[bytes], Event], templates: Templates
) -> tuple[list[_Said], str | None]:
    """The events, each with the read that completed it, up to the first that is not understood."""
    parser = SseParser()
    said: list[_Said] = []
    at = read = 0
    while read < len(ends):
        if at and parser.is_between_events and (alike := templates.read(body, at)):
            said.append(_Said(_reads_at(alike.ends, ends, read), alike.event, alike.counts))
            at = alike.ends[-1]
            read = bisect_right(ends, at)
            continue
        piece = body[at : ends[read]]
        plain = parser.is_one_plain_event(piece)
        own, bad_event = _read_events([(read, data) for data in parser.feed(piece)], read_event)
        said += own
        if bad_event:
            return said, bad_event
        if plain:
            templates.learn(piece[6:-2], own[0].event)
        at = ends[read]
        read += 1
    return said, None


def _reads_at(places: tuple[int, ...], ends: tuple[int, ...], read: int) -> Sequence[int]:
    """The read that holds the last byte before each place, from `read` on; reads end at `ends`."""
    if places == ends[read : read + len(places)]:
        return range(read, read + len(places))
    return [bisect_left(ends, place, read) for place in places]


def _cut(capture: Capture, framing: Framing) -> Iterator[tuple[int, bytes]]:
    """Every event that is no server-sent one, with the number of the read that completed it."""
    if framing == "body" and capture.ends:
        yield len(capture.ends) - 1, capture.body
    elif framing == "messages":
        yield from enumerate(capture.pieces)


def _read_events(
    events: Iterable[tuple[int, bytes]], read_event: Callable[[bytes], Event]
) -> tuple[list[_Said], str | None]:
    """The events, up to the first that is not understood."""
    said: list[_Said] = []
    for read, data in events:
        try:
            event = _checked(read_event(data))
        except NOT_UNDERSTOOD as error:
            return said, shorten(f"event not understood ({error}): {data.decode('utf-8', 'replace')}")
        said.append(_Said((read,), event, (event.completion_tokens,)))
    return said, None


def _checked(event: Event) -> Event:
    """Raises ValueError when a fact is of another kind than every reader of events takes for granted."""
    for kinds, facts in (
        (str, (event.text, event.other_text, event.finish_reason or "")),
        ((int, float), (event.prompt_tokens or 0, event.completion_tokens or 0, event.choice)),
    ):
        for fact in facts:
            if not isinstance(fact, kinds):
                expected = "text" if kinds is str else "a number"
                raise ValueError(f"a {type(fact).__name__} where {expected} belongs")
    return event


def _judge(
    said: list[_Said], error: str | None, says_end: bool, count: Callable[[str], int] | None, prompts: int
) -> _Stream:
    events = [some.event for some in said]
    chunks = tuple(_token_chunks(said))
    total = _total([event.completion_tokens for event in events], events)
    counted, source = _counted(chunks, events, total, count)
    server_error = next((event.error for event in events if event.error), None)
    error = error or _missing(events, prompts, counted, says_end)
    return _Stream(
        chunks=chunks,
        tokenless_reads=_tokenless_reads(said, chunks),
        input_tokens=_total([event.prompt_tokens for event in events], events),
        output_tokens=counted,
        token_source=source,
        finish_reason=next((event.finish_reason for event in reversed(events) if event.finish_reason), None),
        server_ns=next((event.server_ns for event in reversed(events) if event.server_ns), None),
        error=f"error in the stream: {server_error}" if server_error else error,
        text="".join([event.text for event in events]),
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
    chunks: tuple[_Chunks, ...], events: list[Event], total: int | None, count: Callable[[str], int] | None
) -> tuple[int | None, TokenSource | None]:
    """Output tokens and where that number comes from: the server, the tokenizer, or the chunks."""
    if total is not None:
        return total, "usage"
    if not chunks:
        return None, None
    told = _chunk_tokens(chunks)
    if told is not None:
        return sum(told), "usage"
    if count is not None:
        return sum(map(count, _texts(events))), "tokenizer"
    return sum(tokens or 1 for some in chunks for tokens in some.tokens), "chunks"


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


def _token_chunks(said: list[_Said]) -> list[_Chunks]:
    """The events that carry tokens: by the growth of `usage` where every event has it, else by their content."""
    spoken = [event for _, event, _ in said if event.output or event.reasoning]
    counted = any(event.has_choices and event.completion_tokens for _, event, _ in said)
    # Some servers put the total into the last chunk with content: then the chunks before it have no usage.
    if counted and all(event.completion_tokens is not None for event in spoken):
        return _by_usage(said)
    told = all(event.token_ids for event in spoken)
    return [
        _Chunks(reads, [event.token_ids if told else None] * len(reads), event)
        for reads, event, _ in said
        if event.output or event.reasoning or event.token_ids
    ]


def _by_usage(said: list[_Said]) -> list[_Chunks]:
    chunks: list[_Chunks] = []
    before: dict[int, int] = {}
    for reads, event, counts in said:
        if not event.has_choices:
            continue
        then = before.get(event.choice, 0)
        grown: dict[int, int] = {}  # by the event's number
        for number, now in enumerate(counts):
            if now is not None and now > then:
                grown[number] = now - then
                then = now
        before[event.choice] = then
        if grown:
            chunks.append(_Chunks([reads[number] for number in grown], list(grown.values()), event))
    return chunks


def _tokenless_reads(said: list[_Said], chunks: tuple[_Chunks, ...]) -> tuple[int, ...]:
    """Of an event with choices that is no token chunk."""
    spoken = {id(some.event): Counter(some.reads) for some in chunks}
    tokenless: list[int] = []
    for reads, event, _ in said:
        own = spoken.get(id(event))
        if event.has_choices and (own is None or own.total() < len(reads)):
            tokenless += (Counter(reads) - (own or Counter())).elements()
    return tuple(tokenless)


def _textless(chunks: tuple[_Chunks, ...]) -> tuple[int, ...]:
    """Numbers of the chunks without any text."""
    numbers: list[int] = []
    begin = 0
    for reads, _, event in chunks:
        if not (event.output or event.reasoning):
            numbers += range(begin, begin + len(reads))
        begin += len(reads)
    return tuple(numbers)


def _chunk_tokens(chunks: tuple[_Chunks, ...]) -> tuple[int, ...] | None:
    """Tokens of each chunk; None where not all are known, or there is none."""
    tokens = [tokens for some in chunks for tokens in some.tokens]
    known = tuple([number for number in tokens if number is not None])
    return known if tokens and len(known) == len(tokens) else None


def _first_output_ns(chunks: tuple[_Chunks, ...], read_ns: tuple[int, ...]) -> int | None:
    """A token without text belongs to the reasoning in a stream that reasons, for all that can be known."""
    reasons = any(some.event.reasoning for some in chunks)
    return next((read_ns[some.reads[0]] for some in chunks if some.event.output or not reasons), None)


def _coalesced(chunks: tuple[_Chunks, ...]) -> int:
    """Chunks that share their read with another of the same prompt; those of several prompts belong together."""
    if len({read for some in chunks for read in some.reads}) == sum(len(some.reads) for some in chunks):
        return 0
    together = Counter((some.event.choice, read) for some in chunks for read in some.reads)
    return sum(count for count in together.values() if count > 1)
