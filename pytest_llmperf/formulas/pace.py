"""A request's answers: which chunks and tokens each has, and how long a token took. Pure: a record's facts to numbers.

Chunks that come at one moment (in one read, or far faster than the answer's others) say nothing about each other: the
pace of an answer is counted from its first moment on, in the tokens that came after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, cast

from pytest_llmperf.records import RequestRecord

RELEASE_NS = 250_000
"""Time per token under which chunks may have been held back and let go together: 4,000 tok/s for one answer."""
MAX_RELEASE_NS = 2_500
"""An answer that came so fast came at one moment if its time per token, times the share of the request's time that it
took, is no more than this: within 1 % at 0.25 ms per token, 5 % at 0.05 ms. A fast decoder takes a larger share."""
TOGETHER = 0.1
"""Share of an answer's own time per token within which a chunk came at the same moment as the one before."""


class Answer(NamedTuple):
    """The chunks of one answer; where the chunks of several answers cannot be separated, first and last of all with
    the mean tokens.
    """

    chunk_ns: Sequence[int]
    chunk_tokens: Sequence[float]
    """Tokens of each chunk: as the server counted them, else an equal share of what follows the first."""
    tokens: float
    """Tokens of all its chunks."""


def visible_tokens(record: RequestRecord) -> int:
    """Returns the output tokens that were streamed: all but the hidden ones."""
    return max(0, (record.output_tokens or 0) - record.hidden_tokens)


def first_token_ns(record: RequestRecord) -> int | None:
    """Returns when the first token came; None without a chunk, and after hidden tokens, whose first nobody saw."""
    return record.chunk_ns[0] if record.chunk_ns and not record.hidden_tokens else None


def last_token_ns(record: RequestRecord) -> int | None:
    """Returns when the last token came: the response's end where all were hidden; None without tokens."""
    if record.chunk_ns:
        return record.chunk_ns[-1]
    return record.end_ns if record.hidden_tokens else None


def answers_of(record: RequestRecord) -> list[Answer]:
    """Returns the request's answers that have a chunk, in order of their indices."""
    if not record.chunk_ns:
        return []
    if record.chunk_answers:
        return _grouped(record)
    times, visible = record.chunk_ns, visible_tokens(record)
    if record.answers > 1:
        firsts = record.first_chunk_tokens or (1.0,)
        return [_spread((times[0], times[-1]), visible / record.answers, sum(firsts) / len(firsts))]
    if record.chunk_tokens is not None:
        return [Answer(times, record.chunk_tokens, sum(record.chunk_tokens))]
    return [_spread(times, visible, next(iter(record.first_chunk_tokens), 1))]


def _grouped(record: RequestRecord) -> list[Answer]:
    """Answers without counts per chunk: each has the share of the tokens that it has of the chunks."""
    visible, places = visible_tokens(record), dict[int, list[int]]()
    for place, index in enumerate(record.chunk_answers):
        places.setdefault(index, []).append(place)
    firsts = dict(zip(sorted(places), record.first_chunk_tokens, strict=False))
    answers = []
    for index, own in sorted(places.items()):
        times = [record.chunk_ns[place] for place in own]
        if record.chunk_tokens is None:
            answers.append(_spread(times, visible * len(own) / len(record.chunk_ns), firsts.get(index, 1)))
        else:
            tokens = [record.chunk_tokens[place] for place in own]
            answers.append(Answer(times, tokens, sum(tokens)))
    return answers


def _spread(times: Sequence[int], tokens: float, first: float) -> Answer:
    """An answer whose total is known: every further chunk has an equal share, and at least one token."""
    further = len(times) - 1
    if not further:
        return Answer(times, (tokens,), tokens)
    first = min(first, max(tokens - further, 1))
    return Answer(times, [first] + [(tokens - first) / further] * further, tokens)


def token_gaps_ms(record: RequestRecord) -> list[float | None]:
    """Returns the time per token after the first moment, of each answer of two tokens at least.

    None stands for an answer whose tokens all came at one moment.
    """
    begun_ns = record.due_ns if record.sent_ns is None else record.sent_ns
    return [_gap_ms(answer, begun_ns) for answer in answers_of(record) if answer.tokens >= 2]


def _gap_ms(answer: Answer, begun_ns: int | None) -> float | None:
    times, tokens = answer.chunk_ns, answer.chunk_tokens
    span_ns, later = times[-1] - times[0], answer.tokens - tokens[0]
    whole_ns = times[-1] - (times[0] if begun_ns is None else begun_ns)
    is_fast = span_ns <= RELEASE_NS * later
    if min(span_ns, later) <= 0 or (is_fast and span_ns * span_ns <= MAX_RELEASE_NS * later * whole_ns):
        return None
    moment_ns, together = min(RELEASE_NS, TOGETHER * span_ns / later), 0.0
    for at_ns, count in zip(islice(times, 1, None), islice(tokens, 1, None), strict=True):
        together += count
        if at_ns - times[0] > moment_ns * together:
            return span_ns / 1e6 / later if later > 0 else None
        later -= count
    return None


def complete(values: Iterable[float | None]) -> list[float]:
    """Returns the values; none at all where one is missing: a mean of the rest would flatter."""
    sample = list(values)
    return [] if None in sample else cast("list[float]", sample)


def complete_mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean; None without values, and where one is missing."""
    sample = complete(values)
    return sum(sample) / len(sample) if sample else None


def inter_token_latency_ms(record: RequestRecord) -> float | None:
    """Returns the mean time per token over the request's answers of several tokens.

    None without such an answer, and where one came all at one moment.
    """
    return complete_mean(token_gaps_ms(record))


def chunk_times(record: RequestRecord) -> list[Sequence[int]]:
    """Returns the receive times of the chunks, answer by answer; none where those of several cannot be separated."""
    if record.chunk_answers:
        return [answer.chunk_ns for answer in answers_of(record)]
    return [record.chunk_ns] if record.answers == 1 else []


def came_at_once(record: RequestRecord) -> bool:
    """True where an answer of several tokens came all at one moment, so that the request has no inter-token latency."""
    return None in token_gaps_ms(record)
