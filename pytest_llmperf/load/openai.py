"""The OpenAI dialect: request bodies as real servers accept them, and what an event of the stream says."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pytest_llmperf.plan import LoadPoint

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_MESSAGE_LIMIT = 500


def request_body(
    point: LoadPoint, prompt: str | list[str], *, model: str, every_chunk_usage: bool, output_tokens: int | None = None
) -> dict[str, Any]:
    """The JSON body of one request; the point's `extra_body` is merged last and wins.

    `output_tokens` None asks for the point's; several prompts need the completions endpoint.
    """
    output_tokens = output_tokens or point.output_tokens
    content: dict[str, Any] = (
        {"messages": [{"role": "user", "content": prompt}]} if point.endpoint == "chat" else {"prompt": prompt}
    )
    body = {
        "model": model,
        **content,
        "stream": True,
        "stream_options": _stream_options(every_chunk_usage),
        "max_tokens": output_tokens,
        "temperature": point.temperature,
    }
    if point.ignore_eos:
        body |= {"ignore_eos": True, "min_tokens": output_tokens}
    if point.temperature > 0 and point.seed is not None:
        # Only where asked for: a per-request seed makes some engines sample request by request, which is slower.
        body["seed"] = point.seed
    return body | point.extra_body


def _stream_options(every_chunk_usage: bool) -> dict[str, bool]:
    options = {"include_usage": True}
    # Servers that don't know the option refuse it, so it is absent rather than false.
    return options | {"continuous_usage_stats": True} if every_chunk_usage else options


class Event(NamedTuple):
    """The facts of one stream event. Token counts are running totals as `usage` gives them: of the choice, and in an
    event without choices of the whole request."""

    has_choices: bool = False
    output: bool = False
    """Carries visible content or a tool call."""
    reasoning: bool = False
    token_ids: int = 0
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    done: bool = False
    choice: int = 0
    """Which prompt of the request the choice answers."""


def read_event(data: bytes) -> Event:
    """Raises ValueError on what is no JSON object."""
    if data == b"[DONE]":
        return Event(done=True)
    event = json.loads(data)
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")
    if event.get("error") is not None or event.get("object") == "error":
        return Event(error=error_text(event))
    usage = event.get("usage") or {}
    choices = event.get("choices")
    if not choices:
        return Event(prompt_tokens=usage.get("prompt_tokens"), completion_tokens=usage.get("completion_tokens"))
    choice = choices[0]
    delta = choice.get("delta") or choice
    return Event(
        True,
        bool(delta.get("content") or delta.get("text") or delta.get("tool_calls")),
        bool(delta.get("reasoning_content") or delta.get("reasoning")),
        len(choice.get("token_ids") or ()),
        choice.get("finish_reason"),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        choice=choice.get("index") or 0,
    )


def error_text(answer: Any) -> str:
    """The server's own words in an error answer: `{"error": {"message": ...}}` and its relatives, shortened."""
    found = answer
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return shorten(found if isinstance(found, str) else json.dumps(found))


def body_text(body: bytes) -> str:
    """`error_text` of a whole body, which may be anything."""
    try:
        return error_text(json.loads(body))
    except ValueError:
        return shorten(body.decode("utf-8", "replace"))


def shorten(text: str) -> str:
    """One line of at most 500 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_LIMIT else line[: _MESSAGE_LIMIT - 1] + "…"
