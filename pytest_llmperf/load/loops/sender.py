"""The connections of one load, and every request's way over one of them: whichever loop decides when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from pytest_llmperf import clock
from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.client.health import RunPeriod
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.loops.balancer import Balancer
from pytest_llmperf.load.loops.requests import RequestBytes
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.connection import Connection, describe
from pytest_llmperf.load.transport.grpc import GrpcConnection
from pytest_llmperf.load.transport.link import Exchange, Link
from pytest_llmperf.load.transport.reception import Reception
from pytest_llmperf.load.transport.tape import Store
from pytest_llmperf.plan.load.point import LoadPoint

StartBarrier = Callable[[], Awaitable[None]]
"""Awaited when everything is ready to send: where several processes wait for one another."""


class Sender:
    """Use as a context manager in the running loop: on leaving, every socket is closed, whatever happened."""

    def __init__(
        self,
        targets: Sequence[Target],
        point: LoadPoint,
        requests: Sequence[PlannedRequest],
        request_bytes: RequestBytes,
        store: Store,
        period: RunPeriod,
        balancer: Balancer,
    ) -> None:
        self.targets = targets
        self.point = point
        self.requests = {request.index: request for request in requests}
        self.request_bytes = request_bytes
        self.period = period
        self.balancer = balancer
        self.replicas: dict[int, int] = {}
        """Index of the target of each request, by the request's index; empty with one target."""
        self.connections: list[Link] = []
        self.connect_s: list[float] = []
        self.exchanges: dict[int, Exchange] = {}
        """Exchanges by the request's index, as those of `requests`."""
        self.done = 0
        self.failed = 0
        self.resent = 0
        self._store = store

    def __enter__(self) -> Sender:
        self.reception = Reception()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.close()
        self.reception.close()
        for exchange in self.exchanges.values():
            if not exchange.has_ended:
                exchange.end("interrupted")

    def new_exchange(self, request: PlannedRequest) -> Exchange:
        exchange = self.exchanges[request.index] = Exchange(self._store)
        return exchange

    def choose(self, request: PlannedRequest, session: int | None = None) -> int:
        """Returns the replica that a request goes to: that of its `session`, or the balancer's choice."""
        replica = self.balancer.choose() if session is None else session
        if len(self.targets) > 1:
            self.replicas[request.index] = replica
        return replica

    async def settle(self, connection: Link, request: PlannedRequest, encoded: bytes, exchange: Exchange) -> None:
        """Waits for the end of an exchange; opens the connection first where it was not, or no longer, open."""
        if exchange.sent_ns is not None:
            await exchange.ended
            if exchange.retry:
                exchange.restart()
                self.resent += 1
        if exchange.sent_ns is None:
            error = await self.open(connection, exchange)
            if error is None:
                connection.start(encoded, exchange, request.cancel_after_s)
            else:
                exchange.end(error)
            await exchange.ended
        if self.point.connection == "fresh":
            connection.close()
        self.done += 1
        failed = exchange.error is not None or exchange.reader.status != 200
        self.failed += failed and not exchange.cancelled

    def new_connection(self, number: int) -> Link:
        connection = self._link(number)
        self.connections.append(connection)
        return connection

    def _link(self, number: int) -> Link:
        if self.request_bytes.endpoint.framing != "messages":
            return Connection(self.request_bytes.origins[number], self.reception)
        target = self.targets[number]
        if not target.grpc:
            raise PlanError(f"{target.shown} has no gRPC service: a triton-remote server names it by `grpc: host:port`")
        return GrpcConnection(target.grpc, target.headers, secure=target.is_secure)

    async def open_all(self, connections: Iterator[Link]) -> None:
        """A connection that fails to open here is tried again by its first request, which gets the error."""
        if self.point.connection == "fresh":
            return
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(self.open(connection))

    async def open(self, connection: Link, exchange: Exchange | None = None) -> str | None:
        """The error, or None. `connect_ms` counts openings before the window, and those for one `exchange` only."""
        limit_s = self.point.connect_timeout
        started = clock.perf_counter()
        try:
            await connection.open(limit_s)
        except OSError as error:
            if isinstance(error, TimeoutError) and not error.errno:
                return f"no connection within {limit_s:g} s (connect_timeout)"
            return f"no connection: {describe(error)}"
        took_s = clock.perf_counter() - started
        fresh = exchange is not None and self.point.connection == "fresh"
        if exchange is not None and fresh:
            exchange.connect_ns = round(took_s * 1e9)
        if fresh or not self.period.started_ns:
            self.connect_s.append(took_s)
        return None
