"""Token counts as servers report them: OpenAI's `usage`, and its relatives under other names and in other places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

NO_COUNT = -1
"""A mark for a reported count that is none: a text, a fraction, a truth value, a negative or endless number."""

_PROMPT = (
    "prompt_tokens", "input_tokens", "prompt_eval_count", "promptTokenCount", "prompt_token_count", "num_input_tokens",
    "inputTokens", "input_token_count", "num_prompt_tokens", "tokens_evaluated",
)  # fmt: skip
_COMPLETION = (
    "completion_tokens", "output_tokens", "eval_count", "candidatesTokenCount", "candidates_token_count",
    "num_output_tokens", "outputTokens", "generated_tokens", "generated_token_count", "num_generated_tokens",
    "tokens_predicted", "predicted_n",
)  # fmt: skip
_DETAILS = ("completion_tokens_details", "output_tokens_details")
_PLACES = ("usage", "x_groq", "usageMetadata", "usage_metadata", "timings")
ELSEWHERE = frozenset(_PLACES[1:]) | {"prompt_eval_count", "eval_count", "tokens_evaluated", "tokens_predicted"}
"""Keys of an event that may hold counts, beside `usage`."""


class Usage(NamedTuple):
    """Tokens of an answer, or of the request, by an event. None: it has no count; NO_COUNT: what is none."""

    prompt: int | None = None
    completion: int | None = None
    reasoned: int = 0
    """Part of `completion` that is reasoning, streamed or not."""


NO_USAGE = Usage()


def counts_beside(event: Mapping[str, Any]) -> tuple[int | None, int | None, int]:
    """The Usage of an event with one answer, in plain form: read once per token, and by nearly all servers alike."""
    counts = event.get("usage")
    if counts.__class__ is not dict:
        return NO_USAGE if ELSEWHERE.isdisjoint(event) else event_usage(event)
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if prompt.__class__ is int and completion.__class__ is int and len(counts) == 3 and prompt >= 0 <= completion:
        return (prompt, completion, 0)
    return read_usage(counts)


def event_usage(event: Mapping[str, Any]) -> Usage:
    """The counts of an event, wherever they are: in `usage`, in a relative of it, or bare."""
    for place in _PLACES:
        found = event.get(place)
        if isinstance(found, dict):
            inner = found.get("usage")
            usage = read_usage(inner if isinstance(inner, dict) else found)
            if usage != NO_USAGE:
                return usage
    return NO_USAGE if ELSEWHERE.isdisjoint(event) else read_usage(event)


def request_usage(event: Mapping[str, Any]) -> Usage:
    """The counts of a whole request. Some servers (xAI) count reasoning apart, which only the sum of all shows."""
    usage = event_usage(event)
    prompt, completion, reasoned = usage
    own = event.get("usage")
    if not reasoned or prompt is None or completion is None or not isinstance(own, dict):
        return usage
    is_apart = own.get("total_tokens") == prompt + completion + reasoned
    return Usage(prompt, completion + reasoned, reasoned) if is_apart else usage


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """The counts of one object, by the first of their names that it has."""
    return Usage(_first(usage, _PROMPT), _first(usage, _COMPLETION), _reasoned(usage))


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return as_count(next((usage[name] for name in names if usage.get(name) is not None), None))


def as_count(value: Any) -> int | None:
    """A whole number of at least 0, as JSON may write it; NO_COUNT for anything else, None for nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else NO_COUNT


def _reasoned(usage: Mapping[str, Any]) -> int:
    found = next((usage[name] for name in _DETAILS if isinstance(usage.get(name), dict)), usage)
    return max(0, as_count(found.get("reasoning_tokens")) or 0, as_count(found.get("thoughtsTokenCount")) or 0)
