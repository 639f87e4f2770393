"""`llmperf profile`: measures a server that is already up, without a plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click

from pytest_llmperf import api
from pytest_llmperf.boundary.files import write_at
from pytest_llmperf.cli.input import (
    PATH,
    capacity,
    json_object,
    load_options,
    page_path,
    ready,
    report,
    reported,
    say,
    server_at,
    sla,
    slo,
    stderr_line,
    tables,
)
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.gate.baselines.file import UPDATE_HINT
from pytest_llmperf.gate.judge import Doubt, Judge
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.interchange.perf_analyzer import profile_export
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.metrics.dialects import DIALECTS
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.plan.load.criteria import has_criterion, with_limits
from pytest_llmperf.plan.load.files.datasets import parse_dataset, read_prompts
from pytest_llmperf.plan.load.point import EndpointName, LoadPoint
from pytest_llmperf.plan.load.prompts import PromptFile
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.engines.remote import RemoteServer
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.report.files import write_html
from pytest_llmperf.report.sections.capacity import capacity_table
from pytest_llmperf.report.sections.points import dialect_table, metrics_table, overview_tables
from pytest_llmperf.report.sections.server_side import server_side_table, server_sides
from pytest_llmperf.report.views.verdicts import headline
from pytest_llmperf.runner.campaign import Campaign
from pytest_llmperf.runner.outcomes import RunFolder, default_output
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers.engines.table import ENGINES
from pytest_llmperf.servers.readiness import check_listening
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

_GATES = frozenset({"baseline"})


@click.command()
@click.option("--url", "-u", required=True, help="Base URL of the server, as in http://localhost:8000, or host:port")
@click.option("--path", metavar="/PATH", help="Whole path that requests are posted to, in place of the endpoint's")
@click.option(
    "--ready", metavar="/PATH|JSON|false", help="What answers when it is up, as a plan's `ready`; false: nothing does"
)
@click.option("--model", "-m", required=True, help="Name of the model")
@click.option(
    "--protocol", "-i", type=click.Choice(["http", "grpc"]), help="The server is Triton, and this is how it is asked"
)
@click.option(
    "--endpoint", type=click.Choice(get_args(EndpointName)), help="Default: chat; of Triton generate or grpc, by -i"
)
@click.option("--concurrency", metavar="N[,N…]", help="Closed loop: requests in flight; of a list, one point each")
@click.option("--capacity", metavar="AXIS=LOW:HIGH", help="Search the highest request_rate or concurrency within --sla")
@click.option(
    "--sla",
    "limits",
    multiple=True,
    metavar="LIMIT",
    help="As in 'ttft_p99<=500ms'; of --capacity what a level must meet",
)
@click.option("--record", type=PATH, metavar="FOLDER", help="Store the points as baselines there, of 5 runs at least")
@click.option("--baseline", type=PATH, metavar="FOLDER", help="Compare with what --record stored; FAIL is status 1")
@click.option("--html", "html_path", type=PATH, callback=page_path, help="Write the report as one HTML file")
@click.option(
    "--ready-timeout", metavar="TIME", help="How long to wait for it (default: 30 s; 3 s where nothing listens)"
)
@load_options
@click.option("--burstiness", type=float, help="Shape of --arrival gamma: 1 is Poisson, less comes in bursts")
@click.option("--requests", type=int, help="Measured requests per run (default: as many as --input-data has prompts)")
@click.option("--max-in-flight", type=int, help="Open loop: requests wait while so many are in flight")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Prompts per request (completions)")
@click.option("--input-data", type=click.Path(exists=True, dir_okay=False), help="Prompts: JSONL with input, output")
@click.option("--runs", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option("--ignore-eos/--no-ignore-eos", default=True, show_default=True, help="Ask for exactly --output-tokens")
@click.option(
    "--max-tokens-field",
    type=click.Choice(["max_tokens", "max_completion_tokens"]),
    help="What --output-tokens is called in requests  [default: max_tokens]",
)
@click.option("--extra-body", metavar="JSON", help="Merged into every request; null leaves a field out")
@click.option("--slo", "slos", multiple=True, metavar="LIMIT", help="Per request, as in 'ttft<=500ms': goodput")
@click.option("--read-timeout", metavar="TIME", help="From sending a request to its end  [default: 600 s]")
@click.option("--no-data-timeout", metavar="TIME", help="Longest silence within a response  [default: 120 s]")
@click.option("--workers", metavar="auto|N", default="auto", show_default=True, help="Processes of the load driver")
@click.option("--dialect", type=click.Choice(list(DIALECTS)), help="Report by this tool's definitions too")
@click.option("--profile-export-file", "export", type=PATH, help="Write request times as perf_analyzer does")
def profile(runs: int, **options: Any) -> None:
    """Measure load points on a server that is up, and print their metrics.

    Exit status: 0 when all requests succeeded, the numbers are valid, nothing got worse than --baseline and all files
    were written, 1 when not, 2 usage, 130 interrupted: what was measured until then is in the report.
    """
    record, baseline = options.pop("record"), options.pop("baseline")
    if record and baseline:
        raise click.UsageError("--record and --baseline exclude each other: record once, then compare")
    judge = Judge(record or baseline, recording="everything" if record else "nothing") if record or baseline else None
    json_path, export, output = options.pop("json_path"), options.pop("export"), options.pop("output")
    html_path = options.pop("html_path")
    folder = RunFolder(output or default_output(Path.cwd()), is_new=output is None, dialect=options.pop("dialect"))
    with reported(folder, json_path):
        config, points = _server_config(options), _load_points(options)
        if options["ready_timeout"] is None and isinstance(config, RemoteServer):
            check_listening(config.url)
        if judge:
            for point in points:
                judge.expect(point.name, point, {}, _GATES)
        folder.claim()
        starting = start_server(config, folder.log_dir(), (), loads=points)
        results = measured(starting, points, runs, folder, judge)
        kept = [_recorded(one, record) if record else _compared(one, judge, folder) for one in results if judge]
        if len(results) > 1:
            for table in overview_tables(folder.outcomes.values(), tables().width):
                tables().print(table)
        for result in results:
            show(result, folder.dialect, in_short=len(results) > 1)
        for one in kept:
            say(one.text)
        if html_path is not None:
            report(folder, lambda: write_html(folder, html_path, {}), "HTML report")
    if export is not None:
        document = profile_export(results, ENGINES[config.engine].service_kind)
        if report(folder, lambda: write_at(export, json.dumps(document) + "\n"), "profile export"):
            click.echo(f"profile export: {export}")
    sys.exit(0 if folder.is_whole and all(map(_is_fine, results)) and all(one.ok for one in kept) else 1)


class _Kept(NamedTuple):
    """The outcome of a result's recording as a baseline, or of its comparison with one."""

    ok: bool
    text: str


