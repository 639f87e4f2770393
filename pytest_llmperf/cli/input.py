"""The part that several commands of `llmperf` share: options, the reading of their values, and the commands'
endings.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from pytest_llmperf.boundary.signals import end_like_ctrl_c
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.plan.server.table import ENGINE_MODELS, ServerConfig
from pytest_llmperf.report.files import missing_for_html, with_failure_noted, write_report
from pytest_llmperf.report.text import Screen
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.progress.live import Live

PATH = click.Path(path_type=Path)
NEWEST_REPORT = Path("llmperf-results") / "latest" / "report.json"


def _rates(context: click.Context, option: click.Parameter, given: str | None) -> float | dict[str, list[float]] | None:
    """One rate, or a sweep of several; UsageError for anything else."""
    if given is None:
        return None
    try:
        rates = [float(part) for part in given.split(",")]
    except ValueError:
        raise click.UsageError(f"--request-rate {given!r} is neither a number nor a list such as 5,10,20") from None
    return rates[0] if len(rates) == 1 else {"sweep": rates}


def page_path(context: click.Context, option: click.Parameter, given: Path | None) -> Path | None:
    """The path that is given for a page; UsageError, before anything is measured, without the libraries for one."""
    if given and (missing := missing_for_html()):
        raise click.UsageError(f"--html {missing}")
    return given


PLAN = click.Path(exists=True, dir_okay=False, path_type=Path)
_LOAD_OPTIONS = (
    click.option(
        "--request-rate", metavar="R[,R…]", callback=_rates, help="Open loop: requests per second; a list: a point each"
    ),
    click.option("--arrival", type=click.Choice(["constant", "poisson", "gamma"]), help="Gaps (default: constant)"),
    click.option("--duration", metavar="TIME", help="How long to send, in the place of --requests, as in '30 s'"),
    click.option("--input-tokens", type=int, help="Length of the prompts"),
    click.option("--output-tokens", type=int, help="Length of the answers (default: the file's, else 128)"),
    click.option(
        "--tokenizer",
        "--tokenizer-path",
        type=click.Path(exists=True),
        help="Folder of the model's tokenizer, for exact lengths",
    ),
    click.option("--warmup-requests", type=int, help="Sent and forgotten before the first run (default: 2)"),
    click.option("--seed", type=int, help="Seed of prompts and arrivals"),
    click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with every request"),
    click.option("--bearer-env", metavar="NAME", help="Environment variable that holds the bearer token of URLs"),
    click.option("--json", "json_path", type=PATH, help="Write the report here"),
    click.option("--output", type=PATH, help="Folder for report, requests and server logs"),
)


def load_options(command: Any) -> Any:
    """Adds the options of commands that measure a load which is typed."""
    for option in reversed(_LOAD_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def reported(folder: RunFolder, json_path: Path | None) -> Iterator[None]:
    """Ends a measuring command: its report is written, errors are click's, and exit status 130 says interrupted."""
    end_like_ctrl_c()
    try:
        yield
    except ValidationError as error:
        raise click.UsageError("; ".join(map(problem, error.errors()))) from error
    except LlmPerfError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo(f"interrupted; what was measured until then: {folder.output}")
        sys.exit(130)
    finally:
        if folder.outcomes:
            report(folder, lambda: write_report(folder, json_path))
    click.echo(f"report: {folder.report_path}")


def tables(width: int = 120, *, narrows: bool = False) -> Screen:
    """The output for tables, `width` columns wide where stdout is no terminal; what `narrows` heeds COLUMNS there."""
    is_told = narrows and os.environ.get("COLUMNS", "").isdecimal()
    return Screen(width=None if sys.stdout.isatty() or is_told else width)


def say(line: str) -> None:
    """Prints a line that may hold texts of others."""
    Screen().print(line, markup=False, soft_wrap=True)


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
        return None
    axis, _, span = asked.partition("=")
    if axis not in ("request_rate", "concurrency") or not span:
        raise click.UsageError(f"--capacity {asked!r} is neither request_rate=LOW:HIGH nor concurrency=LOW:HIGH")
    return {axis: span, "sla": sla(limits)}


def sla(limits: Sequence[str]) -> dict[str, str]:
    """Limits such as `ttft_p99<=500ms` as a plan would write them."""
    return dict(_limit(text, r"[<>]=?.+", "--sla", "ttft_p99<=500ms") for text in limits)


def slo(limits: Sequence[str]) -> dict[str, str] | None:
    """Limits such as `ttft<=500ms` as a load would write its `slo`; None without any."""
    found = [_limit(text, r"<=.+", "--slo", "ttft<=500ms") for text in limits]
    return {name: bound.removeprefix("<=") for name, bound in found} or None


def _limit(text: str, bound: str, option: str, example: str) -> tuple[str, str]:
    match = re.match(rf"\s*(\w+)\s*({bound})$", text)
    if match is None:
        raise click.UsageError(f"{option} {text!r} is not a limit such as {example!r}")
    return match[1], match[2]


def report(folder: RunFolder, write: Callable[[], object], what: str = "report") -> bool:
    """Writes a report, which is called `what`; True if it could.

    Else stderr says why not, the command prints its results all the same, and the folder is not whole.
    """
    known = len(folder.notes)
    done = with_failure_noted(folder, what, write)
    folder.is_whole &= done
    for note in folder.notes[known:]:
        click.echo(f"Error: {note}", err=True)
    return done


def stderr_line() -> Live | None:
    """A line of its own on stderr; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None
    width = shutil.get_terminal_size().columns - 1
    return Live(show=lambda text: click.echo(f"\r\033[K{text}", nl=False, err=True), width=width)
