"""Triton over gRPC: one ModelStreamInfer stream per request, in the asyncio loop.

Requests are encoded before the window and responses decoded after the run; in between only bytes and the time at which
the loop got them are kept. These are user-space times: gRPC's own threads stand between the socket and the loop, so
they are later than the kernel's by what docs/triton.md measures. tritonclient (and grpc) are imported when first used.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_llmperf.errors import ClientError
from pytest_llmperf.load.endpoints.openai import Event, shorten
from pytest_llmperf.load.endpoints.triton_generate import read_outputs
from pytest_llmperf.load.endpoints.triton_tensors import Tensor, TensorSpec, fill

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
    """Bytes to be put behind an encoded request: protobuf takes messages in a row for one."""
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
        response = message.infer_response
        raws = zip(response.outputs, response.raw_output_contents, strict=False)
        outputs = {output.name: _unpacked(output.datatype, raw) for output, raw in raws}
    except Exception as error:  # of struct, or protobuf's DecodeError, whose module is not imported here
        raise ValueError(str(error)) from error
    if message.error_message:
        return Event(error=shorten(message.error_message))
    return read_outputs(outputs, any_output=True)


def _unpacked(datatype: str, raw: bytes) -> list[Any]:
    if datatype == "BYTES":
        return list(_texts(raw))
    kind = _FORMATS.get(datatype)
    return [value for (value,) in struct.iter_unpack(f"<{kind}", raw)] if kind else []


def _texts(raw: bytes) -> Iterable[str]:
    at = 0
    while at < len(raw):
        length: int = struct.unpack_from("<I", raw, at)[0]
        yield raw[at + 4 : at + 4 + length].decode("utf-8", "replace")
        at += 4 + length
