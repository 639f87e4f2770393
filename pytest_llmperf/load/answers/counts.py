"""Chunks that carry tokens, and their number: the stream is the witness of time, the server's usage of counts.

A count is believed where the stream does not contradict it; docs/metrics.md has the rules in a table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count as count_from
from operator import lt, sub
from types import MappingProxyType
from typing import NamedTuple, cast

from pytest_llmperf.load.answers.same_events import SameEvents
from pytest_llmperf.load.endpoints.openai import Event
from pytest_llmperf.records import TokenSource

_MOST_TOKENS = 10_000_000
"""More than any model answers with: such a total is a mistake."""
NO_NUMBERS = "counts were no whole numbers of at least 0"
NO_RUNNING_TOTALS = "per-chunk counts were not running totals"
TOTAL_TOO_SMALL = "the total was below the number of chunks with content"
TOTAL_TOO_LARGE = "the total was larger than any answer"
NO_PROMPT_COUNT = "the prompt's count was no whole number above 0"


class Chunks(NamedTuple):
    """Token chunks that follow each other."""

    reads: Sequence[int]
    tokens: Sequence[int | None]
    event: Event
    first_length: int
    texts: tuple[Sequence[str], Sequence[str]] = ((), ())
    """Texts of each chunk, as in SameEvents."""

    @property
    def length(self) -> int:
        """Characters of text in all."""
        return len(self.event.text) + len(self.event.other_text)


class Growth(NamedTuple):
    """Token chunks by running totals that are believed."""

    chunks: list[Chunks]
    tokenless_reads: list[int]
    totals: dict[int, int]
    """Tokens of each answer; those of all together under 0 where the totals are the request's."""

    @property
    def total(self) -> int:
        return sum(self.totals.values())


class Counted(NamedTuple):
    """Token chunks, and the number of tokens."""

    chunks: Sequence[Chunks] = ()
    tokenless_reads: Sequence[int] = ()
    """Reads that completed an event with choices that is no token chunk."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    source: TokenSource | None = None
    doubt: str | None = None
    per_answer: Mapping[int, int] = MappingProxyType({})
    """Tokens of each answer; empty where they are known of all together only."""
    hidden: int = 0
    """Part of `output_tokens` that was not streamed; `chunks` are without it."""


UNCOUNTED = Counted()


def count_tokens(events: Sequence[SameEvents], n: int, count: Callable[[str], int] | None) -> Counted:
    """Token chunks and counts of a request that asks for `n` answers to each prompt; `count` is a tokenizer's."""
    pieces = sum([len(some.reads) for some in events if some.has_content])
    finals = [some.event.completion_tokens for some in events if not some.event.has_choices]
    final = next((total for total in reversed(finals) if _is_believable(total, pieces)), None)
    is_counted = _has_running_totals(events)
    growth = _believed_growth(events, final) if is_counted else None
    chunks, tokenless = growth[:2] if growth else _by_content(events)
    per_answer = growth.totals if growth else _last_counts(events, pieces)
    total = final or sum(per_answer.values()) or None
    doubt = _doubt(events, finals, pieces, total)
    if is_counted and growth is None:
        doubt = doubt or NO_RUNNING_TOTALS
    input_tokens, prompt_doubt = _prompt_tokens(events, n)
    output_tokens, source = _total(chunks, events, total, count)
    answers = {some.event.choice for some in chunks}
    is_split = answers == per_answer.keys() and sum(per_answer.values()) == output_tokens
    return Counted(
        chunks,
        tokenless,
        input_tokens,
        output_tokens,
        source,
        doubt or prompt_doubt,
        per_answer if is_split else {},
    )


def chunk_tokens(chunks: Sequence[Chunks]) -> tuple[int, ...] | None:
    """Tokens of each chunk; None where not all are known, or there is none."""
    tokens: list[int] = []
    for some in chunks:
        if None in some.tokens:
            return None
        tokens += cast("Sequence[int]", some.tokens)
    return tuple(tokens) or None


def _is_believable(total: int | None, pieces: int) -> bool:
    """Content in a chunk is a token at least."""
    return total is not None and max(1, pieces) <= total <= _MOST_TOKENS


def _has_running_totals(events: Sequence[SameEvents]) -> bool:
    """Some servers put the total into the last chunk with content: then the chunks before it have no usage."""
    has_count = [some.event.completion_tokens is not None for some in events if some.has_content]
    return all(has_count) and (
        bool(has_count) or any(some.event.has_choices and some.event.completion_tokens for some in events)
    )


def _believed_growth(events: Sequence[SameEvents], final: int | None) -> Growth | None:
    """Token chunks by the growth of totals that are each answer's own, or the whole request's."""
    several = len({some.event.choice for some in events if some.event.has_choices}) > 1
    for own in (False, True) if several else (True,):
        growth = _growth(events, own)
        if growth is not None and (growth.total == final if final is not None else growth.total <= _MOST_TOKENS):
            return growth
    return None


