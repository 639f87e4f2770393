"""`llmperf history …`: what was measured in all sessions."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pytest_llmperf.boundary.files import open_file, read_text, write_at
from pytest_llmperf.cli.input import PATH, PLAN, tables
from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.history.analysis import differences, trends
from pytest_llmperf.history.compressa import session_of_experiment
from pytest_llmperf.history.database import FoundPoint, History, found_points, is_history, open_history
from pytest_llmperf.history.session import HistoryError, HistorySession, session_json, session_of, stored_session
from pytest_llmperf.interchange.compressa.database import is_database, read_experiments
from pytest_llmperf.report.history.formats import FORMATS
from pytest_llmperf.units import counted

_file = click.option(
    "--history", "path", type=PATH, default=Path("llmperf-history.sqlite"), show_default=True, help="The SQLite file"
)


@click.group()
def history() -> None:
    """Look at the points measured in all sessions. They are kept by pytest: --llmperf-history."""


def _with_clear_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Makes errors of the history the command's own message."""

    @wraps(command)
    def run(**given: Any) -> None:
        try:
            command(**given)
        except (LlmPerfError, OSError) as error:
            raise click.ClickException(str(error)) from error

    return run


def _parameter(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [key for key, equals, _ in pairs if not (key and equals)]:
        raise click.BadParameter(f"{wrong[0]!r} is not KEY=VALUE, as in concurrency=8")
    return {key: value for key, _, value in pairs}


@history.command("list")
@_file
@click.option("--show-metrics", is_flag=True, help="Latencies and throughput of each point")
@click.option("--show-parameters", is_flag=True, help="What was asked for")
@click.option("--name-filter", default="", metavar="TEXT", help="Points whose name or test holds TEXT")
@click.option("--param-filter", multiple=True, callback=_parameter, metavar="K=V", help="Points with this parameter")
@click.option("--csv-file", type=PATH, help="Write all of them here, with every metric")
@click.option("--dialect", type=click.Choice(["compressa"]), help="Columns and names of this tool")
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True, help="As many of the newest points")
@_with_clear_errors
def list_(
    path: Path,
    show_metrics: bool,
    show_parameters: bool,
    name_filter: str,
    param_filter: dict[str, str],
    csv_file: Path | None,
    dialect: str | None,
    last: int,
) -> None:
    """A table of the newest points."""
    from pytest_llmperf.report.history.tables import compressa_table, csv_text, list_table

    with open_history(path) as held:
        found = held.newest(name=name_filter, parameters=param_filter)
        shown = list(itertools.islice(found, last))
        if csv_file:
            write_at(csv_file, csv_text([*shown, *found]))
    if not shown:
        raise click.ClickException(f"{path} holds no such point")
    table = compressa_table if dialect else list_table
    narrows = not (show_metrics or show_parameters or dialect)  # other columns would be cut
    tables(200, narrows=narrows).print(table(shown, metrics=show_metrics, parameters=show_parameters))
    if len(shown) == last:
        click.echo(f"the newest {last} points; --last N shows more")


@history.command()
@_file
@click.argument("number", type=int)
@_with_clear_errors
def show(path: Path, number: int) -> None:
    """Parameters, verdict and runs of the point with this NUMBER."""
    from pytest_llmperf.report.history.tables import facts, runs_table, score_lines

    with open_history(path) as held:
        found = held.point(number)
    for line in (*facts(found), *score_lines([found])):
        click.echo(line)
    tables(200).print(runs_table(found))


@history.command()
@_file
@click.argument("before")
@click.argument("after")
@click.option("--metric", "metrics", multiple=True, help="Only these  [default: what the gate compares]")
@_with_clear_errors
def compare(path: Path, before: str, after: str, metrics: tuple[str, ...]) -> None:
    """Compare two points, by their numbers; or two sessions, by the beginnings of their ids, test by test."""
    from pytest_llmperf.report.history.tables import differences_table, score_lines

    quantities = [_quantity(name) for name in metrics or _gated()]
    with open_history(path) as held:
        pairs = list(_pairs(held, before, after))
    for one, other in pairs:
        tables(200).print(differences_table(one, other, differences(one, other, quantities)))
        for line in score_lines([one, other]):
            click.echo(line)


