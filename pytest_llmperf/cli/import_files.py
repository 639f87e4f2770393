"""`llmperf import`: other tools' files as tables, as a report of ours, and as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pytest_llmperf.boundary.files import read_text
from pytest_llmperf.cli.input import NEWEST_REPORT, PATH, PLAN, page_path, say, tables
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.gate.baselines.file import stored_path, write_baseline
from pytest_llmperf.interchange.files import ImportedFile, read_files
from pytest_llmperf.interchange.to_baseline import find_target, imported_baseline, make_source, shortage
from pytest_llmperf.report.files import write_html, write_report
from pytest_llmperf.report.sections.comparison import comparison_tables
from pytest_llmperf.report.sections.points import metrics_table
from pytest_llmperf.report.terminal.imported import imported_tables
from pytest_llmperf.report.views.comparison import comparisons
from pytest_llmperf.runner.outcomes import RunFolder, default_output

_NEEDS_REPORT = (
    "A baseline needs what no other tool's file holds: the machine, engine, arguments and load of the test. Run the "
    "test once (it fails for want of a baseline), and name the report of that session with --report"
)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=PLAN)
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
@click.option("--output", type=PATH, help="Folder for report.json and the requests")
@click.option("--json", "json_path", type=PATH, help="Write the report here")
@click.option("--html", type=PATH, callback=page_path, help="Write the HTML report here")
@click.option(
    "--baseline", "test", metavar="TEST", help="Make FILES the baseline of this test: its id, or its file's path"
)
@click.option("--report", type=PATH, help="A report that holds the test  [default: llmperf-results/latest/report.json]")
@click.option("--folder", type=PATH, default=Path("baselines"), show_default=True, help="Folder of the baselines")
@click.option("--model", help="What FILES call the test's model, where that is another name")
@click.option("--replace", "replacing", is_flag=True, help="Write over a baseline that is there")
def import_files(files: tuple[Path, ...], **options: Any) -> None:
    """Show results of GenAI-Perf, perf_analyzer, AIPerf, vllm bench serve, SGLang or GuideLLM, or take them over.

    Figures are shown under the tool's own definitions, and under ours as far as the file lets that be told. --json,
    --html and --output write a report of ours; --baseline makes the files, a run each, the baseline of a test.
    """
    given = {name: options[name] for name in ("concurrency", "request_rate", "tokenizer", "environment")}
    if given["concurrency"] and given["request_rate"]:
        raise click.UsageError("--concurrency is a closed loop, --request-rate an open one; give one of them")
    try:
        read = read_files(files, **given)
        _show(read)
        _write_reports(read, options["output"], options["json_path"], options["html"])
        if options["test"]:
            _write_baseline(read, options)
    except LlmPerfError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"not written: {error.strerror} ({error.filename})") from error


def _show(read: Sequence[ImportedFile]) -> None:
    console = tables()
    for file in read:
        for table in imported_tables(file.found, file.path.name):
            console.print(table)
        for result in file.results:
            console.print(metrics_table(result))
            for line in (*result.remarks, *(f"INVALID {reason}" for reason in result.invalid_reasons), ""):
                say(line)


def _write_reports(
    read: Sequence[ImportedFile], output: Path | None, json_path: Path | None, html: Path | None
) -> None:
    """Shows what compares between the files, too."""
    folder, console = RunFolder(output or default_output(Path.cwd())), tables()
    results = {f"import[{result.point_id}]": result for file in read for result in file.results}
    for test, result in results.items():
        folder.note(test, result.point_id, result=result, passed=result.valid)
    for found in comparisons(list(results.items())):
        console.print(*comparison_tables(found, console.width))
    if json_path or output:
        write_report(folder, json_path)
        for test, result in results.items():
            for run in result.runs:
                folder.save_requests(test, run, result.load)
        click.echo(f"report: {folder.output / 'report.json'}")
    if html:
        write_html(folder, html, {})
        click.echo(folder.written[-1])


def _write_baseline(read: Sequence[ImportedFile], options: dict[str, Any]) -> None:
    report = options["report"] or NEWEST_REPORT
    try:
        text = read_text(report)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise click.UsageError(f"{report} cannot be read ({why}). {_NEEDS_REPORT}") from error
    target, _ = find_target(text, str(report), options["test"], options["folder"])
    path = stored_path(options["folder"], target.environment.slug, target.test)
    if path.exists() and not options["replacing"]:
        raise click.UsageError(f"there is a baseline already: {path}; --replace writes over it")
    sources = [make_source(file) for file in read]
    write_baseline(imported_baseline(sources, target, path, datetime.now(UTC), options["model"]))
    click.echo(f"baseline: {path}")
    if note := shortage(sources):
        click.echo(note)
