"""Tokens that were counted and never streamed, and how many of the streamed ones came with the first chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_llmperf.load.answers.counts import Chunks, Counted, chunk_tokens
from pytest_llmperf.load.answers.said import Said

_UNSEEN = 8
"""Special tokens that no text shows: an end, the marks between parts of an answer."""
_JUMP = 4
"""A first chunk with so many times the tokens of any other holds more than itself."""
_LONG_TOKEN = 10
"""Bytes of text per token; more are more tokens."""


class Shown(NamedTuple):
    """The streamed part of an answer's tokens."""

    hidden: int
    chunks: list[Chunks]
    """Without what is hidden."""
    tokenless_reads: list[int]


def shown(said: Sequence[Said], counted: Counted) -> Shown:
    """What of the counted tokens was streamed: a count that the chunks cannot hold has hidden ones in it."""
    total, chunks = counted.output_tokens, counted.chunks
    if not total or counted.source != "usage":
        return Shown(0, chunks, counted.tokenless_reads)
    if not chunks:
        return Shown(total, chunks, counted.tokenless_reads)
    reasoned = _unseen_reasoning(said, chunks, total)
    told = chunk_tokens(chunks)
    if told is None:
        hidden = reasoned or _beyond_text(chunks, counted.tokenless_reads, total)
        return Shown(hidden, chunks, counted.tokenless_reads)
    if sum(told) < total:  # ids of the streamed tokens: the others were not
        return Shown(min(reasoned, total - sum(told)), chunks, counted.tokenless_reads)
    return _without_jump(chunks, counted.tokenless_reads, told, reasoned)


def _unseen_reasoning(said: Sequence[Said], chunks: Sequence[Chunks], total: int) -> int:
    """Reasoning that the server counted, unless it can be the text that was streamed."""
    reasoned = max([some.event.reasoned for some in said])
    spoken = [some for some in chunks if some.event.reasoning]
    if spoken and reasoned <= sum(map(_bytes, spoken)) + _UNSEEN:
        return 0
    hidden = min(reasoned, total) - sum([len(some.reads) for some in spoken])
    left = total - hidden
    pieces = sum([len(some.reads) for some in chunks])
    return hidden if hidden > 0 and pieces <= left and sum(map(_bytes, chunks)) <= _LONG_TOKEN * left else 0


def _beyond_text(chunks: Sequence[Chunks], tokenless_reads: Sequence[int], total: int) -> int:
    """Of a total alone: a token is a byte of text at least, or a chunk without any."""
    has_text = all(some.length for some in chunks)
    if not has_text or total <= sum(map(_bytes, chunks)) + len(tokenless_reads) + _UNSEEN:
        return 0
    return total - sum([len(some.reads) for some in chunks])


def _without_jump(chunks: list[Chunks], tokenless_reads: list[int], told: tuple[int, ...], reasoned: int) -> Shown:
    """Takes out of the first chunk's tokens what it cannot hold; a chunk of nothing else is none."""
    first, rest = chunks[0], told[1:]
    size = _first_bytes(first)
    held = max(1, round(size * sum(rest) / max(1, sum(map(_bytes, chunks)) - size))) if size else 0
    is_jump = told[0] > size + _UNSEEN and told[0] > _JUMP * max(rest, default=told[0]) and any(map(_bytes, chunks))
    hidden = min(reasoned, told[0] - held) if reasoned else (told[0] - held if is_jump else 0)
    if hidden <= 0:
        return Shown(0, chunks, tokenless_reads)
    if told[0] == hidden:
        return Shown(hidden, chunks[1:], sorted([*first.reads, *tokenless_reads]))
    changed = first._replace(tokens=[told[0] - hidden, *first.tokens[1:]])
    return Shown(hidden, [changed, *chunks[1:]], tokenless_reads)


def _bytes(some: Chunks) -> int:
    event = some.event
    return len(event.text.encode("utf-8", "replace")) + len(event.other_text.encode("utf-8", "replace"))


def _first_bytes(some: Chunks) -> int:
    return some.first_length if len(some.reads) > 1 else _bytes(some)


def first_chunk_tokens(chunks: Sequence[Chunks], counted: Counted, hidden: int) -> tuple[float, ...]:
    """Tokens in the first chunk of each answer: as counted, else by its share of the answer's text.

    An answer of as many tokens as chunks, or of one more, which is then its end, has one in each.
    """
    own: dict[int, list[Chunks]] = {}
    for some in chunks:
        own.setdefault(some.event.choice, []).append(some)
    lengths = {answer: sum([some.length for some in mine]) for answer, mine in own.items()}
    whole = sum(lengths.values())
    shown_tokens = (counted.output_tokens or 0) - hidden
    firsts: list[float] = []
    for answer, mine in sorted(own.items()):
        share = lengths[answer] / whole if whole else 1 / len(own)
        tokens = counted.per_answer[answer] if counted.per_answer and not hidden else shown_tokens * share
        firsts.append(_first_tokens(mine, tokens, lengths[answer]))
    return tuple(firsts)


def _first_tokens(chunks: Sequence[Chunks], tokens: float, length: int) -> float:
    known = chunks[0].tokens[0]
    if known is not None:
        return max(1.0, float(known))
    pieces = sum([len(some.reads) for some in chunks])
    most = tokens - (pieces - 1)
    if most <= 2:
        return 1.0
    share = chunks[0].first_length / length if length else 1 / pieces
    return min(max(1.0, tokens * share), most)
