"""`llmperf duet`: two servers measured in turns, the new one judged against the old, without pytest."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from pytest_llmperf.cli.input import PLAN, load_options, problem, reported, say, server_at, stderr_line, tables
from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import PlanError
from pytest_llmperf.gate.judge import Judge
from pytest_llmperf.gate.rules import DUET, Verdict
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.plan.load.criteria import with_limits
from pytest_llmperf.plan.load.point import LoadPoint, parse_margins
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.report.terminal.duet import duet_table
from pytest_llmperf.report.views.verdicts import headline
from pytest_llmperf.runner.campaign import Campaign
from pytest_llmperf.runner.outcomes import RunFolder, default_output
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers.duet import Duet
from pytest_llmperf.servers.engines.table import ENGINES
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.telemetry.gpu import visible_gpus
from pytest_llmperf.telemetry.replicas import on_this_machine

_GATES = frozenset({"baseline"})


@click.command()
@click.option("--a", "a", required=True, metavar="SERVER", help="The old server: a URL, 'vllm serve …', a plan's name")
@click.option("--b", "b", required=True, metavar="SERVER", help="The new server, which is judged")
@click.option("--plan", type=PLAN, help="Has servers and loads")
@click.option("--load", "loads", multiple=True, metavar="NAME", help="Load of the plan (default: all); repeatable")
@click.option("--model", "-m", help="Name of the model, for URLs (default: the plan's)")
@click.option("--endpoint", type=click.Choice(["chat", "completions", "responses", "generate"]), help="Default: chat")
@click.option("--concurrency", type=int, help="Closed loop: requests in flight at all times")
@click.option("--requests", type=int, help="Measured requests per run")
@load_options
@click.option("--runs", type=click.IntRange(min=DUET.baseline_runs), help="First runs of each server (default: 3)")
@click.option("--margin", "margins", multiple=True, metavar="METRIC=SHARE", help="As in itl_p50=3%; repeatable")
@click.option("--inconclusive", type=click.Choice(["pass", "fail"]), default="pass", show_default=True)
def duet(json_path: Path | None, output: Path | None, inconclusive: str, **options: Any) -> None:
    """Measure two servers in turns (A B B A …) and judge B against A.

    Both are up at the same time, so what the machine does meanwhile it does to both, and no stored baseline is needed.
    Exit status: 0 PASS or IMPROVED (and INCONCLUSIVE, unless --inconclusive=fail), 1 FAIL, no verdict or a file that
    was not written, 2 usage, 130 interrupted: what was measured until then is in the report.
    """
    pair, points, margins = _asked(options)
    click.echo(f"a: {options['a']}\nb: {options['b']}")
    folder = RunFolder(output or default_output(Path.cwd()), is_new=output is None)
    with reported(folder, json_path):
        folder.claim()
        verdicts = _measured(pair, points, margins, options["runs"], folder)
    good = {"PASS", "IMPROVED", *(["INCONCLUSIVE"] if inconclusive == "pass" else [])}
    sys.exit(0 if folder.is_whole and all(verdict in good for verdict in verdicts) else 1)


def _asked(options: Mapping[str, Any]) -> tuple[Duet, tuple[LoadPoint, ...], Mapping[str, float]]:
    """The servers, points and margins that the options give. Raises UsageError, which says what is wrong."""
    try:
        plan = on_this_machine(load_plan(options["plan"])) if options["plan"] else None
        if options["a"] == options["b"]:
            raise click.UsageError(f"--a and --b are both {options['a']!r}: a duet needs two servers")
        pair = Duet(server_of("a", plan, options), server_of("b", plan, options))
        named = [text.partition("=") for text in options["margins"]]
        margins = parse_margins({name.strip(): share.strip() for name, _, share in named})
        return pair, _points(plan, options), margins
    except ValidationError as error:
        raise click.UsageError("; ".join(map(problem, error.errors()))) from error
    except (PlanError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def server_of(side: str, plan: Plan | None, options: Mapping[str, Any]) -> ServerConfig:
    given = str(options[side])
    known = plan.server_names() if plan else []
    if plan and given in known:
        return plan.server(given)
    if "://" in given:
        model, token = options["model"] or (plan.model if plan else None), options["bearer_env"]
        if model is None:
            raise click.UsageError("--model is needed for a URL")
        return server_at(given, engine="openai", name=side, model=model, headers=options["headers"], bearer_env=token)
    if typed := _typed(side, shlex.split(given)):
        return typed
    if plan:
        raise click.UsageError(f"--{side}: {options['plan']} has no server {given!r}{did_you_mean(given, known)}")
    raise click.UsageError(f"--{side}: {given!r} is no URL and no 'vllm serve …'; --plan FILE gives servers names")


def _typed(side: str, words: Sequence[str]) -> ServerConfig | None:
    """The server of the engine whose command this is; None when it is that of none."""
    try:
        readers = (engine.from_command_line for engine in ENGINES.values() if engine.from_command_line)
        return next((config for read in readers if (config := read(side, words))), None)
    except ValidationError:
        raise
    except ValueError as error:
        raise click.UsageError(f"--{side}: {error}") from error


def _points(plan: Plan | None, options: Mapping[str, Any]) -> tuple[LoadPoint, ...]:
    given = {name: value for name, value in options.items() if name in LoadSpec.model_fields and value is not None}
    if plan is None:
        if options["loads"]:
            raise click.UsageError("--load names a load of a plan: give --plan FILE, or what is to be sent as options")
        return tuple(with_limits((), point) for point in LoadSpec.model_validate(given).points("load"))
    if given:
        flag = next(iter(given)).replace("_", "-")
        raise click.UsageError(f"--{flag}: the plan says what is sent; choose from it with --load")
    points = plan.load_points()
    known = list(dict.fromkeys([*(point.load for point in points), *(point.name for point in points)]))
    for name in options["loads"]:
        if name not in known:
            raise click.UsageError(f"--load: {options['plan']} has no load {name!r}{did_you_mean(name, known)}")
    return tuple(point for point in points if {point.name, point.load} & set(options["loads"] or known))


def _measured(
    pair: Duet, points: Sequence[LoadPoint], margins: Mapping[str, float], runs: int | None, folder: RunFolder
) -> list[Verdict | None]:
    """The points' verdicts; None where the numbers are not to be trusted. Raises what ended a measurement early."""
    gpus, judge = visible_gpus(), Judge(Path())
    tests = [_planned(pair, point, margins, runs) for point in points]
    for planned in tests:
        judge.expect(planned.test, planned.point, margins, planned.gates)
    campaign = Campaign(
        Program({planned.test: planned for planned in tests}),
        folder,
        gpus,
        doubt=lambda planned, result: judge.doubt(planned.test, result, planned.gates),
        live=stderr_line(),
    )
    with start_server(pair, folder.log_dir(), gpus, loads=points) as server:
        results = [run(campaign.result(planned, server)) for planned in tests]
    return [_judged(planned, result, judge, folder) for planned, result in zip(tests, results, strict=True)]


