"""A gRPC connection: one ModelStreamInfer stream per request, in the asyncio loop.

Only bytes and the time at which the loop got them are kept here. These are user-space times: gRPC's own threads stand
between the socket and the loop, so they are later than the kernel's by what docs/triton.md measures. tritonclient (and
grpc) are imported when first used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pytest_llmperf import clock
from pytest_llmperf.load.endpoints.openai import shorten
from pytest_llmperf.load.endpoints.triton_grpc import grpc_module
from pytest_llmperf.load.transport.connection import Exchange
from pytest_llmperf.load.transport.deadlines import Patience
from pytest_llmperf.load.transport.tcp import TcpLosses

CONTENT_TYPE = "application/grpc"
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a TCP connection of its own, as the other transport has
)


class GrpcConnection:
    """A channel to `address` (host:port), opened and opened again as needed; at most one exchange at a time."""

    def __init__(self, address: str, headers: Sequence[tuple[str, str]], *, secure: bool) -> None:
        self.is_open = False
        self.losses = TcpLosses(None, None)
        """grpc does not show its sockets."""
        self._grpc = grpc_module("grpc")
        self._address, self._secure = address, secure
        self._metadata = tuple((name.lower(), value) for name, value in headers)
        self._loop = asyncio.get_running_loop()
        self._channel: Any = None
        self._stream: Any = None
        self._exchange: Exchange | None = None
        self._reading: asyncio.Task[None] | None = None
        self._patience = Patience()

    async def open(self, timeout_s: float) -> None:
        """Raises OSError (TimeoutError is one) with the connection closed."""
        channel = self._new_channel()
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_ready(channel)
        except BaseException:
            await channel.close()
            raise
        self._channel, self.is_open = channel, True
        self._stream = channel.stream_stream(_METHOD)

    def _new_channel(self) -> Any:
        if self._secure:
            return self._grpc.aio.secure_channel(self._address, self._grpc.ssl_channel_credentials(), _OPTIONS)
        return self._grpc.aio.insecure_channel(self._address, _OPTIONS)

    async def _wait_ready(self, channel: Any) -> None:
        """grpc itself would try for ever where nothing listens."""
        states = self._grpc.ChannelConnectivity
        while (state := channel.get_state(try_to_connect=True)) is not states.READY:
            if state is states.TRANSIENT_FAILURE:
                raise ConnectionRefusedError(f"connection to {self._address} refused")
            await channel.wait_for_state_change(state)

    def start(self, request: bytes, exchange: Exchange, cancel_after_s: float | None = None) -> None:
        """Sends `request`; the outcome is in `exchange` when its `ended` is done. Needs an open connection.

        The exchange is broken off when it takes longer than `cancel_after_s`.
        """
        self._exchange = exchange
        self._patience.begin(self._loop.time())
        exchange.reader.headers = {"content-type": CONTENT_TYPE}
        exchange.sent_ns = clock.now_ns()
        call = self._stream(_one(request), metadata=self._metadata)
        self._reading = self._loop.create_task(self._read(call, exchange))
        if cancel_after_s is not None:
            self._loop.call_later(cancel_after_s, self.cancel, exchange)

    async def _read(self, call: Any, exchange: Exchange) -> None:
        """The hot path: runs once per response. A task of `Connection`'s own, ended by `close`."""
        try:
            async for message in call:
                exchange.tape.add(b"", clock.now_ns(), message)
                exchange.reader.status = 200
        except self._grpc.aio.AioRpcError as error:
            self._end(exchange, f"gRPC {error.code().name}: {shorten(error.details() or '')}")
        else:
            self._end(exchange, None if exchange.tape.count else "the stream ended without a response")
        finally:
            call.cancel()

    def _end(self, exchange: Exchange, error: str | None = None) -> None:
        if self._exchange is exchange:
            self._exchange = None
            exchange.end(error)

    def close(self, error: str = "interrupted") -> None:
        """Ends the exchange, if there is one, with `error`. The channel closes with its last reference."""
        self.is_open = False
        self._channel = self._stream = None
        if self._reading is not None:
            self._reading.cancel()
        if self._exchange is not None:
            self._end(self._exchange, error)

    def cancel(self, exchange: Exchange) -> None:
        """Breaks `exchange` off if it is still under way."""
        if exchange is self._exchange:
            exchange.cancelled = True
            self.close("cancelled")

    def check(self, now_s: float, *, no_data_s: float, whole_s: float) -> None:
        """Ends an exchange that is past its limits."""
        if self._exchange is not None:
            overdue = self._patience.overdue(now_s, self._exchange.tape.count, no_data_s=no_data_s, whole_s=whole_s)
            if overdue:
                self.close(overdue)


async def _one(request: bytes) -> AsyncIterator[bytes]:
    yield request
