"""Events of a stream that are no plain ones: with a name, with nothing in them, with lines that are of no stream."""

from __future__ import annotations

import re
from collections.abc import Callable

from pytest_llmperf.load.answers.sse import Message
from pytest_llmperf.load.endpoints.openai import (
    NOT_UNDERSTOOD,
    NOTHING,
    Event,
    body_text,
    failed,
    json_object,
    read_rest,
)

_FAILURE = re.compile(
    rb"(?:^|[._-]|\b)(?:error|exception|failure|failed|abort|aborted|timeout|timed.?out|cancell?ed|interrupted|overloaded)$",
    re.IGNORECASE,
)
_SIGN_OF_LIFE = re.compile(rb"ping|pong|heart.?beat|keep.?alive", re.IGNORECASE)
_CONTENT = re.compile(rb"|message|data|delta|chunk|token|completion|response\..*", re.IGNORECASE)
_EMPTY = (b"", b"null", b"{}", b'""')


def read_message(message: Message, read_event: Callable[[bytes], Event]) -> Event:
    """Reads an event that has more to it than data. Raises what `read_event` does."""
    data, name, stray = message
    if not stray and (not name or name.startswith(b"response.")) and data.startswith(b'{"'):
        return read_event(data)
    data = data.strip()
    if _FAILURE.search(name):
        return Event(error=body_text(data or stray) or name.decode("utf-8", "replace"))
    if data in _EMPTY or _SIGN_OF_LIFE.fullmatch(name or data):
        return _read_stray(stray) if stray else NOTHING
    event = _read_named(name, data, read_event)
    return event._replace(others=(*event.others, _read_stray(stray))) if stray else event


def _read_stray(stray: bytes) -> Event:
    """A JSON body that says what went wrong is an error wherever it comes; anything else where content should be."""
    try:
        body = json_object(stray)
    except NOT_UNDERSTOOD:
        return Event(odd=body_text(stray))
    event = failed(body) or read_rest(body, ())
    return event if event.error else Event(odd=body_text(stray))


def _read_named(name: bytes, data: bytes, read_event: Callable[[bytes], Event]) -> Event:
    """An event of a name of its own (metadata, a closing word) may hold anything but an error."""
    if _CONTENT.fullmatch(name):
        return read_event(data)
    try:
        event = read_event(data)
    except NOT_UNDERSTOOD:
        return NOTHING
    return event._replace(odd=None)
