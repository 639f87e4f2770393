"""What several commands of `llmperf` make of what was typed."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from pytest_llmperf.report.live import Live


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


def capacity(asked: str | None, limits: Sequence[str]) -> dict[str, Any] | None:
    """`request_rate=1:200` and limits such as `ttft_p99<=500ms` as a plan would write them; None without."""
    if asked is None:
        if limits:
            raise click.UsageError("--sla says what a level of --capacity must meet; there is no --capacity")
        return None
    axis, _, span = asked.partition("=")
    if axis not in ("request_rate", "concurrency") or not span:
        raise click.UsageError(f"--capacity {asked!r} is neither request_rate=LOW:HIGH nor concurrency=LOW:HIGH")
    return {axis: span, "sla": dict(map(_limit, limits))}


def _limit(text: str) -> tuple[str, str]:
    match = re.match(r"\s*(\w+)\s*([<>]=?.+)$", text)
    if match is None:
        raise click.UsageError(f"--sla {text!r} is not a limit such as 'ttft_p99<=500ms'")
    return match[1], match[2]


def stderr_line() -> Live | None:
    """A line of its own on stderr; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None
    width = shutil.get_terminal_size().columns - 1
    return Live(show=lambda text: click.echo(f"\r\033[K{text}", nl=False, err=True), width=width)
