"""Consecutive events usually differ only in text and counts; one compiled pattern reads many of them at once.

An event that was parsed becomes a pattern in which the text, ids and counts are slots. What each slot means is tried
out: the parser reads the event with another value in it. A slot takes only what is a whole value of its kind, so that
everything around it keeps its meaning; what does not match in full is for the parser.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from pydantic_core import from_json

from pytest_llmperf.load.endpoints.openai import NOT_UNDERSTOOD, Event

# Unicode in UTF-8 (RFC 3629), without what JSON escapes; then the escapes, but for halves of surrogate pairs.
_PLAIN = (
    rb"[ !#-\[\]-\x7f]++|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
_ESCAPED = rb'\\(?:["\\/bfnrt]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))'
_TEXT = b"(?:%b|%b)++" % (_PLAIN, _ESCAPED)
"""Text within the quotes of a JSON string that is not empty."""
_ID = rb"[!#-\[\]-~]+"
_COUNT = rb"(?:0|[1-9][0-9]{0,9})"
_SLOT = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|reasoning_text|text_output)": ?"(?P<text>%b)"' % _TEXT
    + rb'|"id": ?"(?P<id>%b)"' % _ID
    + rb'|"(?:(?:prompt|completion|input|output|total)_tokens|created)": ?(?P<count>%b)(?=[,}])' % _COUNT
)
_VALUES = {"text": _TEXT, "id": _ID, "count": _COUNT}
_MOST = 6
"""Events of a load to be tried: of content and of reasoning, within a text and at its end. Where they differ more, more
templates would gain nothing."""
_FIELD = {name: number for number, name in enumerate(Event._fields)}
_TEXTS = {_FIELD["text"], _FIELD["other_text"]}
_COUNTS = {_FIELD["prompt_tokens"], _FIELD["completion_tokens"]}
_MEANINGS: dict[str, list[list[int]]] = {
    "text": [[field] for field in _TEXTS],  # one that means nothing may still be no text, and is not looked at
    "count": [[], *([field] for field in _COUNTS)],
    "id": [[]],
}


class Alike(NamedTuple):
    """Events that follow each other and differ in text, ids and counts only."""

    ends: tuple[int, ...]
    """Offset in the body of the end of each event."""
    event: Event
    """The facts in common; of texts all, joined, and of counts the largest (without choices: the last)."""
    counts: Sequence[int | None]
    """Completion tokens that each reports."""
    first_length: int
    """Characters of text in the first."""
    texts: tuple[Sequence[str], Sequence[str]]
    """Content of each event and its other text; empty where all have the same."""


class _Template(NamedTuple):
    find_all: Callable[[bytes, int], list[tuple[bytes, ...]]]
    """Matches from an offset in a body on: the event and the content of its slots, each time; the rest is one match
    more, of nothing.
    """
    fields: tuple[int, ...]
    """Index of the event's field that each slot fills."""
    facts: list[Any]


class Templates:
    """Patterns of one load's events, at most `tries`. `read_event` is what reads an event without them."""

    def __init__(self, read_event: Callable[[bytes], Event], tries: int = _MOST) -> None:
        self._read_event = read_event
        self._known: list[_Template] = []
        self._tries = tries

    def read(self, body: bytes, at: int) -> Alike | None:
        """The events, at least one, that follow each other from `at` on and are like one that was learned; None where
        the parser has to be asked."""
        for template in self._known:
            found = template.find_all(body, at)
            if found and found[0][0]:
                return _alike(template, found, at)
        return None

    def learn(self, data: bytes, event: Event) -> None:
        """Makes a template of an event, if it carries text and not too many were tried."""
        if self._tries and (event.output or event.reasoning):
            self._tries -= 1
            with contextlib.suppress(*NOT_UNDERSTOOD):  # the event with another value is none
                self._known += self._templates(data, event)

    def _templates(self, data: bytes, event: Event) -> Iterator[_Template]:
        """The event's template, if it can have one."""
        pattern, at = re.escape(b"data: "), 0
        fields: list[int] = []
        for slot in _SLOT.finditer(data):
            kind = slot.lastgroup or ""
            meant = self._meant(data, event, *slot.span(kind), kind)
            if meant is None or meant not in _MEANINGS[kind]:
                return
            fields += meant
            group = b"(%b)" if meant else b"(?:%b)"
            pattern += re.escape(data[at : slot.start(kind)]) + group % _VALUES[kind]
            at = slot.end(kind)
        if _TEXTS.intersection(fields) and len(set(fields)) == len(fields):
            pattern += re.escape(data[at:] + b"\n\n")
            yield _Template(re.compile(b"(%b)|(?s:.+)" % pattern).findall, tuple(fields), list(event))

    def _meant(self, data: bytes, event: Event, start: int, end: int, kind: str) -> list[int] | None:
        """The event's fields that change with what is in the slot; None when they become something else."""
        value = data[start:end]
        other = b"%d" % (int(value) + 1) if kind == "count" else value + b"~"
        changed = self._read_event(data[:start] + other + data[end:])
        fields = [field for field in range(len(event)) if changed[field] != event[field]]
        expected = int(other) if kind == "count" else _strings([other])[0]
        return fields if all(changed[field] == expected for field in fields) else None


def _alike(template: _Template, found: list[tuple[bytes, ...]], at: int) -> Alike:
    if not found[-1][0]:
        found.pop()
    events, *columns = zip(*found, strict=True)
    facts = template.facts.copy()
    counts: Sequence[int | None] = [facts[_FIELD["completion_tokens"]]] * len(events)
    first_length = sum(len(facts[field]) for field in _TEXTS.difference(template.fields))
    slots: dict[int, list[str]] = {}
    for field, values in zip(template.fields, columns, strict=True):
        if field in _COUNTS:
            numbers = list(map(int, values))
            facts[field] = max(numbers) if facts[_FIELD["has_choices"]] else numbers[-1]
            counts = numbers if field == _FIELD["completion_tokens"] else counts
        else:
            slots[field] = texts = _strings(values)
            first_length += len(texts[0])
            facts[field] = "".join(texts)
    both = (slots.get(_FIELD["text"], ()), slots.get(_FIELD["other_text"], ()))
    return Alike(tuple(accumulate(map(len, events), initial=at))[1:], Event(*facts), counts, first_length, both)


def _strings(values: Sequence[bytes]) -> list[str]:
    """Decodes JSON strings that have this between their quotes."""
    strings: list[str] = from_json(b'["%b"]' % b'","'.join(values))
    return strings
