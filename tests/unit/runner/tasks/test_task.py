"""The task of a point on a real server: how long its runs are, what they took, and what is taken over of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_llmperf.load.event_loop import run
from pytest_llmperf.metrics.stats.margins import default_margins
from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.runner.resumed import keep_point, read_resumed
from pytest_llmperf.runner.tasks.task import Task
from pytest_llmperf.servers.start import start_server

PLAN = """
model: embedded
servers: {one: {engine: embedded, args: {step: modelled, decode-ms-per-step: 1}}}
loads:
  open: {prompts: {file: prompts.jsonl}, output_tokens: 2, concurrency: 2, requests: auto, warmup: off}
"""


@pytest.fixture
def planned(tmp_path, any_machine):
    (tmp_path / "plan.yaml").write_text(PLAN)
    lines = [json.dumps({"input": f"Say {number}.", "output": "So."}) for number in range(200)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    plan = load_plan(tmp_path / "plan.yaml")
    (point,) = plan.load_points()
    return PlannedTest("t", "one-open", "t", plan.server("one"), point, 1)


@pytest.fixture
def measured(planned, tmp_path):
    """A task with one run more than `earlier`, and its folder."""

    def made(**options):
        folder = RunFolder(tmp_path / "out")
        with start_server(planned.server, tmp_path / "log", ()) as server:
            task = Task(planned, server, folder, (), stored_requests=lambda *_: 12, **options)
            run(task.run(Live()))
            assert task.error is None
            return task, folder

    return made


def test_an_open_length_that_was_decided_is_resumed(measured, planned):
    task, folder = measured()
    assert task.result().load.requests == 12
    keep_point(task, folder)
    resumed = read_resumed(folder, {"t": planned}, (), lambda test, result: 1)
    assert (list(resumed.points), resumed.notes) == (["t"], ())


@pytest.mark.parametrize(("stored", "resumed"), [(12, True), (None, True), (20, False)])
def test_an_open_length_that_is_not_its_baselines_is_measured_again(measured, planned, stored, resumed):
    task, folder = measured()
    keep_point(task, folder)
    gated = replace(planned, gates=frozenset({"baseline"}))
    found = read_resumed(folder, {"t": gated}, (), lambda test, result: 1, lambda test, result: stored)
    assert bool(found.points) == resumed
    why = "one-open is measured again, not resumed: its runs have 12 requests, and those of its baseline 20"
    assert found.notes == (() if resumed else (why,))


def test_runs_of_an_earlier_session_took_no_time_of_this_one(measured):
    (first,) = measured()[0].result().runs
    task, _ = measured(earlier=[first] * 99)
    last = task.result().runs[-1]
    assert (last.index, len(last.measured)) == (99, 12)
    assert task.run_seconds > 0.9 * (last.ended_ns - last.started_ns) / 1e9


@pytest.mark.parametrize(("sessions", "own"), [(99.0, None), (50.0, 99.0)])
def test_an_open_length_is_decided_by_the_margins_that_the_test_is_judged_by(planned, tmp_path, sessions, own):
    names = list(map(str, default_margins(open_loop=False)))
    planned = replace(planned, margins=dict.fromkeys(names, own) if own else {})
    with start_server(planned.server, tmp_path / "log", ()) as server:
        folder = RunFolder(tmp_path / "out")
        task = Task(planned, server, folder, (), margins=dict.fromkeys(names, sessions))
        run(task.run(Live()))
    assert task.error is None
    (first,) = task.result().runs
    (told,) = (note for note in first.notes if "requests per run" in note)
    assert told.startswith("100 requests per run: ")
    assert told.endswith("a third of its margin is 3300.0%")
