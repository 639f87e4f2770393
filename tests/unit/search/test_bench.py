"""The bench of a search against real servers: what stays of a configuration when its server is launched anew."""

from __future__ import annotations

import json
from operator import attrgetter

import pytest

from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.search.bench import Bench
from pytest_llmperf.search.candidates import candidates
from pytest_llmperf.search.checkpoint import Checkpoint
from pytest_llmperf.search.strategy.trial import Trial

PLAN = """
model: embedded
servers: {grid: {engine: embedded, args: {step: modelled, decode-ms-per-step: {sweep: [1, 2]}}}}
sla: {e2e_p50: "<= 1 min"}
loads:
  chat: {warmup: off, input_tokens: 8, output_tokens: 2, concurrency: 2, requests: 4}
  most: {warmup: off, input_tokens: 8, output_tokens: 2, capacity: {concurrency: "1:2"}, requests: 4}
searches:
  best: {server: grid, loads: chat}
  carries: {server: grid, loads: most, objective: capacity_concurrency}
"""


@pytest.fixture
def bench(tmp_path, any_machine):
    """The bench of a search, by its name, with the lines that it shows."""

    def made(name):
        found = candidates(parse_plan(PLAN, "plan.yaml"), name, 0)
        shown = []
        made.folder = RunFolder(tmp_path / "out")
        one = Bench(
            name,
            found.configs,
            found.points,
            tuple(found.spec.aims),
            checkpoint=Checkpoint(tmp_path / "checkpoint.json", found.measured_as(), {}),
            session=made.folder,
            gpus=(),
            live=Live(shown.append, width=200),
            workers=attrgetter("workers"),
        )
        return one, shown

    return made


def outcome(bench, name="best[grid.decode_ms_per_step_1-chat]"):
    return bench.folder.outcomes[name]


def test_a_second_launch_goes_on_with_the_runs_of_the_first(bench, tmp_path):
    one, shown = bench("best")
    trial = one.run(Trial((0,)), 1, lambda so_far: None)
    again = one.run(trial, 2, lambda so_far: None)
    assert [run.launch for run in again.runs] == [1, 2]
    found = outcome(bench)
    assert [(run.index, run.launch) for run in found.result.runs] == [(0, 1), (1, 2)]
    assert (found.error, all(check.ok for check in found.sla)) == (None, True)
    (file,) = (tmp_path / "out" / "requests").iterdir()
    assert list(dict.fromkeys(json.loads(line)["run"] for line in file.read_text().splitlines())) == [1, 2]
    head = "llmperf search best: trial 1: "
    assert all(line.startswith(head) for line in shown)
    assert any(line.startswith(f"{head}grid.decode_ms_per_step_1-chat run 2/2, ") for line in shown)


def test_a_load_of_a_capacity_is_searched_at_every_configuration(bench):
    one, _ = bench("carries")
    (run,) = one.run(Trial((1,)), 1, lambda so_far: None).runs
    assert run.values["capacity_concurrency"] == 2.0
    assert outcome(bench, "carries[grid.decode_ms_per_step_2-most]").result.capacity.holds == 2
