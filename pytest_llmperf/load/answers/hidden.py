"""Tokens that were counted and never streamed, and how many of the streamed ones came with the first chunk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from pytest_llmperf.load.answers.counts import Chunks, Counted, chunk_tokens
from pytest_llmperf.load.answers.same_events import SameEvents

_UNSEEN = 8
"""Special tokens that no text shows: an end, the marks between parts of an answer."""
_JUMP = 4
"""A chunk with so many times the tokens of nearly all others may hold more than itself."""
_LETTERS = re.compile("[A-Za-z ]")
_LONG_TOKEN = 10
"""Bytes of text per token; more are more tokens."""


def without_hidden(events: Sequence[SameEvents], counted: Counted) -> Counted:
    """The counts with the tokens set apart that were not streamed: those that the chunks cannot hold."""
    total, chunks = counted.output_tokens, counted.chunks
    if not total or counted.source != "usage":
        return counted
    if not chunks:
        return counted._replace(hidden=total)
    reasoned = _unseen_reasoning(events, chunks, total)
    per_chunk = chunk_tokens(chunks)
    if per_chunk is None:
        return counted._replace(hidden=reasoned or _beyond_text(chunks, counted.tokenless_reads, total))
    if sum(per_chunk) < total:  # ids of the streamed tokens: the others were not
        return counted._replace(hidden=min(reasoned, total - sum(per_chunk)))
    return _without_jumps(counted, per_chunk, reasoned)


def _unseen_reasoning(events: Sequence[SameEvents], chunks: Sequence[Chunks], total: int) -> int:
    """Reasoning that the server counted, unless it can be the text that was streamed."""
    reasoned = max([some.event.reasoned for some in events])
    reasoning = [some for some in chunks if some.event.reasoning]
    if not reasoned or (reasoning and _can_hold(reasoning, reasoned)):
        return 0
    hidden = min(reasoned, total) - sum([len(some.reads) for some in reasoning])
    left = total - hidden
    pieces = sum([len(some.reads) for some in chunks])
    return hidden if hidden > 0 and pieces <= left and sum(map(_bytes, chunks)) <= _LONG_TOKEN * left else 0


def _beyond_text(chunks: Sequence[Chunks], tokenless_reads: Sequence[int], total: int) -> int:
    """Hidden part of a total without counts per chunk: a token is a byte of text at least, or a chunk without any."""
    has_text = all(some.length for some in chunks)
    if not has_text or _can_hold(chunks, total - len(tokenless_reads)):
        return 0
    return total - sum([len(some.reads) for some in chunks])


def _can_hold(chunks: Sequence[Chunks], tokens: int) -> bool:
    """A token is a byte of text at least, and two letters in a long run, unless each character is one."""
    size = sum(map(_bytes, chunks))
    if tokens > size + _UNSEEN:
        return False
    if tokens <= 2 * sum([len(some.reads) for some in chunks]) + _UNSEEN or tokens >= size - _UNSEEN:
        return True
    letters = sum([len(_LETTERS.findall(some.event.text + some.event.other_text)) for some in chunks])
    return tokens <= size - letters // 2 + _UNSEEN


def _without_jumps(counted: Counted, per_chunk: tuple[int, ...], reasoned: int) -> Counted:
    """Takes out of the chunks' tokens what they cannot hold; a first chunk of nothing else is none."""
    if not reasoned and max(per_chunk) <= _UNSEEN:
        return counted
    sizes = [size for some in counted.chunks for size in _sizes(some)]
    usual = sorted(per_chunk)[(len(per_chunk) - 1) * 9 // 10]
    jumps = [at for at, grown in enumerate(per_chunk) if grown > sizes[at] + _UNSEEN and grown > _JUMP * usual]
    jumps = jumps if any(sizes) else []
    if reasoned and not jumps:
        jumps = [0]
    rate = (sum(per_chunk) - sum([per_chunk[at] for at in jumps])) / max(
        1, sum(sizes) - sum([sizes[at] for at in jumps])
    )
    left, kept = reasoned or sum(per_chunk), list(per_chunk)
    for at in jumps:
        held = max(1, round(sizes[at] * rate)) if sizes[at] else 0
        kept[at] -= min(left, max(0, per_chunk[at] - held))
        left -= per_chunk[at] - kept[at]
    hidden = sum(per_chunk) - sum(kept)
    if not hidden:
        return counted
    rest = iter(kept)
    chunks = [some._replace(tokens=list(islice(rest, len(some.reads)))) for some in counted.chunks]
    if kept[0]:
        return counted._replace(chunks=chunks, hidden=hidden)
    tokenless = sorted([*chunks[0].reads, *counted.tokenless_reads])
    return counted._replace(chunks=chunks[1:], tokenless_reads=tokenless, hidden=hidden)


def _sizes(some: Chunks) -> list[int]:
    """Bytes of each chunk's text."""
    if len(some.reads) == 1:
        return [_bytes(some)]
    columns = [column for column in some.texts if column]
    return [sum([len(text.encode("utf-8", "replace")) for text in texts]) for texts in zip(*columns, strict=True)]


def _bytes(some: Chunks) -> int:
    event = some.event
    return len(event.text.encode("utf-8", "replace")) + len(event.other_text.encode("utf-8", "replace"))


def first_chunk_tokens(counted: Counted) -> tuple[float, ...]:
    """Tokens in the first chunk of each answer: as counted, else by its share of the answer's text.

    An answer of as many tokens as chunks, or of one more, which is then its end, has one in each.
    """
    own: dict[int, list[Chunks]] = {}
    for some in counted.chunks:
        own.setdefault(some.event.choice, []).append(some)
    lengths = {answer: sum([some.length for some in mine]) for answer, mine in own.items()}
    whole = sum(lengths.values())
    streamed = (counted.output_tokens or 0) - counted.hidden
    firsts: list[float] = []
    for answer, mine in sorted(own.items()):
        share = lengths[answer] / whole if whole else 1 / len(own)
        tokens = counted.per_answer[answer] if counted.per_answer and not counted.hidden else streamed * share
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
