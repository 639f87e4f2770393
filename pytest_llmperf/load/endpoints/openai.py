"""The OpenAI dialect: request bodies as real servers accept them, and what an event of the stream says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.load.endpoints.content import Unknown, read_delta
from pytest_llmperf.load.endpoints.usage import (
    ELSEWHERE,
    NO_USAGE,
    Usage,
    counts_beside,
    read_usage,
    request_usage,
)
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import ServerTimes

Message = tuple[str, str]
"""Role and text."""

NOT_UNDERSTOOD = (ValueError, AttributeError, TypeError, KeyError, IndexError, RecursionError)
"""Errors of reading an event that is none of the endpoint's."""
_MESSAGE_LIMIT = 500
_READ_LIMIT = 1 << 16
"""Characters of a text that are looked at for its message: an error page may have megabytes."""


Content = str | tuple[int, ...]
"""A prompt: text, or token ids where the endpoint takes them."""


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
    prompt: dict[str, Any] = {"prompt": content}
    if point.endpoint == "chat":
        prompt = {"messages": [{"role": role, "content": text} for role, text in (*history, ("user", content))]}
    # Servers that don't know the second option refuse it, so it is absent rather than false.
    body = {
        "model": model,
        **prompt,
        "stream": True,
        "stream_options": {"include_usage": True, **({"continuous_usage_stats": True} if every_chunk_usage else {})},
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


class Event(NamedTuple):
    """The facts of one stream event. Token counts are running totals as `usage` gives them: of the choice, and in an
    event without choices of the whole request; NO_COUNT stands for what is no count."""

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
    """Visible content, without tool calls."""
    other_text: str = ""
    """Reasoning and tool calls."""
    choice: int = 0
    """The answer that it belongs to, where a request has several prompts or asks for several answers to one."""
    server_ns: ServerTimes | None = None
    reasoned: int = 0
    """Part of `completion_tokens` that the server calls reasoning."""
    unknown: tuple[Unknown, ...] = ()
    """Contents of fields that no known API has."""
    odd: str | None = None
    """Words of an event that is of no known shape: a failure where content should be."""
    others: tuple[Event, ...] = ()
    """Events of further answers in the same event, and of all together."""


DONE = Event(done=True)
NOTHING = Event()
_TEXT_FIELDS = frozenset((
    "content", "delta", "finish_reason", "index", "logprobs", "prompt_logprobs", "prompt_token_ids", "reasoning",
    "reasoning_content", "role", "stop_reason", "text", "token_ids",
))  # fmt: skip
"""Fields of a delta, or of a choice without one, that holds text as nearly all do."""
_PINGS = ("ping", "heartbeat", "keepalive", "keep-alive", "keep_alive")
_COMPLAINTS = (
    "detail", "message", "msg", "err", "errors", "error_code", "error_msg", "error_message", "exception",
)  # fmt: skip
_FAILS = re.compile(r"error|exception|fail|abort|cancel|timeout|timed.?out|^[45]\d\d$", re.IGNORECASE)
"""Values that say what an event is, of one that is a failure; 4xx and 5xx are codes."""
_SUCCESSES = (0, 200, "0", "200")
"""Codes of an event that says that all went well."""
_HARMLESS = ELSEWHERE | {
    "usage", "id", "object", "created", "created_at", "model", "model_name", "provider", "request_id", "type",
    "system_fingerprint", "service_tier", "obfuscation", "prompt_filter_results", "prompt_progress", "citations",
    "search_results", "nvext", "kv_transfer_params", "prompt_annotations", "prompt_token_ids",
}  # fmt: skip
"""Keys of an event that has nothing else and still is no failure."""


def read_event(data: bytes) -> Event:
    """Raises ValueError on what is no JSON object."""
    if data == b"[DONE]":
        return DONE
    event = json_object(data)
    if (event.get("error") is not None or event.get("object") == "error") and (failure := failed(event)):
        return failure
    choices = event.get("choices")
    if not choices:
        return read_rest(event)
    if len(choices) > 1:
        return _read_choices(event, choices)
    choice = choices[0]
    usage = counts_beside(event)
    delta = choice.get("delta") or choice
    text = delta.get("content") or delta.get("text") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    reason = choice.get("finish_reason")
    index = choice.get("index") or 0
    if not (
        delta.keys() <= _TEXT_FIELDS
        and text.__class__ is str
        and thought.__class__ is str
        and (reason is None or reason.__class__ is str)
        and index.__class__ is int
        and "error" not in choice
        and "usage" not in choice
    ):
        return read_choice(choice, Usage(*usage))
    facts = (
        True,
        text != "",
        thought != "",
        len(choice.get("token_ids") or ()),
        reason,
        usage[0],
        usage[1],
        None,
        False,
        text,
        thought,
        index,
        None,
        usage[2],
        (),
        None,
        (),
    )
    # Event(...) would go through a Python function, and this runs once per token.
    return tuple.__new__(Event, facts)


def failed(event: dict[str, Any]) -> Event | None:
    """An event that is an error, in the server's words; None for any other."""
    error = event.get("error")
    # Some servers write an empty error beside every chunk with content.
    is_error = error or (error == {} and not event.get("choices")) or (error is None and event.get("object") == "error")
    return Event(error=error_text(event)) if is_error else None


def read_rest(event: dict[str, Any], marks: tuple[str, ...] = ("choices",)) -> Event:
    """An event without any answer in it: counts of the whole request, a sign of life, or a failure.

    One with a key of `marks` is of the endpoint; any other that tells nothing known is odd.
    """
    usage = request_usage(event)
    if usage != NO_USAGE:
        return Event(prompt_tokens=usage.prompt, completion_tokens=usage.completion, reasoned=usage.reasoned)
    if any(str(event.get(name)).lower() in _PINGS for name in ("type", "event", "object", "status")):
        return NOTHING
    if event.get("code") in _SUCCESSES:
        return NOTHING
    if any(_FAILS.search(str(event.get(name))) for name in ("type", "event", "object", "status", "code")):
        return Event(error=error_text(event))
    if any(isinstance(event.get(name), str | list) and event[name] for name in _COMPLAINTS):
        return Event(error=error_text(event))
    if any(name in event for name in marks) or event.keys() <= _HARMLESS or "chunk" in str(event.get("object")):
        return NOTHING
    return Event(odd=shorten(json.dumps(event)))


def _read_choices(event: dict[str, Any], choices: list[dict[str, Any]]) -> Event:
    """Counts in an event of several answers are of all of them."""
    first, *others = (read_choice(choice, NO_USAGE, place) for place, choice in enumerate(choices))
    usage = request_usage(event)
    if usage != NO_USAGE:
        whole = Event(prompt_tokens=usage.prompt, completion_tokens=usage.completion, reasoned=usage.reasoned)
        others.append(whole)
    return first._replace(others=tuple(others))


def read_choice(choice: dict[str, Any], usage: Usage, place: int = 0) -> Event:
    """One answer's part of an event, whatever it carries; `place` is its index where it tells none."""
    if failure := failed(choice):
        return failure
    delta = choice.get("delta")
    if delta is None and (delta := choice.get("message")) is None:
        delta = choice
    elif not delta:
        delta = {name: value for name, value in choice.items() if name != "delta"}
    content = read_delta(delta)
    if isinstance(own := choice.get("usage"), dict) and usage == NO_USAGE:
        usage = read_usage(own)
    return Event(
        True,
        output=bool(content.text or content.other or content.has_calls),
        reasoning=bool(content.thought),
        token_ids=len(choice.get("token_ids") or ()),
        finish_reason=read_reason(choice.get("finish_reason")),
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        text=content.text,
        other_text=content.thought + content.other,
        choice=place if choice.get("index") is None else choice["index"],
        reasoned=usage.reasoned,
        unknown=content.unknown,
    )


def read_reason(reason: Any) -> str | None:
    """Reads the reason why an answer ended, also from an object (SGLang: `{"type": "length", "length": 8}`)."""
    if isinstance(reason, dict):
        kind = reason.get("type") or reason.get("reason") or json.dumps(reason)
        return f"{kind}: {reason['message']}" if reason.get("message") else str(kind)
    if reason is not None and not isinstance(reason, str):
        raise ValueError(f"a {type(reason).__name__} where a finish_reason belongs")
    return reason


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


def error_text(answer: Any) -> str:
    """The server's own words in an error answer: `{"error": {"message": ...}}` and its relatives, shortened."""
    found = answer
    for key in ("error", "message", "detail", "error_message", "error_msg", "msg"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return shorten(found if isinstance(found, str) else json.dumps(found))


def body_text(body: bytes) -> str:
    """`error_text` of a whole body, which may be anything, also a single event of a stream (Triton's way)."""
    try:
        return error_text(json.loads(body.strip().removeprefix(b"data: ")))
    except (ValueError, RecursionError):
        return shorten(body[:_READ_LIMIT].decode("utf-8", "replace"))


def shorten(text: str) -> str:
    """A foreign text in one line of at most 500 characters without secrets and control characters."""
    line = " ".join(foreign(text[:_READ_LIMIT]).split())
    return line if len(line) <= _MESSAGE_LIMIT else line[: _MESSAGE_LIMIT - 1] + "…"
