"""Server-sent events, sans I/O: bytes in, the data of completed events out (WHATWG HTML, 9.2 "Server-sent events")."""

from __future__ import annotations

import re

_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Incremental parser of one event stream. Only `data` is kept: the other fields mean nothing to an LLM stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # this much of the buffer holds no line end: a long line in many reads is scanned once
        self._data: list[bytes] = []
        self._after_cr = False
        self._at_start = True

    @property
    def is_between_events(self) -> bool:
        return not (self._buffer or self._data or self._after_cr)

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that these bytes complete; several `data` lines of one event are joined by LF."""
        if self.is_one_plain_event(data):
            return [data[6:-2]]
        if self._after_cr and data:
            # The CR has ended its line already, so that an event is not held back until the next read.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._buffer += data
        return self._take_lines()

    def is_one_plain_event(self, data: bytes) -> bool:
        """What nearly every read of a stream is: worth a short cut, because it runs once per token."""
        return (
            data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and data.startswith(b"data: ")
            and b"\r" not in data
            and self.is_between_events
        )

    def _take_lines(self) -> list[bytes]:
        events: list[bytes] = []
        start = 0
        while match := _END_OF_LINE.search(self._buffer, max(start, self._scanned)):
            self._take_line(bytes(self._buffer[start : match.start()]), events)
            start = match.end()
            self._after_cr = match[0] == b"\r" and start == len(self._buffer)
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data = []
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
