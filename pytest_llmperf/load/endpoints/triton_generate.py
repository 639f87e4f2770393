"""Triton's HTTP endpoints: `generate_stream`, `generate` and `infer`. Request bodies, and what an answer says.

There is no usage: tokens are the chunks, or what `num_output_tokens` says where the model returns it (per
response). The keys of `parameters` reach a model as its inputs where it has such, else as request parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_llmperf.load.endpoints.content import Unknown, all_text
from pytest_llmperf.load.endpoints.openai import (
    DONE,
    Content,
    Event,
    failed,
    json_object,
    merged,
    read_reason,
    read_rest,
    sampling,
)
from pytest_llmperf.load.endpoints.usage import as_count, event_usage, read_usage
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import ServerTimes

TRITON_READY = "/v2/health/ready"
_NO_TEXT = ("model_name", "model_version", "id", "sequence_id", "finish_reason", "parameters")
_MARKS = {"model_name", "model_version", "text_output", "num_output_tokens", "num_input_tokens", "finish_reason"}
"""An event that has any of these is a response of Triton's."""
_TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


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

    The empty response at the end is no token. TGI and llama.cpp have endpoints of the same use in words of their own.
    """
    if data == b"[DONE]":
        return DONE
    event = json_object(data)
    if failure := failed(event):
        return failure
    if isinstance(event.get("token"), dict):
        return _read_tgi(event)
    if "content" in event and "text_output" not in event:
        return _read_llama_cpp(event)
    if event.keys().isdisjoint(_MARKS):
        return read_rest(event, ())
    return read_outputs(event)


def _read_tgi(event: dict[str, Any]) -> Event:
    token, details = event["token"], event.get("details") or {}
    usage = read_usage(details)
    return Event(
        True,
        output=bool(token.get("text")) and not token.get("special"),
        token_ids=1,
        finish_reason=read_reason(details.get("finish_reason")),
        prompt_tokens=as_count(details.get("input_length")),
        completion_tokens=usage.completion,
        text="" if token.get("special") else token.get("text") or "",
    )


def _read_llama_cpp(event: dict[str, Any]) -> Event:
    """An event of llama.cpp's stream; the last one says why it stopped, and what was counted."""
    usage = event_usage(event)
    ended = event.get("stop") is True
    text = event["content"] or ""
    return Event(
        True,
        output=bool(text),
        token_ids=len(event.get("tokens") or ()),
        finish_reason=(event.get("stop_type") or "stop") if ended else None,
        prompt_tokens=usage.prompt if ended else None,
        completion_tokens=usage.completion if ended else None,
        text=text,
    )


def read_infer(data: bytes) -> Event:
    """The answer of `infer`. A model without `text_output` answers by having outputs at all."""
    answer = json_object(data)
    if failure := failed(answer):
        return failure
    if "outputs" not in answer:
        return read_rest(answer, ())
    return read_outputs({output["name"]: output.get("data") for output in answer["outputs"]}, any_output=True)


def read_outputs(outputs: Mapping[str, Any], *, any_output: bool = False) -> Event:
    """The event in the outputs of one response, by their names; `any_output` is one where none is called text_output.

    A model that gives several answers at once has one element for each in its outputs.
    """
    texts = outputs.get("text_output")
    answers = max(1, len(texts)) if isinstance(texts, list) else 1
    first, *others = (_answer(outputs, place, any_output) for place in range(answers))
    return first._replace(others=tuple(others))


def _answer(outputs: Mapping[str, Any], place: int, any_output: bool) -> Event:
    text = _at(outputs.get("text_output"), place) or ""
    reason = _at(outputs.get("finish_reason"), place)
    has_text = "text_output" in outputs
    return Event(
        True,
        output=bool(text) or (any_output and bool(outputs) and not has_text),
        token_ids=max(0, as_count(_at(outputs.get("num_output_tokens"), place)) or 0),
        finish_reason=None if reason in (None, "", "None") else reason,
        prompt_tokens=as_count(_one(outputs.get("num_input_tokens"))),
        text=text,
        choice=place,
        server_ns=_server_times(outputs),
        unknown=() if has_text or any_output else _unknown(outputs),
    )


def _unknown(outputs: Mapping[str, Any]) -> tuple[Unknown, ...]:
    """Outputs of a model that calls none of them text_output."""
    named = ((name, all_text(value)) for name, value in outputs.items() if name not in _NO_TEXT)
    return tuple((name, text) for name, text in named if text)


def _server_times(outputs: Mapping[str, Any]) -> ServerTimes | None:
    """Times that TensorRT-LLM's `return_perf_metrics` adds to a response; 0 stands for what has not happened yet."""
    times = [_one(outputs.get(name)) for name in _TIMES]
    return ServerTimes(*map(int, times)) if all(times) else None


def _one(value: Any) -> Any:
    """Outputs of one element come bare or in a list."""
    return (value[0] if value else None) if isinstance(value, list) else value


def _at(value: Any, place: int) -> Any:
    """The element for one answer; one that is alone is for all."""
    return value[place] if isinstance(value, list) and place < len(value) else _one(value)
