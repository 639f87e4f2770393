"""Dataclasses as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pytest_llmperf.metrics.summary import rounded


def plain(found: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, floats with six significant digits."""
    return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(found).items()}
