"""Triton over gRPC: one ModelStreamInfer stream per request, in the asyncio loop.

Requests are encoded before the window and responses decoded after the run; in between only bytes and the time at which
the loop got them are kept. These are user-space times: gRPC's own threads stand between the socket and the loop, so
they are later than the kernel's by what docs/triton.md measures. tritonclient (and grpc) are imported when first used.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import struct
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from pytest_llmperf.errors import ClientError
from pytest_llmperf.load.endpoints.openai import Event, shorten
from pytest_llmperf.load.endpoints.triton_generate import read_outputs
from pytest_llmperf.load.endpoints.triton_tensors import Tensor, TensorSpec, fill
from pytest_llmperf.load.patience import Patience
from pytest_llmperf.load.tcp import TcpLosses
from pytest_llmperf.load.transport import Exchange

CONTENT_TYPE = "application/grpc"
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a TCP connection of its own, as the other transport has
)
_FORMATS = {
    "BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I",
    "UINT64": "Q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip


def grpc_module(name: str) -> Any:
    """A module of grpc or tritonclient; ClientError says what to install."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise ClientError(f"gRPC needs tritonclient ({error}): pip install 'pytest-llmperf[triton]'") from error


def _messages() -> Any:
    return grpc_module("tritonclient.grpc.service_pb2")


def encode_request(body: Mapping[str, Any], model: str, specs: Sequence[TensorSpec]) -> bytes:
    """The ModelInferRequest of a body in the words of `generate`, without its id."""
    inputs, parameters = fill(specs, body)
    request = _messages().ModelInferRequest(model_name=model)
    for tensor in inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(_packed(tensor))
    for name, value in parameters.items():
        _set_parameter(request.parameters[name], value)
    encoded: bytes = request.SerializeToString()
    return encoded


def request_id(text: str) -> bytes:
    """To be put behind an encoded request: protobuf takes messages in a row for one."""
    encoded: bytes = _messages().ModelInferRequest(id=text).SerializeToString()
    return encoded


def _packed(tensor: Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        texts = [str(value).encode() for value in tensor.values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(tensor.values)}{_FORMATS[tensor.datatype]}", *tensor.values)


def _set_parameter(parameter: Any, value: Any) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value if isinstance(value, str) else json.dumps(value)


def read_response(data: bytes) -> Event:
    """One message of the stream. The empty response at the end is no token. Raises ValueError on what is none."""
    message = _messages().ModelStreamInferResponse()
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, whose module is not imported here
        raise ValueError(str(error)) from error
    if message.error_message:
        return Event(error=shorten(message.error_message))
    response = message.infer_response
    outputs = dict(zip((o.name for o in response.outputs), map(list, _values(response)), strict=False))
    return read_outputs(outputs, any_output=True)


def _values(response: Any) -> Iterable[tuple[Any, ...]]:
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        yield _unpacked(output.datatype, raw)


def _unpacked(datatype: str, raw: bytes) -> tuple[Any, ...]:
    if datatype == "BYTES":
        return tuple(_texts(raw))
    kind = _FORMATS.get(datatype)
    return struct.unpack(f"<{len(raw) // struct.calcsize('<' + kind)}{kind}", raw) if kind else ()


def _texts(raw: bytes) -> Iterable[str]:
    at = 0
    while at < len(raw):
        length: int = struct.unpack_from("<I", raw, at)[0]
        yield raw[at + 4 : at + 4 + length].decode("utf-8", "replace")
        at += 4 + length


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

    def start(self, request: bytes, exchange: Exchange) -> None:
        """Sends `request`; the outcome is in `exchange` when its `ended` is done. Needs an open connection."""
        self._exchange = exchange
        self._patience.begin(self._loop.time())
        exchange.reader.headers = {"content-type": CONTENT_TYPE}
        exchange.sent_ns = time.time_ns()
        call = self._stream(_one(request), metadata=self._metadata)
        self._reading = self._loop.create_task(self._read(call, exchange))

    async def _read(self, call: Any, exchange: Exchange) -> None:
        """The hot path: runs once per response. A task of `Connection`'s own, ended by `close`."""
        try:
            async for message in call:
                exchange.tape.add(b"", time.time_ns(), message)
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
