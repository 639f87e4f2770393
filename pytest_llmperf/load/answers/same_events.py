"""Events of one answer as they came, with the reads that completed them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_llmperf.load.endpoints.openai import Event

_THINKING = re.compile("think|thought|reason|analysis|plan", re.IGNORECASE)


class SameEvents(NamedTuple):
    """Events that follow each other and differ in text and counts only: most of a stream's, or a single one."""

    reads: Sequence[int]
    """Number of the read that completed each event."""
    event: Event
    """One event for all of them: texts joined, counts the largest."""
    counts: Sequence[int | None]
    """Completion tokens that each event reports."""
    first_length: int
    """Characters of text in the first event."""
    texts: tuple[Sequence[str], Sequence[str]] = ((), ())
    """Content of each of several events and its other text; empty where all have the same."""

    @property
    def has_content(self) -> bool:
        """True if they carry content of any kind."""
        return self.event.output or self.event.reasoning


def events_in(read: int, event: Event) -> Iterator[SameEvents]:
    """Splits an event into those of each answer in it, and of all together."""
    for one in (event, *event.others):
        yield SameEvents((read,), one, (one.completion_tokens,), len(one.text) + len(one.other_text))


def without_repetition(events: Sequence[SameEvents]) -> Sequence[SameEvents]:
    """The events, with no content in a last one that says once more all that its answer said in several before it."""
    at = next((at for at in reversed(range(len(events))) if events[at].has_content), None)
    if at is None or not _begins(events, at):
        return events
    *head, last = _without_last(events[at])
    before = [*events[:at], *head]
    if not _repeats(last.event, before):
        return events
    silent = last.event._replace(output=False, reasoning=False, text="", other_text="")
    return [*before, last._replace(event=silent, first_length=0), *events[at + 1 :]]


def _begins(events: Sequence[SameEvents], at: int) -> bool:
    """True if the last event begins as its answer did, which is cheap to know and nearly never so."""
    last = events[at]
    text = last.texts[0][-1] if last.texts[0] else last.event.text
    first = next(
        (some for some in events[: at + 1] if some.event.text and some.event.choice == last.event.choice), last
    )
    return bool(text) and text.startswith(first.event.text[: first.first_length])


def _without_last(some: SameEvents) -> list[SameEvents]:
    """Splits off the last of several events."""
    texts, others = some.texts
    if len(some.reads) < 2 or len(texts) != len(some.reads) or others:
        return [some]
    event, length = some.event, len(texts[-1])
    head = event._replace(text=event.text[:-length])
    last = event._replace(text=texts[-1])
    return [
        some._replace(reads=some.reads[:-1], event=head, counts=some.counts[:-1], texts=(texts[:-1], ())),
        SameEvents(some.reads[-1:], last, some.counts[-1:], length),
    ]


def _repeats(event: Event, before: Sequence[SameEvents]) -> bool:
    own = [some for some in before if some.has_content and some.event.choice == event.choice]
    text = "".join([some.event.text for some in own])
    other = "".join([some.event.other_text for some in own])
    pieces = sum([len(some.reads) for some in own])
    return bool(text) and pieces > 1 and event.text == text and event.other_text in ("", other)


def with_unknown_content(events: Sequence[SameEvents]) -> tuple[Sequence[SameEvents], tuple[str, ...]]:
    """The events, with what unknown fields carried as content, and the names of these fields.

    A field that says the same thing again and again beside known content is a mark of the server's, and no content.
    """
    if not any(some.event.unknown for some in events):
        return events, ()
    values: defaultdict[str, set[str]] = defaultdict(set)
    beside: set[str] = set()
    for some in events:
        for name, text in some.event.unknown:
            values[name].add(text)
            beside |= {name} if some.has_content else set()
    names = {name for name, texts in values.items() if len(texts) > 1 or name not in beside}
    return [_with_content(some, names) for some in events], tuple(sorted(names))


def _with_content(some: SameEvents, names: set[str]) -> SameEvents:
    found = [(name, text) for name, text in some.event.unknown if name in names]
    if not found or len(some.reads) > 1:  # several events alike carry known content anyway
        return some
    thinks = all(_THINKING.search(name) for name, _ in found)
    event = some.event._replace(
        output=some.event.output or not thinks,
        reasoning=some.event.reasoning or thinks,
        other_text=some.event.other_text + "".join(text for _, text in found),
    )
    return some._replace(event=event, first_length=len(event.text) + len(event.other_text))
