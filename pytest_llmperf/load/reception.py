"""Wakes a load up for what its connections receive: where tokens come thick and fast, for several of them at once.

Between two tokens of 256 evenly spaced streams the processor falls asleep, and each time it wakes with cold caches:
that costs more than what is done then. So the load naps before it looks, and serves what has come meanwhile. The
kernel's stamps do not move by that, but two writes of one stream that fall into the same nap share the later one's
stamp. So there are no naps unless a stream's tokens are far apart.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import sys
import time
from collections.abc import Callable

LONGEST_NAP_S, _SHORTEST_NAP_S = 0.0005, 0.00025
_OF_A_GAP = 20
"""Naps that fit between two reads of a stream, on average: where that makes them too short, there are none."""
_RATE = 10_000
"""Reads per second from which naps pay: several in each."""
_ENOUGH = 32
"""Reads that are waiting when we come back are no less than a nap would bring."""
_SPARE_S = 0.0002
"""A nap ends so long before the next request is due."""
_BLIND_S = 0.0005
"""While many requests end and others are sent for them, what comes meanwhile waits no longer than this."""
_PERIOD_S = 0.02
_MAX_SHARED = 0.01
_ENOUGH_READS = 5_000
"""To judge by how many of them are shared."""


class Reception:
    """Of one load, in the running event loop, whichever it is. Close it after its connections."""

    def __init__(self) -> None:
        self.due_s = math.inf
        """When the next request has to be sent, by the loop's clock."""
        self.streams = 0
        """Exchanges under way."""
        self.shared = 0
        """Reads with more than one chunk in the middle of a response, in this period."""
        self.unstamped = 0
        """Reads without a stamp of the kernel, in this period."""
        self._loop = asyncio.get_running_loop()
        self._readers: dict[int, Callable[[], None]] = {}
        self._began_s = self._loop.time()
        self._reads = self._last_reads = 0
        self._nap_s = 0.0
        self._looked_s = self._began_s
        self._may_nap = True
        self._seen_reads = self._seen_shared = 0
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._serve)

    def add(self, sock: socket.socket, on_readable: Callable[[], None]) -> None:
        if sys.platform == "linux":
            self._readers[sock.fileno()] = on_readable
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        else:
            self._loop.add_reader(sock, on_readable)

    def remove(self, sock: socket.socket) -> None:
        if sys.platform == "linux":
            del self._readers[sock.fileno()]
            self._epoll.unregister(sock.fileno())
        else:
            self._loop.remove_reader(sock)

    def glance(self) -> None:
        """Between two of many things that are done in one turn of the event loop."""
        if sys.platform == "linux" and self._loop.time() - self._looked_s > _BLIND_S:
            self._look()

    def close(self) -> None:
        if sys.platform == "linux":
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    if sys.platform == "linux":

        def _serve(self) -> None:
            """Looks, after a nap where it pays."""
            now = self._loop.time()
            if now - self._began_s > _PERIOD_S:
                self._nap_s = self._next_nap_s(now - self._began_s)
                self._began_s, self._reads, self.shared, self.unstamped = now, 0, 0, 0
            if self._nap_s and self._last_reads < _ENOUGH and now + self._nap_s + _SPARE_S < self.due_s:
                time.sleep(self._nap_s)
            self._look()

        def _look(self) -> None:
            """Reads every socket that has something to read."""
            events = self._epoll.poll(0, 1024)
            self._last_reads = len(events)
            self._reads += len(events)
            readers = self._readers
            for fd, _ in events:
                reader = readers.get(fd)
                if reader is not None:
                    reader()
            self._looked_s = self._loop.time()

        def _next_nap_s(self, period_s: float) -> float:
            """Once too many chunks shared a read, there are no more naps: the server writes them close together."""
            if self._nap_s:
                self._seen_reads += self._reads
                self._seen_shared += self.shared
            if self._seen_reads > _ENOUGH_READS and self._seen_shared > _MAX_SHARED * self._seen_reads:
                self._may_nap = False
            may_nap = self._may_nap and not self.unstamped
            return nap_s(self._reads / period_s, self.streams) if may_nap else 0.0


def nap_s(reads_per_s: float, streams: int) -> float:
    """How long to wait for more before sockets are read; 0: not at all."""
    if reads_per_s < _RATE:
        return 0.0
    longest_s = min(LONGEST_NAP_S, streams / reads_per_s / _OF_A_GAP)
    return longest_s if longest_s >= _SHORTEST_NAP_S else 0.0
