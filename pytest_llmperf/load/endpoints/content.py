"""Content of a delta: text, reasoning, calls of tools, and content in fields that no known API has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_THOUGHTS = (
    "reasoning_content", "reasoning", "reasoning_text", "thinking", "reasoning_details", "thinking_blocks",
)  # fmt: skip
"""Reasoning; where a server writes the same into several of them, the first counts."""
_CALLS = ("tool_calls", "function_call")
_OTHER_OUTPUT = ("refusal", "audio")
_MARKS = frozenset((
    "annotations", "channel", "citation", "citations", "content_filter_offsets", "content_filter_results",
    "content_type", "created", "created_at", "delta", "encrypted", "encrypted_content", "error", "expires_at",
    "extra_content", "finish_reason", "format", "hidden_states", "id", "index", "logprobs", "matched_stop", "message",
    "message_id", "metadata", "mime_type", "model", "native_finish_reason", "obfuscation", "object", "padding",
    "prompt_logprobs", "prompt_token_ids", "provider", "provider_specific_fields", "reasoning_signature", "recipient",
    "role", "seed", "service_tier", "signature", "status", "stop_reason", "stop_sequence", "system_fingerprint",
    "text_offset", "thought_signature", "token_ids", "tool_call_id", "top_logprobs", "type", "usage",
))  # fmt: skip
"""Fields that say something about content and are none."""
_KNOWN = _MARKS | {"content", "text", "name", *_THOUGHTS, *_CALLS, *_OTHER_OUTPUT}

Unknown = tuple[str, str]
"""Name of a field, and the text in it."""


class Content(NamedTuple):
    """Content of one delta."""

    text: str = ""
    thought: str = ""
    other: str = ""
    """Content that is neither text nor reasoning: calls of tools, a refusal, sound."""
    has_calls: bool = False
    """A call may carry tokens before it has any text of its own."""
    unknown: tuple[Unknown, ...] = ()


def read_delta(delta: Mapping[str, Any]) -> Content:
    """Raises ValueError where something that is no text stands for content."""
    text, thought = _parts(delta.get("content") or delta.get("text"))
    thoughts = (all_text(delta[name]) for name in _THOUGHTS if delta.get(name))
    calls = [delta[name] for name in _CALLS if delta.get(name)]
    return Content(
        text,
        thought or next(filter(None, thoughts), ""),
        "".join([all_text(calls), *(all_text(delta[name]) for name in _OTHER_OUTPUT if delta.get(name))]),
        bool(calls),
        tuple(_unknown(delta)),
    )


def _unknown(delta: Mapping[str, Any]) -> list[Unknown]:
    fields = [(name, value) for name, value in delta.items() if value and name not in _KNOWN]
    found = [(name, value, all_text(value)) for name, value in fields if isinstance(value, str | list | dict)]
    return [(name, text) for name, value, text in found if text or isinstance(value, list)]


def _parts(content: Any) -> tuple[str, str]:
    """Text and reasoning of what may be a text, or a list of parts of several kinds."""
    if not content or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list | dict):
        raise ValueError(f"a {type(content).__name__} where text belongs")
    text = thought = ""
    for part in content if isinstance(content, list) else [content]:
        kind = str(part.get("type")).lower() if isinstance(part, dict) else ""
        if kind.startswith(("think", "reason")):
            thought += all_text(part)
        else:
            text += all_text(part)
    return text, thought


def all_text(value: Any) -> str:
    """All text in a value, without marks such as ids and types, and without what is encrypted."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(all_text, value))
    if not isinstance(value, dict) or any(word in str(value.get("type")) for word in ("encrypted", "redacted")):
        return ""
    return "".join(all_text(inner) for name, inner in value.items() if name not in _MARKS)
