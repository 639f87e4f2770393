"""OpenAI's Responses API: request bodies, and what an event of its stream says.

Every event names its kind in `type` too, so the `event:` lines of the stream are not needed.
"""

from __future__ import annotations

from typing import Any

from pytest_llmperf.load.openai import Event, error_text, json_object, merged, sampling
from pytest_llmperf.load.texts import Content
from pytest_llmperf.load_spec import LoadPoint

_OUTPUT = ("response.output_text.delta", "response.refusal.delta")
_TOOLS = (
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
    "response.mcp_call_arguments.delta",
)
_ENDS = ("response.completed", "response.incomplete")
_REASONS = {"max_output_tokens": "length"}


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
        return Event(done=True)
    event = json_object(data)
    kind = str(event.get("type"))
    if kind in ("error", "response.failed") or event.get("error") is not None:
        return Event(error=error_text(_failure(event)))
    if kind in _ENDS:
        return _end(kind, event["response"])
    if kind.startswith("response.reasoning") and kind.endswith(".delta"):
        return Event(True, reasoning=bool(event.get("delta")), other_text=event.get("delta") or "")
    if kind in _OUTPUT:
        return Event(True, output=bool(event.get("delta")), text=event.get("delta") or "")
    if kind in _TOOLS:
        return Event(True, output=bool(event.get("delta")), other_text=event.get("delta") or "")
    return Event()


def _failure(event: dict[str, Any]) -> Any:
    """The object that holds the server's words; a failed response has them in its `error`."""
    response = event.get("response")
    return response if isinstance(response, dict) else event


def _end(kind: str, response: dict[str, Any]) -> Event:
    """An answer that reached its `max_output_tokens` is `incomplete`: the usual end where that length is asked for."""
    usage = response.get("usage") or {}
    reason = "stop"
    if kind == "response.incomplete":
        given = (response.get("incomplete_details") or {}).get("reason") or "incomplete"
        reason = _REASONS.get(given, given)
    return Event(
        finish_reason=reason,
        prompt_tokens=usage.get("input_tokens"),
        completion_tokens=usage.get("output_tokens"),
        done=True,
    )
