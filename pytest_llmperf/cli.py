"""`llmperf …`: one load point from the shell, and the plan's schema for editors."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console

from pytest_llmperf import __version__
from pytest_llmperf.dialects import DIALECTS
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.measure import measure
from pytest_llmperf.plan import LoadPoint, LoadSpec, OpenAIServer, Plan
from pytest_llmperf.records import Run
from pytest_llmperf.report.server_side import has_server_side, server_side_table
from pytest_llmperf.report.terminal import dialect_table, metrics_table, number
from pytest_llmperf.result import Result, make_result
from pytest_llmperf.servers.start import LlmServer, start_server
from pytest_llmperf.session import Session, default_output
from pytest_llmperf.telemetry.environment import environment


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Performance of LLM serving, measured exactly. The gate is pytest: see `pytest --help`, group llmperf."""


@main.command()
def schema() -> None:
    """Print the JSON Schema of a plan, for editors: `# yaml-language-server: $schema=plan.schema.json`."""
    click.echo(json.dumps(Plan.model_json_schema(), indent=2))


@main.command()
@click.option("--url", "-u", required=True, help="Base URL of the server, as in http://localhost:8000")
@click.option("--model", "-m", required=True, help="Name of the model")
@click.option(
    "--endpoint", type=click.Choice(["chat", "completions", "responses", "generate"]), default="chat", show_default=True
)
@click.option("--concurrency", type=int, help="Closed loop: requests in flight at all times")
@click.option("--request-rate", type=float, help="Open loop: requests per second")
@click.option("--arrival", type=click.Choice(["constant", "poisson", "gamma"]), default="constant", show_default=True)
@click.option("--burstiness", type=float, help="Shape of --arrival gamma: 1 is Poisson, less comes in bursts")
@click.option("--requests", type=int, help="Measured requests per run")
@click.option("--duration", metavar="TIME", help="How long to send, in the place of --requests, as in '30 s'")
@click.option("--max-in-flight", type=int, help="Open loop: requests wait while so many are in flight")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Prompts per request (completions)")
@click.option("--input-tokens", type=int, required=True, help="Length of the prompts")
@click.option("--output-tokens", type=int, required=True, help="Length of the answers")
@click.option("--tokenizer", type=click.Path(exists=True), help="Folder of the model's tokenizer, for exact lengths")
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--warmup-requests", type=int, default=2, show_default=True)
@click.option("--seed", type=int, help="Seed of prompts and arrivals")
@click.option("--ignore-eos/--no-ignore-eos", default=True, show_default=True, help="Ask for exactly --output-tokens")
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent with every request")
@click.option("--bearer-env", metavar="NAME", help="Environment variable that holds the bearer token")
@click.option("--workers", metavar="auto|N", default="auto", show_default=True, help="Processes of the load driver")
@click.option("--dialect", type=click.Choice(list(DIALECTS)), help="Report by this tool's definitions too")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report here")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for report and requests")
def profile(url: str, model: str, headers: tuple[str, ...], bearer_env: str | None, runs: int, **options: Any) -> None:
    """Measure one load point on a server that is up, and print its metrics."""
    json_path, output = options.pop("json_path"), options.pop("output")
    session = Session(output or default_output(Path.cwd()), dialect=options.pop("dialect"))
    try:
        given = {name: value for name, value in options.items() if value is not None}
        point = LoadSpec.model_validate(given).points("profile")[0]
        config = OpenAIServer(
            engine="openai",
            name="profile",
            model=model,
            url=url,
            headers=dict(map(_header, headers)),
            bearer=f"${{{bearer_env}}}" if bearer_env else None,
        )
        result = _measured(start_server(config, session.log_dir(), ()), point, runs, session)
    except ValidationError as error:
        raise click.UsageError("; ".join(_problem(problem) for problem in error.errors())) from error
    except LlmPerfError as error:
        raise click.ClickException(str(error)) from error
    finally:
        if session.outcomes:
            session.write_report(json_path)
    _show(result, session)
    sys.exit(0 if result.valid and not result.metrics.failed else 1)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header {text!r} is not 'NAME: VALUE'")
    return name.strip(), value.strip()


def _problem(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    text = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else problem["msg"]
    return f"{where + ': ' if where else ''}{text} (given {problem['input']!r})" if where else text


def _measured(starting: AbstractContextManager[LlmServer], point: LoadPoint, runs: int, session: Session) -> Result:
    done: list[Run] = []
    with starting as server:

        def keep(run: Run) -> None:
            done.append(run)
            session.save_requests("profile", run, point)
            session.update("profile", "profile", result=_result(server, point, done), error="interrupted")

        progress = _show_progress if sys.stderr.isatty() else None
        asyncio.run(measure(server, point, point.name, runs, keep, progress, point.workers))
        result = _result(server, point, done)
    session.update("profile", "profile", result=result, error=None, passed=result.valid)
    return result


def _result(server: LlmServer, point: LoadPoint, runs: list[Run]) -> Result:
    return make_result("profile", server.config, point, environment(server.config, server.version, ()), runs)


def _show_progress(run_index: int, done: int, total: int, failed: int) -> None:
    click.echo(f"\rrun {run_index + 1}: {done}/{total} requests, {failed} failed ", nl=False, err=True)


def _show(result: Result, session: Session) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(metrics_table(result))
    if has_server_side([result]):
        console.print(server_side_table([result], number))
    if session.dialect:
        console.print(dialect_table(result, session.dialect))
    summary = result.metrics
    console.print(f"{summary.ok} of {summary.sent} requests succeeded; receive times: {result.stamps}", markup=False)
    errors = dict.fromkeys(record.error for run in result.runs for record in run.records if record.error)
    for line in [
        *result.remarks,
        *(f"INVALID {reason}" for reason in result.invalid_reasons),
        *(f"failed: {e}" for e in errors),
    ]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"report: {session.output / 'report.json'}", markup=False, soft_wrap=True)
