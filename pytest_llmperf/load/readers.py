"""Tells connections that they can be read: one epoll of ours, which the event loop sees as a single file.

The loop's own readers cost each event a queue and a context, and each wake-up a turn of the loop: together a third of
what it costs to receive a token.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable

_BATCH = 1024
_WAIT_S = 0.001
"""The shortest that epoll can wait."""


class Readers:
    """What is called when which socket is readable, or broken; without epoll (not Linux) the loop's own readers.

    `patient` waits for the next event here, up to 2 ms at a time, unless `wake` is called meanwhile: for loads that
    have no moments to keep.
    """

    def __init__(self) -> None:
        self.patient = False
        self._loop = asyncio.get_running_loop()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._leave = False
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            self._loop.add_reader(self._epoll.fileno(), self._on_events, self._epoll)

    def add(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        if self._epoll is None:
            self._loop.add_reader(sock, callback)
        else:
            self._callbacks[sock.fileno()] = callback
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        """Call before closing `sock`."""
        if self._epoll is None:
            self._loop.remove_reader(sock)
        elif self._callbacks.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def wake(self) -> None:
        """The event loop has something to do."""
        self._leave = True

    def close(self) -> None:
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _on_events(self, epoll: select.epoll) -> None:
        callback_of = self._callbacks.get
        until_s = time.monotonic() + _WAIT_S
        self._leave = not self.patient
        while events := epoll.poll(_WAIT_S, _BATCH):
            for number, _ in events:
                # One that was closed in this very turn is no longer there.
                callback = callback_of(number)
                if callback is not None:
                    callback()
            if self._leave or time.monotonic() > until_s:
                return
