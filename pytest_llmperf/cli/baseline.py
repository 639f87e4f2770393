"""`llmperf baseline …`: look at stored baselines, and put them in order."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from pytest_llmperf.cli.input import NEWEST_REPORT, PATH, say, tables
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines import folder as baseline_folder
from pytest_llmperf.gate.baselines.file import read_baseline, write_baseline
from pytest_llmperf.gate.baselines.growth import promoted, trimmed
from pytest_llmperf.gate.baselines.model import Baseline
from pytest_llmperf.report.terminal.baselines import facts, list_table, pictures, sessions_table, trend_lines

_folder = click.argument("folder", type=PATH, default=Path("baselines"))
_folder_option = click.option("--folder", type=PATH, default=Path("baselines"), show_default=True)


@click.group()
def baseline() -> None:
    """Look at stored baselines, and put them in order. Recording them is pytest's: --llmperf-update-baselines."""


@baseline.command("list")
@_folder
def list_(folder: Path) -> None:
    """A table of all baselines in FOLDER. Exit status 1 when one of them cannot be read."""
    problems: list[str] = []
    held = list(_readable(folder, problems))
    if held:
        tables(160).print(list_table(held, datetime.now(UTC)))
    elif not problems:
        click.echo(f"no baselines in {folder}")
    _end(problems)


@baseline.command()
@click.argument("point")
@_folder_option
def show(point: str, folder: Path) -> None:
    """Values by session, environment and distributions of POINT: a path, a point's id, or a test's."""
    found = _found(folder, point)
    say("\n".join(facts(found)))
    tables(160).print(sessions_table(found))
    for line in pictures(found):
        say(line)


@baseline.command()
@_folder
@click.option("--keep-from", type=PATH, default=NEWEST_REPORT, show_default=True, help="Report of a full run")
@click.option("--all-environments", is_flag=True, help="Judge other environments' baselines by this report too")
@click.option("--dry-run", is_flag=True, help="Only say what would be done")
@click.option("--yes", is_flag=True, help="Do not ask")
def prune(folder: Path, keep_from: Path, all_environments: bool, dry_run: bool, yes: bool) -> None:
    """Delete the baselines of tests that a full run does not have, and sessions beyond the window.

    The report must be one of a full run: after a run with -k or of a single file, all others look unused.
    """
    problems: list[str] = []
    try:
        known = baseline_folder.read_measured(keep_from)
    except BaselineError as error:
        raise click.ClickException(f"{error}; name a full run's report with --keep-from") from error
    slugs = [path.name for path in folder.glob("*") if path.is_dir()] if all_environments else known.slugs
    gone = baseline_folder.unused(folder, slugs, known.tests)
    long = [held for held in _readable(folder, problems) if held.path not in gone and trimmed(held) != held]
    for path in gone:
        click.echo(f"delete {path}: no test of {keep_from} asks for it")
    for held in long:
        dropped = len(held.rolling) - len(trimmed(held).rolling)
        click.echo(f"trim {held.path}: {dropped} sessions beyond the window")
    if not gone and not long:
        click.echo("nothing to prune")
    elif not dry_run and (yes or click.confirm(f"Delete {len(gone)} files and trim {len(long)}?", abort=True)):
        for path in gone:
            path.unlink()
        _write([trimmed(held) for held in long], problems)
    _end(problems)


@baseline.command()
@click.argument("points", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every baseline of the folder")
@_folder_option
def accept(points: tuple[str, ...], everything: bool, folder: Path) -> None:
    """Make the rolling sessions of POINTS their anchor: what they drifted to is accepted."""
    if bool(points) == everything:
        raise click.UsageError("name the points to accept, or give --all")
    problems: list[str] = []
    held = list(_readable(folder, problems)) if everything else [_found(folder, point) for point in points]
    for before in held:
        after = promoted(before)
        same = [s.id for s in after.anchor] == [s.id for s in before.anchor]
        click.echo(f"{before.path}: {'is the anchor already' if same else f'anchor of {len(after.anchor)} sessions'}")
        if not same:
            _write([after], problems)
    _end(problems)


@baseline.command()
@_folder
def migrate(folder: Path) -> None:
    """Bring baselines of older versions up to date: their schema, and their names; FOLDER may be one file."""
    problems: list[str] = []
    changed = []
    files = [folder] if folder.is_file() else baseline_folder.baseline_files(folder)
    for path in files:
        try:
            target = baseline_folder.migrate(path)
        except BaselineError as error:
            problems.append(str(error))
            continue
        if target:
            changed.append(target)
            click.echo(f"migrated {path}{'' if target == path else f' to {target}'}")
    click.echo(f"{len(changed)} migrated, {len(files) - len(changed) - len(problems)} were up to date")
    _end(problems)


@baseline.command()
@click.argument("points", nargs=-1)
@_folder_option
def trend(points: tuple[str, ...], folder: Path) -> None:
    """Show since when a gated metric's level is another, over the stored sessions, of POINTS or of all; never fails
    for that.
    """
    problems: list[str] = []
    for held in [_found(folder, point) for point in points] if points else _readable(folder, problems):
        click.echo(f"{held.identity.environment} {held.test}")
        for line in trend_lines(held):
            click.echo(f"  {line}")
    _end(problems)


def _readable(folder: Path, problems: list[str]) -> Iterator[Baseline]:
    """The baselines of a folder; what cannot be read is added to `problems`."""
    for path in baseline_folder.baseline_files(folder):
        try:
            yield read_baseline(path)
        except BaselineError as error:
            problems.append(str(error))


def _write(baselines: Sequence[Baseline], problems: list[str]) -> None:
    """One that fails does not keep the others from being written."""
    for held in baselines:
        try:
            write_baseline(held)
        except BaselineError as error:
            problems.append(str(error))


def _found(folder: Path, point: str) -> Baseline:
    try:
        return baseline_folder.find_baseline(folder, point)
    except BaselineError as error:
        raise click.ClickException(str(error)) from error


def _end(problems: list[str]) -> None:
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        sys.exit(1)