def _planned(pair: Duet, point: LoadPoint, margins: Mapping[str, float], runs: int | None) -> PlannedTest:
    name = f"{pair.name}-{point.name}"
    first = point.first_runs(runs, DUET.baseline_runs)
    return PlannedTest(name, name, pair.name, pair, point, first, point.workers, "never", _GATES, margins)


def _judged(planned: PlannedTest, result: Result, judge: Judge, folder: RunFolder) -> Verdict | None:
    """The verdict, noted in the folder and printed."""
    if why := result.incomparable or judge.failed_requests(result):  # a server is fast while it refuses
        judge.settle(planned.test)
        problem = "INVALID" if result.incomparable else "too many requests failed"
        lines = [f"{planned.point_id}: {problem}, so nothing can be said about it", *why]
        folder.note(planned.test, planned.point_id, passed=False, error=lines[0])
        say("\n  ".join(lines))
        return None
    regression = judge.regression(planned.test, result)
    passed = regression.verdict in ("PASS", "IMPROVED", "INCONCLUSIVE")
    folder.note(planned.test, planned.point_id, regression=regression, passed=passed, error=None)
    tables().print(duet_table(result, regression))
    notes = [f"note: {note}" for note in regression.notes]
    lines = [headline(planned.point_id, regression), *regression.sentences, *notes, *result.remarks]
    say("\n  ".join(lines))
    return regression.verdict
