"""`llmperf import`: other tools' files as tables, as a report of ours, and as a baseline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_llmperf.boundary.files import read_text
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.interchange.files import ImportedFile, read_files
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.report.files import write_html, write_report
from pytest_llmperf.report.sections.comparison import comparison_tables
from pytest_llmperf.report.sections.points import metrics_table
from pytest_llmperf.report.terminal.imported import imported_tables
from pytest_llmperf.report.text import Screen
from pytest_llmperf.report.views.comparison import comparisons
from pytest_llmperf.runner.outcomes import RunFolder, default_output

if TYPE_CHECKING:
    from pytest_llmperf.interchange.to_baseline import Target

_PATH = click.Path(path_type=Path)
_REPORT = Path("llmperf-results") / "latest" / "report.json"
_NEEDS_REPORT = (
    "A baseline needs what no other tool's file holds: the machine, engine, arguments and load of the test. Run the "
    "test once (it fails for want of a baseline), and name the report of that session with --report"
)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--concurrency", type=click.IntRange(min=1), help="Load of files that do not say it: a closed loop")
@click.option(
    "--request-rate",
    type=click.FloatRange(min=0, min_open=True, max=1e9),
    help="Load of files that do not say it: an open loop, in req/s",
)
@click.option(
    "--tokenizer", type=click.Path(exists=True), help="Folder of the model's, to count perf_analyzer's answers"
)
@click.option("--environment", default="imported", show_default=True, help="Where it was measured, for the report")
@click.option("--output", type=_PATH, help="Folder for report.json and the requests")
@click.option("--json", "json_path", type=_PATH, help="Write the report here")
@click.option("--html", type=_PATH, help="Write the HTML report here")
@click.option(
    "--baseline", "test", metavar="TEST", help="Make FILES the baseline of this test: its id, or its file's path"
)
@click.option(
    "--report", type=_PATH, help="A report that holds the test  [default: llmperf-results/latest/report.json]"
)
@click.option("--folder", type=_PATH, default=Path("baselines"), show_default=True, help="Folder of the baselines")
@click.option("--model", help="What FILES call the test's model, where that is another name")
@click.option("--replace", "replacing", is_flag=True, help="Write over a baseline that is there")
def import_files(files: tuple[Path, ...], **options: Any) -> None:
    """Show results of GenAI-Perf, perf_analyzer, AIPerf, vllm bench serve, SGLang or GuideLLM, or take them over.

    Figures are shown under the tool's own definitions, and under ours as far as the file lets that be told. --json,
    --html and --output write a report of ours; --baseline makes the files, a run each, the baseline of a test.
    """
    try:
        read = _read(files, options)
        _show(read)
        _write_reports(read, options)
        if options["test"]:
            _write_baseline(read, options)
    except LlmPerfError as error:
        raise click.ClickException(str(error)) from error


def _read(paths: Sequence[Path], options: dict[str, Any]) -> list[ImportedFile]:
    given = {name: options[name] for name in ("concurrency", "request_rate", "tokenizer", "environment")}
    if given["concurrency"] and given["request_rate"]:
        raise click.UsageError("--concurrency is a closed loop, --request-rate an open one; give one of them")
    return read_files(paths, **given)


def _show(read: Sequence[ImportedFile]) -> None:
    console = Screen(width=None if sys.stdout.isatty() else 120)
    for file in read:
        for table in imported_tables(file.found, file.path.name):
            console.print(table)
        for result in file.results:
            console.print(metrics_table(result))
            for line in (*result.remarks, *(f"INVALID {reason}" for reason in result.invalid_reasons)):
                console.print(line, markup=False, soft_wrap=True)
            console.print()


def _results(read: Sequence[ImportedFile]) -> list[Result]:
    return [result for file in read for result in file.results]


def _session(read: Sequence[ImportedFile], output: Path | None) -> RunFolder:
    session = RunFolder(output or default_output(Path.cwd()))
    for result in _results(read):
        session.note(f"import[{result.point_id}]", result.point_id, result=result, passed=result.valid)
    return session


def _write_reports(read: Sequence[ImportedFile], options: dict[str, Any]) -> None:
    output, json_path, html = options["output"], options["json_path"], options["html"]
    session = _session(read, output)
    _show_comparisons(session)
    if json_path or output:
        write_report(session, json_path)
        for result in _results(read):
            for run in result.runs:
                session.save_requests(f"import[{result.point_id}]", run, result.load)
        click.echo(f"report: {session.output / 'report.json'}")
    if html:
        write_html(session, html, {})
        click.echo(session.written[-1])


def _show_comparisons(session: RunFolder) -> None:
    console = Screen(width=None if sys.stdout.isatty() else 120)
    for found in comparisons([(test, one.result) for test, one in session.outcomes.items() if one.result]):
        console.print(*comparison_tables(found, console.width))


def _write_baseline(read: Sequence[ImportedFile], options: dict[str, Any]) -> None:
    # scipy comes with these, and takes longer than all the rest.
    from pytest_llmperf.gate.baselines.file import stored_path, write_baseline
    from pytest_llmperf.interchange.to_baseline import imported_baseline, make_source, shortage

    target, _ = _target(options)
    path = stored_path(options["folder"], target.environment.slug, target.test)
    if path.exists() and not options["replacing"]:
        raise click.UsageError(f"there is a baseline already: {path}; --replace writes over it")
    sources = [make_source(file) for file in read]
    write_baseline(imported_baseline(sources, target, path, datetime.now(UTC), options["model"]))
    click.echo(f"baseline: {path}")
    if note := shortage(sources):
        click.echo(note)


def _target(options: dict[str, Any]) -> tuple[Target, Path]:
    """The test of the report, and the file of its baseline."""
    from pytest_llmperf.interchange.to_baseline import find_target

    report = options["report"] or _REPORT
    try:
        text = read_text(report)
    except OSError as error:
        raise click.UsageError(f"{report} cannot be read ({error.strerror}). {_NEEDS_REPORT}") from error
    return find_target(text, str(report), options["test"], options["folder"])