def _growth(events: Sequence[SameEvents], own: bool) -> Growth | None:
    """Reads how the counts of an answer grow; None where a total falls, is less than the chunks with content so far,
    or mostly stands still beside it.
    """
    growth = Growth([], [], {})
    pieces_of: dict[int, int] = {}
    idle = 0
    for some in events:
        if not some.event.has_choices:
            continue
        answer = some.event.choice if own else 0
        then, pieces = growth.totals.get(answer, 0), pieces_of.get(answer, 0)
        totals = [count for count in some.counts if count is not None]
        grown = list(map(sub, totals, [then, *totals[:-1]]))
        if min(grown, default=0) < 0 or (some.has_content and any(map(lt, totals, count_from(pieces + 1)))):
            return None
        growth.totals[answer] = totals[-1] if totals else then
        pieces_of[answer] = pieces + (len(totals) if some.has_content else 0)
        if some.has_content or any(grown):
            growth.chunks.append(Chunks(some.reads, grown, some.event, some.first_length, some.texts))
            idle += grown.count(0)
        else:
            growth.tokenless_reads.extend(some.reads)
    pieces = sum(pieces_of.values())
    return None if pieces > 1 and 2 * idle >= pieces else growth


def _by_content(events: Sequence[SameEvents]) -> tuple[list[Chunks], list[int]]:
    has_ids = all(some.event.token_ids for some in events if some.has_content)
    chunks: list[Chunks] = []
    tokenless: list[int] = []
    for reads, event, _, first_length, texts in events:
        if event.output or event.reasoning or event.token_ids:
            chunks.append(
                Chunks(reads, [event.token_ids if has_ids else None] * len(reads), event, first_length, texts)
            )
        elif event.has_choices:
            tokenless += reads
    return chunks, tokenless


def _last_counts(events: Sequence[SameEvents], pieces: int) -> dict[int, int]:
    """The total of each answer from counts that are no running totals: the last, where it is plainly the sum of all."""
    series: defaultdict[int, list[int]] = defaultdict(list)
    has_content: dict[int, bool] = {}
    for some in events:
        if some.event.has_choices and some.event.completion_tokens is not None:
            known = [count for count in some.counts if count is not None]
            series[some.event.choice] += known
            has_content[some.event.choice] = some.has_content
    totals = {answer: counts[-1] for answer, counts in series.items() if _is_last_total(counts, has_content[answer])}
    return totals if _is_believable(sum(totals.values()), pieces) else {}


def _is_last_total(counts: Sequence[int], last_has_content: bool) -> bool:
    """True if the last count is beyond all before it; where those fall, or came with content, it must have come by
    itself.
    """
    before = max(counts[:-1], default=0)
    return counts[-1] > before and (before == 0 or not last_has_content or counts == sorted(counts))


def _doubt(events: Sequence[SameEvents], finals: Sequence[int | None], pieces: int, total: int | None) -> str | None:
    """The fault of the counts themselves, and first of the request's own total where it has one."""
    counts = [count for some in events if (count := some.event.completion_tokens) is not None]
    if min(counts, default=0) < 0:
        return NO_NUMBERS
    own = [count for count in finals if count is not None]
    counts = own or ([] if total else counts)
    if not counts or not pieces or _is_believable(max(counts), pieces):
        return None
    return TOTAL_TOO_LARGE if max(counts) > _MOST_TOKENS else TOTAL_TOO_SMALL


def _total(
    chunks: Sequence[Chunks], events: Sequence[SameEvents], total: int | None, count: Callable[[str], int] | None
) -> tuple[int | None, TokenSource | None]:
    """Output tokens and where that number comes from: the server, the tokenizer, or the chunks."""
    if total is not None:
        return total, "usage"
    if not chunks:
        return None, None
    per_chunk = chunk_tokens(chunks)
    if per_chunk is not None:
        return sum(per_chunk), "usage"
    if count is not None:
        return sum(map(count, _texts(events))), "tokenizer"
    return sum(tokens or 1 for some in chunks for tokens in some.tokens), "chunks"


def _texts(events: Sequence[SameEvents]) -> Iterator[str]:
    """Each answer as a whole: chunk by chunk, tokens would be counted that the model never made."""
    for answer in sorted({some.event.choice for some in events}):
        own = [some.event for some in events if some.event.choice == answer]
        yield "".join(event.other_text for event in own) + "".join(event.text for event in own)


def _prompt_tokens(events: Sequence[SameEvents], n: int) -> tuple[int | None, str | None]:
    """The last count of an event without choices, else the sum over the prompts; and what is wrong with it."""
    given = [some.event for some in events if some.event.prompt_tokens is not None]
    good = [event for event in given if 0 < (event.prompt_tokens or 0) <= _MOST_TOKENS]
    whole = [event.prompt_tokens for event in good if not event.has_choices]
    per_prompt: dict[int, int] = {}
    for event in good:
        prompt = event.choice // n
        per_prompt[prompt] = max(event.prompt_tokens or 0, per_prompt.get(prompt, 0))
    found = whole[-1] if whole else sum(per_prompt.values()) or None
    return found, NO_PROMPT_COUNT if given and found is None else None
