"""OpenAI's Responses API: request bodies, and what an event of its stream says.

Every event names its kind in `type` too, so the `event:` lines of the stream are not needed.
"""

from __future__ import annotations

from typing import Any

from pytest_llmperf.load.endpoints.content import all_text
from pytest_llmperf.load.endpoints.openai import (
    DONE,
    Content,
    Event,
    error_text,
    failed,
    json_object,
    merged,
    read_rest,
    sampling,
)
from pytest_llmperf.load.endpoints.usage import request_usage
from pytest_llmperf.plan.load.point import LoadPoint

_OUTPUT = ("response.output_text.delta", "response.text.delta")
_OTHER_OUTPUT = (
    "response.refusal.delta",
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
    "response.mcp_call_arguments.delta",
    "response.mcp_call.arguments.delta",
    "response.code_interpreter_call_code.delta",
    "response.code_interpreter_call.code.delta",
    "response.audio.delta",
    "response.audio.transcript.delta",
    "response.audio_transcript.delta",
)
"""Tool calls, refusals, sound."""
_ENDS = ("response.completed", "response.incomplete")
_FAILURES = ("error", "response.failed", "response.error", "response.cancelled", "response.canceled")
_REASONS = {"max_output_tokens": "length", "max_tokens": "length"}


def request_body(
    point: LoadPoint, content: Content | list[Content], output_tokens: int, *, model: str, every_chunk_usage: bool
) -> dict[str, Any]:
    """The JSON body of one request. Usage comes at the end and cannot be asked for in every chunk."""
    body = {
        "model": model,
        "input": content,
        "stream": True,
        "store": False,
        "max_output_tokens": output_tokens,
        **sampling(point, output_tokens),
    }
    return merged(body, point.extra_body)


def read_event(data: bytes) -> Event:
    """Raises ValueError on what is no JSON object."""
    if data == b"[DONE]":
        return DONE
    event = json_object(data)
    kind = str(event.get("type"))
    if kind in _FAILURES or failed(event):
        return Event(error=error_text(_failure(event)))
    if kind in _ENDS:
        return _end(kind, event["response"])
    if not kind.startswith("response."):
        return read_rest(event, ())
    if kind.endswith(".delta") and event.get("delta"):
        return _delta(kind, event["delta"])
    return Event(kind.endswith(".delta"))


def _delta(kind: str, delta: Any) -> Event:
    text = all_text(delta)
    if kind.startswith("response.reasoning"):
        return Event(True, reasoning=True, other_text=text)
    if kind in _OUTPUT:
        return Event(True, output=True, text=text)
    if kind in _OTHER_OUTPUT:
        return Event(True, output=True, other_text=text)
    return Event(True, unknown=((kind, text),) if text else ())


def _failure(event: dict[str, Any]) -> Any:
    """The object that holds the server's words; a failed response has them in its `error`."""
    response = event.get("response")
    return response if isinstance(response, dict) else event


def _end(kind: str, response: dict[str, Any]) -> Event:
    """An answer that reached its `max_output_tokens` is `incomplete`: the usual end where that length is asked for."""
    if response.get("error") or response.get("status") in ("failed", "cancelled", "canceled"):
        return Event(error=error_text(response))
    reason = "stop"
    if kind == "response.incomplete":
        given = (response.get("incomplete_details") or {}).get("reason") or "incomplete"
        reason = _REASONS.get(given, given)
    usage = request_usage(response)
    return Event(
        finish_reason=reason,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        done=True,
        reasoned=usage.reasoned,
    )
