"""Triton's HTTP endpoints: `generate_stream`, `generate` and `infer`. Request bodies, and what an answer says.

There is no [DONE] and no usage: tokens are the chunks, or what `num_output_tokens` says where the model returns it (per
response). The keys of `parameters` reach a model as its inputs where it has such, else as request parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pytest_llmperf.load.openai import Event, error_text, json_object, merged, sampling
from pytest_llmperf.load.texts import Content
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import ServerTimes

_TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


def path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/generate_stream"


def whole_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/generate"


def infer_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/infer"


def request_body(
    point: LoadPoint, content: Content | list[Content], output_tokens: int, *, model: str, every_chunk_usage: bool
) -> dict[str, Any]:
    """The JSON body of one request; `parameters` of the point's `extra_body` are merged into ours."""
    parameters = {
        "stream": point.endpoint in ("generate", "grpc"),
        "max_tokens": output_tokens,
        "exclude_input_in_output": True,
        **sampling(point, output_tokens),
    }
    extra = {"parameters": {}, **point.extra_body}
    parameters = {} if extra["parameters"] is None else merged(parameters, extra.pop("parameters"))
    return merged({"text_input": content}, extra) | {"parameters": parameters}


def read_event(data: bytes) -> Event:
    """An event of `generate_stream`, or the answer of `generate`. Raises ValueError on what is no JSON object.

    The empty response at the end is no token.
    """
    event = json_object(data)
    if event.get("error") is not None:
        return Event(error=error_text(event))
    return read_outputs(event)


def read_infer(data: bytes) -> Event:
    """The answer of `infer`. A model without `text_output` answers by having outputs at all."""
    answer = json_object(data)
    if answer.get("error") is not None:
        return Event(error=error_text(answer))
    return read_outputs({output["name"]: output.get("data") for output in answer.get("outputs", ())}, any_output=True)


def read_outputs(outputs: Mapping[str, Any], *, any_output: bool = False) -> Event:
    """What the outputs of one response say, by their names; `any_output` is one where none is called text_output."""
    text = _one(outputs.get("text_output")) or ""
    reason = _one(outputs.get("finish_reason"))
    return Event(
        True,
        output=bool(text) or (any_output and bool(outputs) and "text_output" not in outputs),
        token_ids=_one(outputs.get("num_output_tokens")) or 0,
        finish_reason=None if reason in (None, "", "None") else reason,
        prompt_tokens=_one(outputs.get("num_input_tokens")),
        text=text,
        server_ns=_server_times(outputs),
    )


def _server_times(outputs: Mapping[str, Any]) -> ServerTimes | None:
    """What TensorRT-LLM's `return_perf_metrics` adds to a response; 0 stands for what has not happened yet."""
    times = [_one(outputs.get(name)) for name in _TIMES]
    return ServerTimes(*map(int, times)) if all(times) else None


def _one(value: Any) -> Any:
    """Outputs of one element come bare or in a list."""
    return (value[0] if value else None) if isinstance(value, list) else value
