"""Server-sent events, sans I/O: bytes in, completed events out (WHATWG HTML, 9.2 "Server-sent events")."""

from __future__ import annotations

import re
from typing import NamedTuple

_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_FIELD_NAME = re.compile(rb"[a-z][a-z0-9_-]*")
_BOM = b"\xef\xbb\xbf"


class Message(NamedTuple):
    """One event of a stream."""

    data: bytes
    """Several `data` lines are joined by LF."""
    name: bytes = b""
    """The `event` field. A field `error`, which no event stream has, counts as the data of an event of that name."""
    stray: bytes = b""
    """Lines among its own that are of no event stream: a proxy's page, an error that was sent as it was."""


class SseParser:
    """Incremental parser of one event stream. `id` and `retry` mean nothing to an LLM stream and are left out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # this much of the buffer holds no line end: a long line in many reads is scanned once
        self._data: list[bytes] = []
        self._name = b""
        self._stray: list[bytes] = []
        self._extensions: list[bytes] = []  # fields of other names: part of an event, and no event by themselves
        self._in_event = False
        self._after_cr = False
        self._at_start = True

    @property
    def is_between_events(self) -> bool:
        return not (self._buffer or self._in_event or self._after_cr)

    def feed(self, data: bytes) -> list[Message]:
        """The events that these bytes complete."""
        if self.is_one_plain_event(data):
            return [Message(data[6:-2])]
        if self._after_cr and data:
            # The CR has ended its line already, so that an event is not held back until the next read.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._buffer += data
        return self._take_lines()

    def end(self) -> list[Message]:
        """The rest of a stream that ended as it should: its last event may lack the blank line, or half of it."""
        return [] if self.is_between_events else self.feed(b"\n\n")

    def is_one_plain_event(self, data: bytes) -> bool:
        """True for nearly every read of a stream: worth a short cut, because it runs once per token."""
        return (
            data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and data.startswith(b"data: ")
            and b"\r" not in data
            and self.is_between_events
        )

    def _take_lines(self) -> list[Message]:
        events: list[Message] = []
        start = 0
        while match := _END_OF_LINE.search(self._buffer, max(start, self._scanned)):
            self._take_line(bytes(self._buffer[start : match.start()]), events)
            start = match.end()
            self._after_cr = match[0] == b"\r" and start == len(self._buffer)
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        return events

    def _take_line(self, line: bytes, events: list[Message]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data: "):  # nearly all that are not blank
            self._data.append(line[6:])
            self._in_event = True
            return
        if not line:
            if self._in_event:
                events.append(self._completed())
            return
        field, colon, value = line.partition(b":")
        if not field or field in (b"id", b"retry"):
            return
        self._in_event = True
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        elif field.lower() == b"error":
            self._name, self._data = b"error", [value.removeprefix(b" ")]
        else:
            lines = self._extensions if colon and _FIELD_NAME.fullmatch(field) else self._stray
            lines.append(line)

    def _completed(self) -> Message:
        """The event that a blank line ends."""
        self._in_event = False
        if self._data and not (self._name or self._stray or self._extensions):
            data, self._data = self._data, []
            return Message(data[0] if len(data) == 1 else b"\n".join(data))
        stray = self._stray if self._data else self._extensions + self._stray
        event = Message(b"\n".join(self._data), self._name, b"\n".join(stray))
        self._data, self._name, self._stray, self._extensions = [], b"", [], []
        return event
