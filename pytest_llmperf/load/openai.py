"""The OpenAI dialect: request bodies as real servers accept them, and what an event of the stream says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from pytest_llmperf.load.texts import Content
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import ServerTimes

Message = tuple[str, str]
"""Role and text."""

NOT_UNDERSTOOD = (ValueError, AttributeError, TypeError, KeyError)
"""What reading an event raises that is none of the endpoint's."""
_MESSAGE_LIMIT = 500
_NOTHING: dict[str, Any] = {}


def request_body(
    point: LoadPoint,
    content: Content | list[Content],
    output_tokens: int,
    *,
    model: str,
    every_chunk_usage: bool,
    history: Sequence[Message] = (),
) -> dict[str, Any]:
    """The JSON body of one request; the point's `extra_body` is merged last and wins.

    `history` is what was said before, in chat; a list of contents (several prompts) needs the completions endpoint.
    """
    said: dict[str, Any] = {"prompt": content}
    if point.endpoint == "chat":
        said = {"messages": [{"role": role, "content": text} for role, text in (*history, ("user", content))]}
    body = {
        "model": model,
        **said,
        "stream": True,
        "stream_options": _stream_options(every_chunk_usage),
        point.max_tokens_field or "max_tokens": output_tokens,
        **sampling(point, output_tokens),
    }
    return merged(body, point.extra_body)


def merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body with the fields of `extra`, which win; one that is None is left out.

    An object takes the place of the body's own, unless it has fields that are None: it is then merged likewise, and
    left out where nothing remains.
    """
    whole = {**body, **extra}
    for name, value in extra.items():
        ours = body.get(name)
        if isinstance(ours, dict) and isinstance(value, Mapping) and None in value.values():
            whole[name] = merged(ours, value) or None
    return {name: value for name, value in whole.items() if value is not None or name not in extra}


def sampling(point: LoadPoint, output_tokens: int) -> dict[str, Any]:
    """The parameters that decide which tokens come, and that exactly `output_tokens` do."""
    parameters: dict[str, Any] = {"temperature": point.temperature}
    if point.ignore_eos:
        parameters |= {"ignore_eos": True, "min_tokens": output_tokens}
    if point.temperature > 0 and point.seed is not None:
        # Only where asked for: a per-request seed makes some engines sample request by request, which is slower.
        parameters["seed"] = point.seed
    return parameters


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
    text: str = ""
    """Of the answer itself."""
    other_text: str = ""
    """Of reasoning and tool calls."""
    choice: int = 0
    """Which prompt of the request the choice answers."""
    server_ns: ServerTimes | None = None


def read_event(data: bytes) -> Event:
    """Raises ValueError on what is no JSON object."""
    if data == b"[DONE]":
        return Event(done=True)
    event = json_object(data)
    if event.get("error") is not None or event.get("object") == "error":
        return Event(error=error_text(event))
    usage = event.get("usage") or _NOTHING
    choices = event.get("choices")
    if not choices:
        return Event(prompt_tokens=usage.get("prompt_tokens"), completion_tokens=usage.get("completion_tokens"))
    choice = choices[0]
    delta = choice.get("delta") or choice
    text = delta.get("content") or delta.get("text") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    calls = delta.get("tool_calls")
    facts = (
        True,
        bool(text or calls),
        bool(thought),
        len(choice.get("token_ids") or ()),
        choice.get("finish_reason"),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        None,
        False,
        text,
        thought + (_called(calls) if calls else ""),
        choice.get("index") or 0,
        None,
    )
    # Event(...) would go through a Python function, and this runs once per token.
    return tuple.__new__(Event, facts)


def json_object(data: bytes) -> dict[str, Any]:
    """Raises ValueError on what is none. What pydantic's parser understands, `json` understands alike, 3 times slower;
    what it refuses, `json` may still take, such as half of a surrogate pair."""
    try:
        event = from_json(data)
    except ValueError:
        event = json.loads(data)
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")
    return event


def _called(calls: list[dict[str, Any]]) -> str:
    functions = (call.get("function") or {} for call in calls)
    return "".join(f"{function.get('name') or ''}{function.get('arguments') or ''}" for function in functions)


def error_text(answer: Any) -> str:
    """The server's own words in an error answer: `{"error": {"message": ...}}` and its relatives, shortened."""
    found = answer
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return shorten(found if isinstance(found, str) else json.dumps(found))


def body_text(body: bytes) -> str:
    """`error_text` of a whole body, which may be anything, also a single event of a stream (Triton's way)."""
    try:
        return error_text(json.loads(body.strip().removeprefix(b"data: ")))
    except ValueError:
        return shorten(body.decode("utf-8", "replace"))


def shorten(text: str) -> str:
    """One line of at most 500 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_LIMIT else line[: _MESSAGE_LIMIT - 1] + "…"
