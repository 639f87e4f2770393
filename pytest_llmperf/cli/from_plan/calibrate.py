"""`llmperf calibrate`: how long, how warm, how often and how exactly a plan's loads can be measured on its server."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from pytest_llmperf.boundary.files import read_text
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.cli.from_plan.advice import Advice, advise
from pytest_llmperf.cli.from_plan.edit import with_value
from pytest_llmperf.cli.input import PATH, PLAN, reported, say, stderr_line
from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import MissingRequirement, PlanError
from pytest_llmperf.gate.regression import gated_margins
from pytest_llmperf.gate.rules import DEFAULT
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.metrics.result import Result, make_result
from pytest_llmperf.plan.file import load_plan, parse_plan
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.campaign import Campaign
from pytest_llmperf.runner.outcomes import RunFolder, default_output
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.telemetry.gpu import visible_gpus
from pytest_llmperf.telemetry.replicas import on_this_machine

_LAUNCHES = 2


@click.command()
@click.argument("plan", type=PLAN)
@click.option("--server", "name", metavar="NAME", help="Server of the plan (default: its first)")
@click.option("--load", "loads", multiple=True, metavar="NAME", help="Load of the plan (default: all); repeatable")
@click.option("--output", type=PATH, help="Folder for report, requests and server logs")
def calibrate(plan: Path, name: str | None, loads: tuple[str, ...], output: Path | None) -> None:
    """Measure a server of PLAN on two launches, three runs each, and print as a diff what its plan should say.

    Recommended are lengths of runs, warm-up, first runs and margins with which an unchanged server is decided four
    times in five. The plan itself is left as it is.
    """
    folder = RunFolder(output or default_output(Path.cwd()))
    try:
        found = on_this_machine(load_plan(plan))
        config = found.server(name or found.server_names()[0])
        points = _points(found, loads)
    except (PlanError, MissingRequirement) as error:
        raise click.UsageError(str(error)) from error
    with reported(folder, None):
        folder.claim()
        results = _measured(config, points, folder)
    advice = {point.name: advise(one, gated_margins(point, point.margins)) for point, one in results.items()}
    for point, one in results.items():
        say(f"{one.point_id}: {_LAUNCHES} launches of {DEFAULT.first_runs} runs")
        say("\n".join(f"  {line}" for line in (*one.invalid_reasons, *advice[point.name].reasons)))
    say(foreign(_diff(plan, _changes(points, advice))))
    sys.exit(0 if folder.is_whole else 1)


def _points(plan: Plan, names: Sequence[str]) -> list[LoadPoint]:
    """The points of these loads, or of all. PlanError for an unknown name, and where none can be calibrated."""
    points = plan.load_points()
    for name in names:
        if name not in plan.loads:
            raise PlanError(f"--load: the plan has no load {name!r}{did_you_mean(name, list(plan.loads))}")
    chosen = [one for one in points if one.load in (names or plan.loads) and not (one.capacity or one.stability)]
    if not chosen:
        raise PlanError("there is no load to calibrate: `capacity` and `stability` say themselves how long they take")
    return chosen


def _measured(config: ServerConfig, points: Sequence[LoadPoint], folder: RunFolder) -> dict[LoadPoint, Result]:
    """The points' results over all launches; a server that is up already is measured as often and stays as it is."""
    gpus = visible_gpus()
    found: dict[LoadPoint, Result] = {}
    for launch in range(1, _LAUNCHES + 1):
        tests = {point: _planned(config, point, launch) for point in points}
        with start_server(config, folder.log_dir(), gpus, loads=points) as server:
            campaign = Campaign(Program({one.test: one for one in tests.values()}), folder, gpus, live=stderr_line())
            for point, planned in tests.items():
                result = run(campaign.result(planned, server))
                folder.note(planned.test, planned.point_id, error=None, passed=result.valid)
                found[point] = _joined(found.get(point), result, launch)
    return found


def _planned(config: ServerConfig, point: LoadPoint, launch: int) -> PlannedTest:
    name = f"{config.name}-{point.name}"
    test = f"calibrate[{name}]-launch{launch}"
    return PlannedTest(test, name, "calibrate", config, point, DEFAULT.first_runs, point.workers, "never")


def _joined(before: Result | None, result: Result, launch: int) -> Result:
    """One result of the runs of all launches so far."""
    earlier = before.runs if before else ()
    runs = [
        *earlier,
        *(replace(one, launch=launch, index=len(earlier) + place) for place, one in enumerate(result.runs)),
    ]
    return make_result(result.point_id, result.server, result.load, result.environment, runs)


def _changes(points: Sequence[LoadPoint], advice: Mapping[str, Advice]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys of the plan and their values; of a load's points, and of all margins, what asks for most."""
    for load in dict.fromkeys(point.load for point in points):
        of_load = [advice[point.name] for point in points if point.load == load]
        for key in dict.fromkeys(key for one in of_load for key in one.load):
            values = [one.load[key] for one in of_load if key in one.load]
            yield ("loads", load, key), max(values, key=lambda text: list(map(int, re.findall(r"\d+", text))))
    wide = [(quantity, margin) for one in advice.values() for quantity, margin in one.margins.items()]
    for quantity in dict.fromkeys(quantity for quantity, _ in wide):
        yield ("margins", str(quantity)), f"{max(m for q, m in wide if q == quantity):.0%}"
    runs = max(one.runs for one in advice.values())
    if runs > DEFAULT.first_runs:
        yield ("runs",), str(runs)


def _diff(path: Path, changes: Iterator[tuple[tuple[str, ...], str]]) -> str:
    """The plan as it should be against what it is, as a unified diff; what has no place in its text is said."""
    old = new = read_text(path, 16 << 20)
    unplaced = []
    for keys, value in changes:
        changed = with_value(new, keys, value)
        if changed is None or not _is_plan(changed, path):
            unplaced.append(f"set {'.'.join(keys)} to {value} yourself: the plan's text has another form there")
        else:
            new = changed
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), f"{path} (calibrated)", lineterm="")
    return "\n".join([*unplaced, *lines]) or f"{path} needs no change"


def _is_plan(text: str, path: Path) -> bool:
    try:
        parse_plan(text, str(path), path.parent)
    except PlanError:
        return False
    return True
