"""What several commands of `llmperf` make of what was typed."""

from __future__ import annotations

from typing import Any

import click


def header(text: str) -> tuple[str, str]:
    """`NAME: VALUE` as a pair; UsageError for anything else."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header {text!r} is not 'NAME: VALUE'")
    return name.strip(), value.strip()


def problem(found: Any) -> str:
    """One error of pydantic's in a line."""
    where = ".".join(str(part) for part in found["loc"])
    text = str(found["ctx"]["error"]) if found["type"] == "value_error" else found["msg"]
    return f"{where + ': ' if where else ''}{text} (given {found['input']!r})" if where else text
