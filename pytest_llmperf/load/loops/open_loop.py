"""The open loop: each request at its due time, however long the answers take."""

from __future__ import annotations

import asyncio
import math
import time

from pytest_llmperf import clock
from pytest_llmperf.load.client.health import RunPeriod
from pytest_llmperf.load.client.open_files import raise_file_limit
from pytest_llmperf.load.loops.sender import Sender, StartBarrier
from pytest_llmperf.load.trace.schedule import busiest
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.link import Exchange, Link
from pytest_llmperf.load.transport.reception import Reception

_SPIN_S = 0.002
"""asyncio's timers round up to whole milliseconds, and epoll then rounds 0.009 up to 10 of them, so the last two before
a due time are spent looking at the clock."""
_NAP_S = 0.0001
"""Busy-wait for the last 2 x _NAP_S; before that sleep in slices, serving I/O between them."""
_SPARE_S = 0.25
"""An open loop keeps as many idle connections as it would need for this long."""


class OpenLoop:
    """Counts due times from one start instant; sends on idle connections, of which there are enough before."""

    def __init__(self, sender: Sender, barrier: StartBarrier) -> None:
        self._sender = sender
        self._barrier = barrier
        most = sender.point.max_in_flight
        self._room = _Room(most) if most else None

    async def run(self) -> None:
        sender, spare = self._sender, self._spare()
        pools = [_Pool(sender, number, spare) for number in range(len(sender.targets))]
        raise_file_limit(sender.point.max_in_flight or len(sender.requests), required=spare * len(pools))
        for pool in pools:
            pool.idle = [sender.new_connection(pool.number) for _ in range(spare)]
        await sender.open_all(connection for pool in pools for connection in pool.idle)
        await self._barrier()
        with sender.period.open():
            start_s = asyncio.get_running_loop().time() - (clock.now_ns() - sender.period.started_ns) / 1e9
            async with asyncio.TaskGroup() as group:
                for request in sender.requests.values():
                    due_ns = request.due_ns or 0
                    # A connection to every replica: the request's own is chosen when it is due.
                    encoded = [sender.request_bytes.encoded(pool.number, request) for pool in pools]
                    await _until(start_s + due_ns / 1e9, sender.period, sender.reception)
                    exchange = sender.new_exchange(request)
                    if self._room is not None:
                        exchange.held_ns = await self._room.enter(sender.period.started_ns + due_ns)
                    replica = sender.choose(request)
                    self._send_due(request, pools[replica], encoded[replica], exchange, group)
                sender.reception.due_s = math.inf

    def _spare(self) -> int:
        """Idle connections per target to start with; none where each request opens its own."""
        point, requests = self._sender.point, self._sender.requests
        if point.connection == "fresh":
            return 0
        most = busiest([request.due_ns or 0 for request in requests.values()], _SPARE_S)
        return min(len(requests), point.max_in_flight or most, math.ceil(most / len(self._sender.targets)) + 4)

    def _send_due(
        self, request: PlannedRequest, pool: _Pool, encoded: bytes, exchange: Exchange, group: asyncio.TaskGroup
    ) -> None:
        """Sends now, not when a task gets its turn: only an exhausted pool makes a request late."""
        connection = pool.take()
        if connection.is_open:
            connection.start(encoded, exchange, request.cancel_after_s)
        group.create_task(self._settle(pool, connection, request, encoded, exchange))
        if pool.is_short:
            group.create_task(pool.add())

    async def _settle(
        self, pool: _Pool, connection: Link, request: PlannedRequest, encoded: bytes, exchange: Exchange
    ) -> None:
        await self._sender.settle(connection, request, encoded, exchange)
        self._sender.balancer.ended(pool.number)
        pool.put(connection)
        if self._room is not None:
            self._room.leave()


class _Pool:
    """The connections of an open loop to one target that are not in use; the most recently used is taken first."""

    def __init__(self, sender: Sender, number: int, spare: int) -> None:
        self.number = number
        self.idle: list[Link] = []
        self._closed: list[Link] = []
        self._sender = sender
        self._spare = spare
        self._opening = 0

    @property
    def is_short(self) -> bool:
        return len(self.idle) + self._opening < self._spare

    def take(self) -> Link:
        """An open connection, or a closed one when there is no other."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                return connection
            self._closed.append(connection)
        return self._one_to_open()

    def put(self, connection: Link) -> None:
        (self.idle if connection.is_open else self._closed).append(connection)

    def _one_to_open(self) -> Link:
        """A closed connection, before a new one: the sender keeps every one that it has made."""
        return self._closed.pop() if self._closed else self._sender.new_connection(self.number)

    async def add(self) -> None:
        self._opening += 1
        connection = self._one_to_open()
        await self._sender.open(connection)
        self._opening -= 1
        self.put(connection)


class _Room:
    """The limit on requests in flight."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)
        self._full_until_ns = 0

    async def enter(self, due_ns: int) -> int:
        """Waits for room; how long a request that was due then was held back, behind others that waited too."""
        if self._free.locked():
            await self._free.acquire()
            self._full_until_ns = clock.now_ns()
        else:
            await self._free.acquire()
        return max(0, self._full_until_ns - due_ns)

    def leave(self) -> None:
        self._free.release()


async def _until(time_s: float, period: RunPeriod, reception: Reception) -> None:
    """Returns at `time_s` of the loop's clock, a few microseconds late at best; serves other I/O until then."""
    loop = asyncio.get_running_loop()
    reception.due_s = time_s
    if (left := time_s - loop.time() - _SPIN_S) > 0:
        await asyncio.sleep(left)
    while (now := loop.time()) < time_s:
        if time_s - now > 2 * _NAP_S:
            # Looking all the time, a driver with real-time priority would be stopped for 50 ms in every second.
            time.sleep(_NAP_S)  # noqa: ASYNC251 - shorter than the loop's own timers can be
            now = loop.time()
        await asyncio.sleep(0)
        period.idle_turn(loop.time() - now)
