"""`llmperf search`: the best configuration of a plan's server, without pytest."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from pytest_llmperf.boundary.signals import end_like_ctrl_c
from pytest_llmperf.cli.input import PATH, PLAN, page_path, stderr_line, tables
from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import LlmPerfError, MissingRequirement, PlanError
from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.report.files import write_search
from pytest_llmperf.report.sections.search import search_summary
from pytest_llmperf.runner.outcomes import RunFolder, default_output
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.search.candidates import Candidates, candidates
from pytest_llmperf.search.dry_run import describe
from pytest_llmperf.search.result import SearchResult
from pytest_llmperf.search.search import SearchRun, checkpoint_name, newest, run_search
from pytest_llmperf.telemetry.gpu import visible_gpus

_INTERRUPTED = 130


@click.command()
@click.argument("plan", type=PLAN)
@click.option("--search", "name", metavar="NAME", help="Which search of the plan (needed where it has several)")
@click.option("--mode", type=click.Choice(["brute", "quick", "optuna"]), help="In the place of the plan's")
@click.option(
    "--trials", type=click.IntRange(min=1), help="Configurations to measure at most, in the place of the plan's"
)
@click.option("--resume", is_flag=True, help="Go on where the last search of this name was interrupted")
@click.option("--dry-run", is_flag=True, help="Print what would be tried, and start nothing")
@click.option("--json", "json_path", type=PATH, help="Write the result (llmperf.search/1) here")
@click.option("--csv", "csv_path", type=PATH, help="Write a row per configuration here")
@click.option("--html", "html_path", type=PATH, callback=page_path, help="Write a page here that opens offline")
@click.option("--output", type=PATH, help="Folder for results, requests, server logs, checkpoint")
def search(plan: Path, name: str | None, resume: bool, dry_run: bool, output: Path | None, **options: Any) -> None:
    """Find the best configuration among those that a server entry of PLAN sweeps over.

    Exit status: 0 when a configuration keeps all limits, 1 when none does or a file was not written, 2 usage, 130
    interrupted (continue with --resume; what was measured is stored).
    """
    end_like_ctrl_c()
    try:
        gpus = visible_gpus()
        found = _chosen(load_plan(plan), plan, name, options, len(gpus))
        if dry_run:
            click.echo("\n".join(describe(found, gpus)))
            return
        checkpoint = _checkpoint(found.name, output) if resume else None
        session = RunFolder(
            checkpoint.parent if checkpoint else output or default_output(Path.cwd()),
            is_new=checkpoint is None and output is None,
        )
        how = SearchRun(session, gpus, plan, resume_from=checkpoint, live=stderr_line() or Live())
        with session.claimed():
            result = run_search(found, how, partial(_keep, session, options))
    except (PlanError, MissingRequirement) as error:
        raise click.UsageError(str(error)) from error
    except LlmPerfError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    sys.exit(0 if result.best and not session.notes else 1)


def _chosen(plan: Plan, path: Path, name: str | None, options: dict[str, Any], gpus: int) -> Candidates:
    names = list(plan.searches)
    if not names:
        raise PlanError(f"{path} has no `searches:`")
    if name is None and len(names) > 1:
        raise PlanError(f"{path} has several searches; choose one with --search: {', '.join(names)}")
    if name is not None and name not in names:
        raise PlanError(f"{path} has no search {name!r}{did_you_mean(name, names)}")
    given = {key: options[key] for key in ("mode", "trials") if options[key] is not None}
    chosen = name or names[0]
    changed = plan.searches[chosen].model_copy(update=given)
    return candidates(plan.model_copy(update={"searches": {**plan.searches, chosen: changed}}), chosen, gpus)


def _checkpoint(name: str, output: Path | None) -> Path:
    """The one in the given folder, else the newest of this search."""
    folders = [output] if output else default_output(Path.cwd()).parent.glob("*")
    found = newest(folder / checkpoint_name(name) for folder in folders if output or not folder.is_symlink())
    if found is None:
        raise PlanError(f"--resume: no {checkpoint_name(name)} in {output or default_output(Path.cwd()).parent}")
    return found


def _keep(session: RunFolder, options: dict[str, Any], result: SearchResult) -> None:
    """Prints and stores it, an interrupted one too."""
    click.echo(search_summary(result, tables().width, sys.stdout.isatty()), nl=False)
    for path in write_search(result, session, options["json_path"], options["csv_path"], options["html_path"]):
        click.echo(f"written: {path}")
    for note in session.notes:
        click.echo(f"Error: {note}", err=True)
