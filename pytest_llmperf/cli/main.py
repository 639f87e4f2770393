"""The `llmperf` command: its group, the plan's schema, and a server's model repository; others have a module each."""

from __future__ import annotations

import io
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from pytest_llmperf import __version__
from pytest_llmperf.boundary.literals import literal_secrets
from pytest_llmperf.boundary.secrets import remember
from pytest_llmperf.boundary.text import READABLE, foreign
from pytest_llmperf.cli.baseline import baseline
from pytest_llmperf.cli.compressa import measure_from_yaml
from pytest_llmperf.cli.duet import duet
from pytest_llmperf.cli.from_plan.calibrate import calibrate
from pytest_llmperf.cli.from_plan.search import search
from pytest_llmperf.cli.history import history
from pytest_llmperf.cli.import_files import import_files
from pytest_llmperf.cli.profile import profile
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.plan.schema import plan_schema
from pytest_llmperf.servers.engines.commands import write_repository


class _Commands(click.Group):
    """No message shows a secret that was typed, and no input ends in a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            name, _, value = word.partition(":")
            remember(*literal_secrets([{name.strip(): value.strip()}, word, _json(word)]))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=READABLE)
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(foreign(error.format_message()), error.ctx) from None
        except click.ClickException as error:
            raise click.ClickException(foreign(error.format_message())) from None
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise click.ClickException(
                foreign(f"{what}\n(unexpected, at {Path(where.filename).name}:{where.lineno}; please report it)")
            ) from None


def _json(word: str) -> object:
    try:
        return json.loads(word) if word.startswith(("{", "[")) else None
    except (ValueError, RecursionError):
        return None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Performance of LLM serving, measured exactly. The gate is pytest: see `pytest --help`, group llmperf."""


for command in (baseline, calibrate, duet, history, import_files, measure_from_yaml, profile, search):
    main.add_command(command)


@main.command()
def schema() -> None:
    """Print the JSON Schema of a plan, for editors: `# yaml-language-server: $schema=plan.schema.json`."""
    click.echo(json.dumps(plan_schema(), indent=2))


@main.command("model-repository")
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("server")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write the models into")
def model_repository(plan: Path, server: str, output: Path) -> None:
    """Write the model repository of a plan's Triton server, and run nothing."""
    try:
        write_repository(load_plan(plan).server(server), output)
    except LlmPerfError as error:
        raise click.ClickException(str(error)) from error
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        click.echo(path)
