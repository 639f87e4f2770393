"""More runs of a point in doubt, on a real server: what a budget leaves of them."""

from __future__ import annotations

import pytest

from pytest_llmperf.gate.judge import Doubt
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.runner.campaign import Campaign
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

PLAN = """
model: embedded
servers: {one: {engine: embedded, args: {step: modelled, decode-ms-per-step: 1}}}
loads: {short: {input_tokens: 8, output_tokens: 2, concurrency: 2, requests: 4, warmup: off}}
"""


@pytest.mark.parametrize(
    ("relaunch", "budget_s", "launches"),
    [("auto", None, [1, 2]), ("auto", 1000.0, [1, 1]), ("always", 1000.0, [1]), ("auto", 1e9, [1, 2])],
)
def test_a_budget_that_has_no_time_for_a_launch_has_none(monkeypatch, tmp_path, relaunch, budget_s, launches):
    plan = parse_plan(PLAN, "plan.yaml")
    planned = PlannedTest("t", "one-short", "t", plan.server("one"), plan.load_points()[0], 1, relaunch=relaunch)
    doubts = iter([Doubt(("it is not decided",), relaunch=True)])
    monkeypatch.setattr(LlmServer, "relaunch_s", 1e6)  # as of a model that takes long to load
    with start_server(planned.server, tmp_path / "log", ()) as server:
        campaign = Campaign(
            Program({"t": planned}),
            RunFolder(tmp_path / "out"),
            (),
            doubt=lambda *_: next(doubts, Doubt()),
            budget_s=budget_s,
        )
        found = run(campaign.result(planned, server))
    assert [one.launch for one in found.runs] == launches


@pytest.mark.parametrize("resumable", [False, True])
def test_only_a_session_that_can_be_continued_keeps_its_points(tmp_path, resumable):
    """A command's folder would be taken for the newest session of pytest."""
    plan = parse_plan(PLAN, "plan.yaml")
    planned = PlannedTest("t", "one-short", "t", plan.server("one"), plan.load_points()[0], 1)
    with start_server(planned.server, tmp_path / "log", ()) as server:
        run(
            Campaign(Program({"t": planned}), RunFolder(tmp_path / "out"), (), resumable=resumable).result(
                planned, server
            )
        )
    assert len(list(tmp_path.glob("out/points/*"))) == resumable


def test_a_relaunch_is_expected_to_take_as_long_as_the_last_launch(tmp_path):
    with start_server(parse_plan(PLAN, "plan.yaml").server("one"), tmp_path, (), lazy=True) as server:
        assert server.relaunch_s > 0
