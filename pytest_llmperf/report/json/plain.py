"""Facts of objects as JSON values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pytest_llmperf.metrics.summary import rounded


def plain(found: Any, *names: str) -> dict[str, Any]:
    """Attributes by name, all fields of a dataclass where none is named; floats have six significant digits."""
    chosen = names or tuple(field.name for field in fields(found))
    return {name: _value(getattr(found, name)) for name in chosen}


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return rounded(value) if isinstance(value, float) else value
