"""Capture of one request -> RequestRecord. Pure; runs after the load, so that it costs no measured time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.load.answers.counts import TOTAL_TOO_SMALL, UNCOUNTED, Chunks, Counted, chunk_tokens, count_tokens
from pytest_llmperf.load.answers.hidden import first_chunk_tokens, without_hidden
from pytest_llmperf.load.answers.messages import read_message
from pytest_llmperf.load.answers.refusal import is_event_stream, not_streamed, refused
from pytest_llmperf.load.answers.same_events import SameEvents, events_in, with_unknown_content, without_repetition
from pytest_llmperf.load.answers.sse import Message, SseParser
from pytest_llmperf.load.answers.templates import Templates
from pytest_llmperf.load.answers.whole import count_ends, failure, finish_reason, incomplete_reason
from pytest_llmperf.load.endpoints.openai import NOT_UNDERSTOOD, Event, shorten
from pytest_llmperf.load.endpoints.table import ENDPOINTS, ONE_ANSWER, Asked, Endpoint
from pytest_llmperf.load.trace.trace import PlannedRequest, plain_prompt
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.records import InputTokensSource, RequestRecord, ServerTimes, Stamps


@dataclass(frozen=True, slots=True)
class _Stream:
    """Facts of a response, and why it counts as failed."""

    counted: Counted = UNCOUNTED
    finish_reason: str | None = None
    error: str | None = None
    text: str = ""
    """The first answer, without reasoning."""
    server_ns: ServerTimes | None = None
    first_chunk_tokens: tuple[float, ...] = ()
    unknown_fields: tuple[str, ...] = ()
    end_told: bool = False


class AnswerReader:
    """Reads the answers to the requests of one load, which share `templates`; `count` is the tokenizer's, if any.

    With `keep_texts` records hold prompts, answers and references too.
    """

    def __init__(
        self,
        endpoint: Endpoint = ENDPOINTS["chat"],
        *,
        asked: Asked = ONE_ANSWER,
        count: Callable[[str], int] | None = None,
        templates: Templates | None = None,
        keep_texts: bool = False,
    ) -> None:
        self._endpoint, self._asked, self._count = endpoint, asked, count
        self._keep_texts = keep_texts
        self._templates = templates or Templates(endpoint.read)

    def is_cancelled(self, capture: Capture) -> bool:
        """True for a request that the load broke off and with which nothing else was wrong."""
        return capture.cancelled and self._read(capture, 1).error == capture.error

    def record(
        self, capture: Capture, planned: PlannedRequest, stamps: Stamps, *, request_id: str, due_ns: int | None
    ) -> RequestRecord:
        """The record of a finished, failed, cancelled or interrupted request."""
        stream = self._read(capture, planned.prompts)
        counted, chunks = stream.counted, stream.counted.chunks
        input_tokens, input_tokens_source = _input_tokens(stream, planned)
        cancelled = capture.cancelled and stream.error == capture.error
        read_ns = capture.read_ns(stamps)
        record = RequestRecord(
            index=planned.index,
            phase=planned.phase,
            request_id=request_id,
            due_ns=due_ns,
            sent_ns=capture.sent_ns,
            chunk_ns=tuple([read_ns[read] for some in chunks for read in some.reads]),
            chunk_tokens=chunk_tokens(chunks),
            first_output_ns=_first_output_ns(chunks, read_ns),
            end_ns=read_ns[-1] if capture.error is None and read_ns else capture.ended_ns,
            input_tokens=input_tokens,
            output_tokens=counted.output_tokens,
            requested_output_tokens=planned.output_tokens * planned.prompts * self._asked.n,
            token_source=counted.source,
            finish_reason=stream.finish_reason and foreign(stream.finish_reason),
            status=capture.status,
            error=None if cancelled or stream.error is None else foreign(stream.error),
            coalesced_chunks=_coalesced(chunks),
            prompts=planned.prompts,
            cancelled=cancelled,
            held_ns=capture.held_ns,
            connect_ns=capture.connect_ns,
            input_tokens_source=input_tokens_source,
            server_ns=stream.server_ns,
            conversation=planned.conversation,
            turn=planned.turn,
            tokenless_ns=tuple([read_ns[read] for read in counted.tokenless_reads]),
            textless_chunks=_textless(chunks),
            answers=planned.prompts * self._asked.n,
            chunk_answers=_chunk_answers(chunks, planned.prompts * self._asked.n),
            first_chunk_tokens=stream.first_chunk_tokens,
            hidden_tokens=counted.hidden,
            unknown_fields=tuple(map(foreign, stream.unknown_fields)),
            usage_doubt=counted.doubt,
            end_told=stream.end_told,
        )
        return _with_texts(record, planned, stream.text) if self._keep_texts else record

    def text(self, capture: Capture) -> str | None:
        """Text of the answer, for the history of a conversation; None when the request failed."""
        stream = self._read(capture, 1)
        return None if stream.error else stream.text

    def _read(self, capture: Capture, prompts: int) -> _Stream:
        if capture.status is None:
            return _Stream(error=capture.error)
        if capture.status != 200:
            return _Stream(error=refused(capture.status, capture.body, capture.location, capture.error))
        if self._endpoint.framing == "sse" and not is_event_stream(capture.content_type, capture.body):
            return _Stream(error=capture.error or not_streamed(capture.content_type, capture.body))
        events, bad_event = _read_events(capture, self._endpoint, self._templates)
        return self._judge(events, capture.error or bad_event, prompts)

    def _judge(self, events: Sequence[SameEvents], error: str | None, prompts: int) -> _Stream:
        events, unknown, counted = self._count_tokens(without_repetition(events))
        counted = without_hidden(events, counted)
        with_content = {some.event.choice for some in counted.chunks}
        ends, answers = count_ends(events, with_content), prompts * self._asked.n
        # Whether an answer that is hidden as a whole carried a token cannot be known.
        carried = answers if counted.hidden else len(with_content)
        missed = incomplete_reason(events, ends, answers, carried, counted.output_tokens, self._endpoint.says_end)
        first = min([some.event.choice for some in events if some.event.has_choices], default=0)
        return _Stream(
            counted=counted,
            finish_reason=finish_reason(events),
            error=failure(events, self._asked.good_finish_reasons) or error or missed,
            text="".join([some.event.text for some in events if some.event.choice == first]),
            server_ns=next((some.event.server_ns for some in reversed(events) if some.event.server_ns), None),
            first_chunk_tokens=first_chunk_tokens(counted),
            unknown_fields=unknown,
            end_told=ends >= answers or self._endpoint.framing == "body",
        )

    def _count_tokens(self, events: Sequence[SameEvents]) -> tuple[Sequence[SameEvents], tuple[str, ...], Counted]:
        """The events with their tokens; unknown fields hold no content where the server counted fewer tokens."""
        read, unknown = with_unknown_content(events)
        counted = count_tokens(read, self._asked.n, self._count)
        if not unknown or counted.doubt != TOTAL_TOO_SMALL:
            return read, unknown, counted
        known = count_tokens(events, self._asked.n, self._count)
        return (events, (), known) if known.chunks and known.doubt is None else (read, unknown, counted)


def _with_texts(record: RequestRecord, planned: PlannedRequest, text: str) -> RequestRecord:
    """The record with what was asked and answered; a prompt of token ids is written as these."""
    return replace(record, prompt=str(plain_prompt(planned)), text=text, references=planned.references)


def _input_tokens(stream: _Stream, planned: PlannedRequest) -> tuple[int | None, InputTokensSource | None]:
    if stream.counted.input_tokens is not None:
        return stream.counted.input_tokens, "usage"
    if planned.input_tokens is None or stream.error:
        return None, None
    return planned.input_tokens, "token-ids" if isinstance(planned.prompt, tuple) else "tokenizer"


def _read_events(capture: Capture, endpoint: Endpoint, templates: Templates) -> tuple[list[SameEvents], str | None]:
    """The events up to the first that is not understood, and what is wrong with that."""
    events: list[SameEvents] = []
    try:
        if endpoint.framing == "sse":
            _read_sse(capture, endpoint.read, templates, events)
        elif endpoint.framing == "messages":
            for read, piece in enumerate(capture.pieces):
                events += _understood(read, piece, endpoint.read)
        elif capture.ends:
            events += _understood(len(capture.ends) - 1, capture.body, endpoint.read)
    except _NoEvent as error:
        return events, str(error)
    return events, None


def _read_sse(
    capture: Capture, read_event: Callable[[bytes], Event], templates: Templates, events: list[SameEvents]
) -> None:
    """Adds the events, each with the read that completed it. Raises _NoEvent at one that is not understood."""
    body, ends = capture.body, capture.ends
    parser = SseParser()
    at = read = 0
    while read < len(ends):
        if at and parser.is_between_events and (alike := templates.read(body, at)):
            events.append(
                SameEvents(
                    _reads_at(alike.ends, ends, read), alike.event, alike.counts, alike.first_length, alike.texts
                )
            )
            at = alike.ends[-1]
            read = bisect_right(ends, at)
            continue
        piece = body[at : ends[read]]
        if piece.startswith(b"data: {") and parser.is_one_plain_event(piece):
            events += _understood(read, piece[6:-2], read_event)
            templates.learn(piece[6:-2], events[-1].event)
        else:
            for message in parser.feed(piece):
                events += _understood(read, message, read_event)
        at = ends[read]
        read += 1
    if capture.error is None:
        for message in parser.end():
            events += _understood(len(ends) - 1, message, read_event)


def _reads_at(places: tuple[int, ...], ends: tuple[int, ...], read: int) -> Sequence[int]:
    """The read that holds the last byte before each place, from `read` on; reads end at `ends`."""
    if places == ends[read : read + len(places)]:
        return range(read, read + len(places))
    return [bisect_left(ends, place, read) for place in places]


class _NoEvent(Exception):
    """An event that is not understood; says what it holds."""


def _understood(read: int, data: bytes | Message, read_event: Callable[[bytes], Event]) -> Iterable[SameEvents]:
    """Reads an event; one of an event stream may have a name. Raises _NoEvent."""
    try:
        event = read_event(data) if isinstance(data, bytes) else read_message(data, read_event)
        if event.others:
            return [_checked(some) for some in events_in(read, event)]
        text = event.text + event.other_text  # raises TypeError where one is no text
        return (_checked(SameEvents((read,), event, (event.completion_tokens,), len(text))),)
    except NOT_UNDERSTOOD as error:
        held = data if isinstance(data, bytes) else data.data
        # What Python says of a list where an object belongs names its own types, not the server's mistake.
        why = (
            error
            if isinstance(error, (ValueError, RecursionError))
            else "a value is missing, or of a kind that no event has there"
        )
        raise _NoEvent(shorten(f"event not understood ({why}): {held.decode('utf-8', 'replace')}")) from error


def _checked(some: SameEvents) -> SameEvents:
    """Raises ValueError when a fact is of another kind than every reader of events takes for granted."""
    event = some.event
    reason, index, text = event.finish_reason, event.choice, event.text
    if index.__class__ is not int or text.__class__ is not str or (reason is not None and reason.__class__ is not str):
        raise ValueError("a value of another kind where a text, a finish_reason or an index belongs")
    return some


def _textless(chunks: Sequence[Chunks]) -> tuple[int, ...]:
    """Numbers of the chunks without any text."""
    numbers: list[int] = []
    begin = 0
    for some in chunks:
        if not (some.event.output or some.event.reasoning):
            numbers += range(begin, begin + len(some.reads))
        begin += len(some.reads)
    return tuple(numbers)


def _chunk_answers(chunks: Sequence[Chunks], answers: int) -> tuple[int, ...]:
    if answers == 1 and len({some.event.choice for some in chunks}) < 2:
        return ()
    return tuple([some.event.choice for some in chunks for _ in some.reads])


def _first_output_ns(chunks: Sequence[Chunks], read_ns: tuple[int, ...]) -> int | None:
    """A token without text belongs to the reasoning in a stream that reasons, for all that can be known."""
    reasons = any(some.event.reasoning for some in chunks)
    return next((read_ns[some.reads[0]] for some in chunks if some.event.output or not reasons), None)


def _coalesced(chunks: Sequence[Chunks]) -> int:
    """Chunks that share their read with another of the same answer; those of several answers belong together."""
    if len({read for some in chunks for read in some.reads}) == sum(len(some.reads) for some in chunks):
        return 0
    together = Counter((some.event.choice, read) for some in chunks for read in some.reads)
    return sum(count for count in together.values() if count > 1)