def _recorded(result: Result, folder: Path) -> _Kept:
    """Stores a result as the baseline of its point's name."""
    name = result.point_id
    try:
        return _Kept(True, f"{name}: new baseline {api.record(result, baselines=folder, name=name)}")
    except LlmPerfError as error:
        return _Kept(False, f"{name}: no baseline was recorded: {error}")


def _compared(result: Result, judge: Judge, folder: RunFolder) -> _Kept:
    """Holds a result against the baseline of its point's name, which must be there, as one of all that are compared."""
    name = result.point_id
    if why := "; ".join(result.incomparable or judge.failed_requests(result)):
        judge.settle(name)
        return _not_compared(name, why, folder)
    try:
        regression = judge.regression(name, result)
    except LlmPerfError as error:
        return _not_compared(name, str(error).replace(UPDATE_HINT, "record one with --record"), folder)
    is_kept = regression.verdict not in ("FAIL", "NO BASELINE")
    folder.note(name, name, regression=regression, passed=folder.outcomes[name].passed and is_kept)
    text = "\n  ".join([headline(name, regression), *regression.sentences, *regression.notes])
    return _Kept(is_kept, text)


def _not_compared(name: str, why: str, folder: RunFolder) -> _Kept:
    folder.note(name, name, passed=False, error=f"not compared: {why}")
    return _Kept(False, f"{name}: not compared: {why}")


def _is_fine(result: Result) -> bool:
    found = result.capacity is None or result.capacity.value is not None
    return result.valid and found and not result.metrics.failed and all(check.ok for check in limits_of(result))


def limits_of(result: Result) -> tuple[SlaCheck, ...]:
    """The limits that were typed, judged; those of a capacity are what its levels were judged by."""
    return () if result.capacity else check_sla(result.load.sla, result, len(result.runs))


