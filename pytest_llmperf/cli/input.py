"""What several commands of `llmperf` make of what was typed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from pytest_llmperf.plan.server.table import ENGINE_MODELS, ServerConfig
from pytest_llmperf.report.files import with_failure_noted
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.progress.live import Live


def server_at(
    url: str, *, engine: str, headers: Sequence[str], bearer_env: str | None, **entry: object
) -> ServerConfig:
    """The entry of a server that is up; `headers` are typed ones, the token is in the environment's `bearer_env`.

    UsageError for a header that is none, ValidationError for what the engine does not take.
    """
    bearer = f"${{{bearer_env}}}" if bearer_env else None
    given = {"url": url, "engine": engine, "headers": dict(map(header, headers)), "bearer": bearer}
    return ENGINE_MODELS[engine].model_validate(given | entry)


def header(text: str) -> tuple[str, str]:
    """`NAME: VALUE` as a pair; UsageError for anything else."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header {text!r} is not 'NAME: VALUE'")
    return name.strip(), value.strip()


def problem(found: Any) -> str:
    """One error of pydantic's in a line."""
    # "value of" and its like are what the specs call the branches of a union.
    where = ".".join(str(part) for part in found["loc"] if not str(part).endswith(" of"))
    text = str(found["ctx"]["error"]) if found["type"] == "value_error" else found["msg"]
    return f"{where + ': ' if where else ''}{text} (given {found['input']!r})" if where else text


def json_object(option: str, text: str | None) -> dict[str, Any] | None:
    """The object that was typed as JSON; None without. UsageError for anything else."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option} {text!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError(f"{option} {text!r} is no JSON object, such as '{{\"name\": null}}'")
    return found


def ready(text: str | None) -> Any:
    """`false`, a path or a JSON object, as a plan would write `ready`."""
    if text is None or text == "false":
        return None if text is None else False
    return json_object("--ready", text) if text.startswith("{") else text


def capacity(asked: str | None, limits: Sequence[str]) -> dict[str, Any] | None:
    """`request_rate=1:200` and limits such as `ttft_p99<=500ms` as a plan would write them; None without."""
    if asked is None:
        if limits:
            raise click.UsageError("--sla says what a level of --capacity must meet; there is no --capacity")
        return None
    axis, _, span = asked.partition("=")
    if axis not in ("request_rate", "concurrency") or not span:
        raise click.UsageError(f"--capacity {asked!r} is neither request_rate=LOW:HIGH nor concurrency=LOW:HIGH")
    return {axis: span, "sla": dict(_limit(text, r"[<>]=?.+", "--sla", "ttft_p99<=500ms") for text in limits)}


def slo(limits: Sequence[str]) -> dict[str, str] | None:
    """Limits such as `ttft<=500ms` as a load would write its `slo`; None without any."""
    found = [_limit(text, r"<=.+", "--slo", "ttft<=500ms") for text in limits]
    return {name: bound.removeprefix("<=") for name, bound in found} or None


def _limit(text: str, bound: str, option: str, example: str) -> tuple[str, str]:
    match = re.match(rf"\s*(\w+)\s*({bound})$", text)
    if match is None:
        raise click.UsageError(f"{option} {text!r} is not a limit such as {example!r}")
    return match[1], match[2]


def report(folder: RunFolder, write: Callable[[], object]) -> bool:
    """Whether it was written; else stderr says why not, and what was measured is told all the same."""
    known = len(folder.notes)
    done = with_failure_noted(folder, "report", write)
    for note in folder.notes[known:]:
        click.echo(f"Error: {note}", err=True)
    return done


def stderr_line() -> Live | None:
    """A line of its own on stderr; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None
    width = shutil.get_terminal_size().columns - 1
    return Live(show=lambda text: click.echo(f"\r\033[K{text}", nl=False, err=True), width=width)
