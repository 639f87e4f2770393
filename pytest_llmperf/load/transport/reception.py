"""Reads from the connections of a load: where tokens come thick and fast, of several of them at once.

Between two tokens of 256 evenly spaced streams the processor falls asleep, and each time it wakes with cold caches:
that costs more than what is done then. So the load naps before it looks, and serves what has come meanwhile. The
kernel's stamps do not move by that, but two writes of one stream that fall into the same nap share the later one's
stamp. So there are no naps unless a stream's tokens are far apart. For the caches' sake, too, all sockets are read
before the first of these reads is looked at.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from pytest_llmperf import clock
from pytest_llmperf.load.transport.tape import READ_SIZE, STAMP_SIZE

LONGEST_NAP_S, _SHORTEST_NAP_S = 0.0005, 0.00025
_OF_A_GAP = 20
"""Naps that fit between two reads of a stream, on average: where that makes them too short, there are none."""
_RATE = 10_000
"""Reads per second from which naps pay: several in each."""
_ENOUGH = 32
"""Reads that are waiting when we come back are no less than a nap would bring."""
_SPARE_S = 0.0002
"""A nap ends so long before the next request is due."""
_MAX_UNREAD_S = 0.0005
"""Longest time between two looks at the sockets while requests are sent."""
_STAY_S = 0.002
"""Longest delay of the event loop's other timers, while no exchange begins or ends."""
_PERIOD_S = 0.02
_MAX_SHARED = 0.01
_ENOUGH_READS = 5_000
"""Fewest reads from which the share of shared ones is judged."""
_STAMP_SPACE = socket.CMSG_SPACE(STAMP_SIZE)

Ancillary = list[tuple[int, int, bytes]]


Take = Callable[[bytes, Ancillary, int], None]
"""Gets what a socket received (nothing: the other side has closed), and when it was read by our clock, in ns."""
Fail = Callable[[OSError], None]


class _Socket(NamedTuple):
    recvmsg: Callable[[int, int], tuple[bytes, Ancillary, int, object]]
    take: Take
    fail: Fail


class Reception:
    """The sockets of one load in the running event loop, whichever it is. Close it after its connections."""

    def __init__(self) -> None:
        self.due_s = math.inf
        """Due time of the next request, by the loop's clock."""
        self.streams = 0
        """Exchanges under way."""
        self.shared = 0
        """Reads with more than one chunk in the middle of a response, in this period."""
        self.unstamped = 0
        """Reads without a stamp of the kernel, in this period."""
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[int, _Socket] = {}
        self._began_s = self._loop.time()
        self._reads = self._last_reads = 0
        self._nap_s = 0.0
        self._looked_s = self._began_s
        self._may_nap = True
        self._seen_reads = self._seen_shared = 0
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._serve)

    def add(self, sock: socket.socket, take: Take, fail: Fail) -> None:
        found = _Socket(sock.recvmsg, take, fail)
        if sys.platform == "linux":
            self._sockets[sock.fileno()] = found
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        else:
            self._loop.add_reader(sock, _read, [found])

    def remove(self, sock: socket.socket) -> None:
        if sys.platform == "linux":
            del self._sockets[sock.fileno()]
            self._epoll.unregister(sock.fileno())
        else:
            self._loop.remove_reader(sock)

    def glance(self) -> None:
        """Reads the sockets when that is due; called between two of many things that are done in one turn of the
        event loop.
        """
        if sys.platform == "linux" and self._loop.time() - self._looked_s > _MAX_UNREAD_S:
            self._look()

    def close(self) -> None:
        if sys.platform == "linux":
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    if sys.platform == "linux":

        def _serve(self) -> None:
            """Looks; where naps pay, several times, because a turn of the event loop costs as much as reading does."""
            until_s = self._loop.time() + _STAY_S
            while self._nap_if_worthwhile():
                streams = self.streams
                self._look()
                if self.streams != streams or self._looked_s > until_s:
                    return
            self._look()

        def _nap_if_worthwhile(self) -> bool:
            """Sleeps if that pays; True if it slept."""
            now = self._loop.time()
            if now - self._began_s > _PERIOD_S:
                self._nap_s = self._next_nap_s(now - self._began_s)
                self._began_s, self._reads, self.shared, self.unstamped = now, 0, 0, 0
            if not self._nap_s or self._last_reads >= _ENOUGH or now + self._nap_s + _SPARE_S > self.due_s:
                return False
            time.sleep(self._nap_s)
            return True

        def _look(self) -> None:
            """Reads every socket that has something to read."""
            events = self._epoll.poll(0, 1024)
            self._last_reads = len(events)
            self._reads += len(events)
            _read([self._sockets[fd] for fd, _ in events])
            self._looked_s = self._loop.time()

        def _next_nap_s(self, period_s: float) -> float:
            """Length of the next nap. Once too many chunks shared a read there are no more: the server writes them
            close together.
            """
            if self._nap_s:
                self._seen_reads += self._reads
                self._seen_shared += self.shared
            if self._seen_reads > _ENOUGH_READS and self._seen_shared > _MAX_SHARED * self._seen_reads:
                self._may_nap = False
            may_nap = self._may_nap and not self.unstamped
            return nap_s(self._reads / period_s, self.streams) if may_nap else 0.0


def _read(sockets: list[_Socket]) -> None:
    """Reads each once; the hot path: two turns per token."""
    taken: list[tuple[Take, bytes, Ancillary, int]] = []
    now_ns = clock.now_ns
    for recvmsg, take, fail in sockets:
        try:
            data, ancillary, _, _ = recvmsg(READ_SIZE, _STAMP_SPACE)
        except (BlockingIOError, InterruptedError):
            continue
        except OSError as error:
            fail(error)
            continue
        taken.append((take, data, ancillary, now_ns()))
    for take, data, ancillary, user_ns in taken:
        take(data, ancillary, user_ns)


def nap_s(reads_per_s: float, streams: int) -> float:
    """Seconds to wait for more data before sockets are read; 0: not at all."""
    if reads_per_s < _RATE:
        return 0.0
    longest_s = min(LONGEST_NAP_S, streams / reads_per_s / _OF_A_GAP)
    return longest_s if longest_s >= _SHORTEST_NAP_S else 0.0
