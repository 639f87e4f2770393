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
from pytest_llmperf.load.transport.link import Exchange, Link
from pytest_llmperf.load.transport.tcp import TcpLosses

CONTENT_TYPE = "application/grpc"
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a TCP connection of its own, as the other transport has
)


class GrpcConnection(Link):
    """A channel to `address` (host:port)."""

    _longest_read = 1 << 31  # a message may have any length

    def __init__(self, address: str, headers: Sequence[tuple[str, str]], *, secure: bool) -> None:
        super().__init__()
        self.losses = TcpLosses(None, None)
        """grpc does not show its sockets."""
        self._grpc = grpc_module("grpc")
        self._address, self._secure = address, secure
        self._metadata = tuple((name.lower(), value) for name, value in headers)
        self._channel: Any = None
        self._stream: Any = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, timeout_s: float) -> None:
        secure = (self._grpc.ssl_channel_credentials(),) if self._secure else ()
        open_channel = self._grpc.aio.secure_channel if secure else self._grpc.aio.insecure_channel
        channel = open_channel(self._address, *secure, _OPTIONS)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_ready(channel)
        except BaseException:
            await channel.close()
            raise
        self._channel, self.is_open = channel, True
        self._stream = channel.stream_stream(_METHOD)

    async def _wait_ready(self, channel: Any) -> None:
        """grpc itself would try for ever where nothing listens."""
        states = self._grpc.ChannelConnectivity
        while (state := channel.get_state(try_to_connect=True)) is not states.READY:
            if state is states.TRANSIENT_FAILURE:
                raise ConnectionRefusedError(f"connection to {self._address} refused")
            await channel.wait_for_state_change(state)

    def start(self, request: bytes, exchange: Exchange, cancel_after_s: float | None = None) -> None:
        self._begin(exchange, cancel_after_s)
        exchange.reader.headers = {"content-type": CONTENT_TYPE}
        exchange.sent_ns = clock.now_ns()
        call = self._stream(_one(request), metadata=self._metadata)
        self._reading = self._loop.create_task(self._read(call, exchange))
        self._reading.add_done_callback(_raise_again)

    async def _read(self, call: Any, exchange: Exchange) -> None:
        """The hot path: runs once per response. A task of the connection's own, ended by `close`."""
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
        self.is_open = False
        self._channel = self._stream = None  # it closes with its last reference
        if self._reading is not None:
            self._reading.cancel()
        if self._exchange is not None:
            self._end(self._exchange, error)


def _raise_again(reading: asyncio.Task[None]) -> None:
    """Raises in the event loop the error of a task that nobody awaits, such as an alarm's."""
    if not reading.cancelled() and (error := reading.exception()):
        raise error


async def _one(request: bytes) -> AsyncIterator[bytes]:
    yield request