def _gated() -> tuple[str, ...]:
    from pytest_llmperf.metrics.stats.margins import GATED_BY_DEFAULT

    return GATED_BY_DEFAULT


def _pairs(held: History, before: str, after: str) -> list[tuple[FoundPoint, FoundPoint]]:
    if before.isdecimal() and after.isdecimal() and max(len(before), len(after)) < 8:
        return [(held.point(int(before)), held.point(int(after)))]
    sides = [{found.point.test: found for found in held.of_session(held.session(id).id)} for id in (before, after)]
    both = [test for test in sides[0] if test in sides[1]]
    if not both:
        raise HistoryError(f"{held.path}: sessions {before} and {after} have no test in common")
    return [(sides[0][test], sides[1][test]) for test in both]


def _quantity(name: str) -> Quantity:
    try:
        return parse_quantity(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@history.command()
@_file
@click.argument("sessions", nargs=-1)
@click.option("--report", "reports", multiple=True, type=PLAN, help="Points of this report.json, not of the history")
@click.option("--metric", "metrics", multiple=True, help="Rows  [default: mean TTFT, latency, TPOT, and throughput]")
@click.option("--format", "form", default="terminal", show_default=True, type=click.Choice(list(FORMATS)))
@click.option("-o", "--output", type=PATH, help="Write it here")
@_with_clear_errors
def table(
    path: Path,
    sessions: tuple[str, ...],
    reports: tuple[Path, ...],
    metrics: tuple[str, ...],
    form: str,
    output: Path | None,
) -> None:
    """Experiments by metrics and configurations, of SESSIONS (beginnings of their ids) or of the newest one."""
    from pytest_llmperf.report.history.experiments import QUANTITIES, experiments

    if reports:
        points = [found for file in reports for session in _sessions_of(file) for found in found_points(session)]
    else:
        with open_history(path) as held:
            ids = [held.session(start).id for start in sessions] or [
                one.session for one in itertools.islice(held.newest(), 1)
            ]
            points = [found for id in ids for found in held.of_session(id)]
    found = experiments(points, [_quantity(name) for name in metrics] or QUANTITIES)
    if not found.rows:
        raise click.ClickException(f"{', '.join(map(str, reports)) or path} holds no point with these metrics")
    text = FORMATS[form](found)
    if output:
        write_at(output, text)
    else:
        click.echo(text, nl=False)


@history.command()
@_file
@click.argument("point")
@click.argument("metric")
@click.option("--html", "html_path", type=PATH, help="Write the plot here as a page")
@click.option("--last", type=click.IntRange(min=2), default=40, show_default=True, help="Sessions to print")
@_with_clear_errors
def trend(path: Path, point: str, metric: str, html_path: Path | None, last: int) -> None:
    """Show METRIC (itl_p50, say) of POINT, a name or a test's id, over the sessions, and where its level changed."""
    from pytest_llmperf.report.history.tables import step_lines, trend_table

    quantity = _quantity(metric)
    with open_history(path) as held:
        found = list(trends(held.named(point), [quantity]))
    if not found:
        raise click.ClickException(f"{path} holds no valid run of {point!r} with {metric}")
    for one in found:
        tables(200).print(trend_table(one, last))
        for line in step_lines(one):
            click.echo(line)
    if html_path:
        _write_html(html_path, found)


@history.command()
@_file
@click.option("-o", "--output", type=PATH, default=Path("llmperf-history.html"), show_default=True)
@click.option("--metric", "metrics", multiple=True, help="Only these  [default: what the gate compares]")
@_with_clear_errors
def html(path: Path, output: Path, metrics: tuple[str, ...]) -> None:
    """One page with the trends of all points."""
    quantities = [_quantity(name) for name in metrics or _gated()]
    with open_history(path) as held:
        found = list(trends(held.everything(), quantities))
    if not found:
        raise click.ClickException(f"{path} holds no point that was measured")
    _write_html(output, found)


def _write_html(path: Path, found: Any) -> None:
    from pytest_llmperf.report.files import missing_for_html
    from pytest_llmperf.report.history.page import history_page

    if missing := missing_for_html():
        raise click.ClickException(f"a page {missing}")
    write_at(path, history_page(found, datetime.now(UTC)))
    click.echo(path)


@history.command()
@_file
@click.option("-o", "--output", type=PATH, help="A file of JSON lines, a session each  [default: standard output]")
@_with_clear_errors
def export(path: Path, output: Path | None) -> None:
    """All sessions as JSON lines, which `import` reads."""
    with open_history(path) as held:
        lines = (f"{json.dumps(session_json(session))}\n" for session in held.sessions())
        if output:
            write_at(output, lines)
        else:
            sys.stdout.writelines(lines)


@history.command("import")
@_file
@click.argument("files", nargs=-1, required=True, type=PLAN)
@_with_clear_errors
def import_(path: Path, files: tuple[Path, ...]) -> None:
    """Take over sessions: report.json files, files of `export`, and databases of compressa-perf."""
    with open_history(path, write=True) as held:
        for file in files:
            click.echo(_taken(held, file, _sessions_of(file)))


def _taken(held: History, source: Path, sessions: Iterable[HistorySession]) -> str:
    count = 0
    for session in sessions:
        held.take_over(session)
        count += 1
    return f"{source}: {counted(count, 'session')}"


def _sessions_of(file: Path) -> Iterator[HistorySession]:
    if is_database(file):
        yield from map(session_of_experiment, read_experiments(file))
        return
    if is_history(file):
        raise HistoryError(f"{file} is a history itself; `llmperf history merge {file}` takes its sessions over")
    for document in _documents(file):
        exported = isinstance(document, dict) and "schema" not in document
        yield stored_session(document, str(file)) if exported else session_of(document, str(file))


def _documents(file: Path) -> Iterator[Any]:
    """A report is one document, of many lines or one; of an export each line is read when it is asked for."""
    try:
        with open_file(file) as lines:
            first = lines.readline()
            try:
                document = json.loads(first)
            except ValueError:
                document = json.loads(read_text(file))
            else:
                yield document
                yield from (json.loads(line) for line in lines if line.strip())
                return
            yield document
    except (OSError, ValueError, RecursionError) as error:
        raise HistoryError(f"{file} is neither a report, nor an export, nor a database: {error}") from error


@history.command()
@_file
@click.argument("others", nargs=-1, required=True, type=PLAN)
@_with_clear_errors
def merge(path: Path, others: tuple[Path, ...]) -> None:
    """Take over all sessions of OTHERS, histories of other machines; one that is there already stays one."""
    with open_history(path, write=True) as held:
        for other in others:
            with open_history(other) as theirs:
                click.echo(_taken(held, other, theirs.sessions()))


@history.command()
@_file
@click.option("--days", type=click.IntRange(1, 36500), required=True, help="Keep sessions of so many days")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted")
@click.option("--yes", is_flag=True, help="Do not ask")
@_with_clear_errors
def prune(path: Path, days: int, dry_run: bool, yes: bool) -> None:
    """Delete old sessions."""
    since = datetime.now(UTC) - timedelta(days=days)
    with open_history(path) as held:
        old = held.older(since)
        for id, started, points in old:
            click.echo(f"delete {id[:8]} of {started:%Y-%m-%d %H:%M}, {points} points")
        if not old:
            click.echo("nothing to prune")
        elif not dry_run and (yes or click.confirm(f"Delete {len(old)} sessions?", abort=True)):
            held.delete(id for id, _, _ in old)
