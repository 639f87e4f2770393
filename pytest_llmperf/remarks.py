"""What the answers of a point say about its numbers: one sentence per kind, with the number of answers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_llmperf.answers import came_at_once, token_gaps_ms
from pytest_llmperf.load.endpoints import ENDPOINTS
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import RequestRecord

_SHARED_FIRST = 0.01
"""Share of requests from which the 99th percentile of TTFT is touched."""
_IN_BURSTS = 0.5
"""Share of chunks that came together with another from which on bursts are the rule."""
_TOLD_DOUBTS = 3
"""Of different doubts about token counts, so many of the most frequent; the request lines have all."""
_COUNTED_BY = {
    "usage": "the last total that the server told",
    "tokenizer": "the load's tokenizer's",
    "chunks": "of chunks",
}


def answer_remarks(records: Sequence[RequestRecord], load: LoadPoint, valid: bool) -> Iterator[str]:
    """Yields what a reader must know of the answers among `records`.

    `valid` is False where the client is at fault already: it is then not said that the server sent chunks together.
    """
    answers = [record for record in records if record.ok]
    yield from _uncounted(answers)
    yield from _doubted(answers)
    yield from _unknown_fields(answers)
    yield from _hidden(answers)
    yield from _clamped(answers, load)
    yield from _endless(answers, load)
    if ENDPOINTS[load.endpoint].framing != "body":
        yield from _at_once(answers)
    yield from _together(answers, valid)


def _uncounted(answers: Sequence[RequestRecord]) -> Iterator[str]:
    sources = {record.token_source for record in answers if not record.usage_doubt}
    if "tokenizer" in sources:
        yield "output tokens were counted by the load's tokenizer: the server tells no usage"
    if "chunks" in sources:
        yield (
            "output tokens were counted in chunks: the server tells no usage, the load has no `tokenizer`, and a "
            "chunk that does not tell its tokens counts as one"
        )


def _doubted(answers: Sequence[RequestRecord]) -> Iterator[str]:
    """Usage that was told and not believed as it stood."""
    doubts = Counter((record.token_source, record.usage_doubt) for record in answers if record.usage_doubt)
    if doubts:
        most = doubts.most_common(_TOLD_DOUBTS)
        told = "; ".join(f"{count} are {_COUNTED_BY.get(source or '', '')}: {why}" for (source, why), count in most)
        yield f"token counts of {doubts.total()} of {len(answers)} answers are not the server's as they stood: {told}"


def _unknown_fields(answers: Sequence[RequestRecord]) -> Iterator[str]:
    found = [record.unknown_fields for record in answers if record.unknown_fields]
    if found:
        names = ", ".join(dict.fromkeys(name for names in found for name in names))
        yield (
            f"content in a field that no known API has ({names}) was counted as tokens in {len(found)} of "
            f"{len(answers)} answers"
        )


def _hidden(answers: Sequence[RequestRecord]) -> Iterator[str]:
    hidden = [record.hidden_tokens for record in answers if record.hidden_tokens]
    if hidden:
        yield (
            f"{sum(hidden)} tokens of {len(hidden)} of {len(answers)} answers were counted by the server and never "
            "streamed, as reasoning that is kept back: they are in output_tokens and throughput and not in itl; ttft "
            "of these answers has no value (ttfo has, where something was streamed)"
        )


def _clamped(answers: Sequence[RequestRecord], load: LoadPoint) -> Iterator[str]:
    """Of loads that leave the length to the model; where it is theirs to say, such a run is INVALID."""
    cut = [record for record in answers if _is_clamped(record)]
    if cut and not load.ignore_eos:
        yield (
            f"{len(cut)} of {len(answers)} answers were cut before the length that was asked for (first: "
            f"{cut[0].output_tokens} of {cut[0].requested_output_tokens} tokens); is the context (max-model-len) "
            "too short?"
        )


def _is_clamped(record: RequestRecord) -> bool:
    """Whether the server ended an answer for its length, and says itself that it is shorter than asked for."""
    told = record.token_source == "usage" and record.answers == 1 and record.finish_reason == "length"
    return told and record.output_tokens is not None and record.output_tokens < record.requested_output_tokens


def _endless(answers: Sequence[RequestRecord], load: LoadPoint) -> Iterator[str]:
    if answers and ENDPOINTS[load.endpoint].says_end and not any(record.end_told for record in answers):
        yield (
            "no answer said that it was over (neither a finish reason nor [DONE]): one that was cut off counts as whole"
        )


def _at_once(answers: Sequence[RequestRecord]) -> Iterator[str]:
    several = [record for record in answers if token_gaps_ms(record)]
    lost = sum(map(came_at_once, several))
    if lost:
        yield (
            f"itl of {lost} of {len(several)} requests has no value: their tokens came all at one moment, because a "
            "proxy buffers, the stream is compressed (gzip), the server sends it whole (stream_interval) or does not "
            "stream at all; ttst, icl and rates per user leave them out too, and their ttft is the time of all tokens"
        )


def _together(answers: Sequence[RequestRecord], valid: bool) -> Iterator[str]:
    """Chunks in one read, where it was not the client that was late: then the run is INVALID."""
    # In one read of several answers the next token is mostly another answer's first.
    alone = [record for record in answers if record.answers == 1 and not came_at_once(record)]
    chunks = sum(len(record.chunk_ns) for record in alone)
    shared = sum(len(record.shared_late_ns) for record in alone)
    first = sum(record.chunk_ns[:1] == record.chunk_ns[1:2] for record in alone if record.chunk_ns)
    if valid and shared > _IN_BURSTS * chunks:
        yield (
            f"{shared / chunks:.0%} of the chunks came together with others of their answer, in one read of a client "
            "that was not late: a proxy buffers, the stream is compressed (gzip), or the server holds tokens back "
            "(stream_interval); ttft is then that of a burst, and icl nothing within a burst and long between two"
        )
    elif valid and alone and first >= _SHARED_FIRST * len(alone):
        yield (
            f"the first token of {first} of {len(alone)} requests was read together with the next: unless the "
            "server wrote both at once, their TTFT is too high, by the time between the tokens of that read"
        )