def _server_config(options: dict[str, Any]) -> ServerConfig:
    """Takes what it needs out of `options`. With -i the server is Triton, whose statistics are read too."""
    protocol, path, url = options.pop("protocol"), options.pop("path"), options.pop("url")
    options["endpoint"] = options["endpoint"] or {None: "chat", "http": "generate", "grpc": "grpc"}[protocol]
    if protocol and path is not None:
        raise click.UsageError("--path is for OpenAI's endpoints; Triton's follow from the model's name")
    return server_at(
        url if "://" in url else f"{protocol or 'http'}://{url}",
        engine="triton-remote" if protocol else "openai",
        name="profile",
        model=options.pop("model"),
        headers=options.pop("headers"),
        bearer_env=options.pop("bearer_env"),
        ready=ready(options.pop("ready")),
        **({} if options["ready_timeout"] is None else {"ready_timeout": options["ready_timeout"]}),
        **({} if path is None else {"path": path}),
    )


def _load_points(options: dict[str, Any]) -> tuple[LoadPoint, ...]:
    """Raises ValidationError for what a load cannot be, PlanError for an unreadable file."""
    limits = options.pop("limits")
    options["capacity"] = capacity(options.pop("capacity"), limits)
    options["sla"] = sla(limits) if limits and options["capacity"] is None else None
    options["slo"] = slo(options.pop("slos"))
    options["extra_body"] = json_object("--extra-body", options.pop("extra_body"))
    given = {name: value for name, value in options.items() if value is not None and name != "ready_timeout"}
    parts = given.pop("concurrency", "").split(",") if "concurrency" in given else []
    if not all(part.strip().isdecimal() for part in parts):
        raise click.UsageError(f"--concurrency {','.join(parts)!r} is neither a whole number nor a list such as 2,4,8")
    counts = [int(part) for part in parts]
    if counts:
        given["concurrency"] = counts[0] if len(counts) == 1 else {"sweep": counts}
    if path := given.pop("input_data", None):
        given["prompts"] = {"file": path}
        if not {"requests", "duration"} & given.keys():
            prompts = parse_dataset(read_prompts(path), PromptFile(file=path).kind, path).dialogues
            given["requests"] = max(len(prompts), *counts, 1)
    spec = LoadSpec.model_validate(given)
    if not has_criterion((), spec):
        raise click.UsageError("--capacity needs --sla, which says what a level must meet")
    return tuple(with_limits((), point) for point in spec.points("profile"))


def measured(
    starting: AbstractContextManager[LlmServer],
    points: Sequence[LoadPoint],
    runs: int,
    folder: RunFolder,
    judge: Judge | None = None,
) -> list[Result]:
    """Measures each point with so many runs, one after the other, and notes the results in the folder.

    With a `judge` as many more as a baseline takes, or as the comparison with it is in doubt.
    """
    results, live = [], stderr_line()

    def doubt(planned: PlannedTest, result: Result) -> Doubt:
        return judge.doubt(planned.test, result, _GATES) if judge else Doubt()

    with starting as server:
        tests = [PlannedTest(one.name, one.name, "profile", server.config, one, runs, one.workers) for one in points]
        program = Program({planned.test: planned for planned in tests})
        campaign = Campaign(program, folder, (), live=live, interleave=False, doubt=doubt)
        for planned in tests:
            results.append(run(campaign.result(planned, server)))
            limits, passed = limits_of(results[-1]), _is_fine(results[-1])
            folder.note(planned.test, planned.point_id, error=None, passed=passed, sla=limits)
    return results


def show(result: Result, dialect: str | None, *, in_short: bool = False) -> None:
    """Prints all that there is to say of a result; in short without its table of statistics, which the report has."""
    console, name = tables(), f"{result.point_id}: " * in_short
    if result.capacity is not None:
        console.print(capacity_table(result.point_id, result.capacity, console.width))
        say(result.capacity.sentence)
    if not in_short:
        console.print(metrics_table(result))
    if sides := server_sides([result]):
        console.print(server_side_table(sides))
    if dialect:
        console.print(dialect_table(result, dialect))
    summary = result.metrics
    say(f"{name}{summary.ok} of {summary.sent} requests succeeded; receive times: {result.stamps}")
    for check in limits_of(result):
        say(f"{name}{check.verdict} {check.describe()}")
    for line in [*result.remarks, *(f"INVALID {reason}" for reason in result.invalid_reasons)]:
        say(f"{name}{line}")
