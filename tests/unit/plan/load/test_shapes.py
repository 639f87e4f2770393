"""Shapes of a load in a plan: what goes together, what a mistake is told, what a point then holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import load_plan, parse_plan
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.runner.describe import describe_load

STAGES = "stages: [{concurrency: 1, duration: 2 s}, {concurrency: 4, duration: 3 s}]"
TRACE = "trace: {file: t.csv, format: azure}"


def points(load: str) -> tuple[LoadPoint, ...]:
    return parse_plan(plan_text(loads=f"  s: {{{load}}}"), "plan.yaml").load_points()


@pytest.mark.parametrize(
    ("load", "text"),
    [
        ("input_tokens: 8, concurrency: 2, duration: 30 s", "concurrency 2, 8 tokens in, 128 out, 3 runs: about 90 s"),
        (
            "input_tokens: 8, request_rate: 20, arrival: gamma, burstiness: 0.5, requests: 40, max_in_flight: 9",
            "20 req/s gamma, 8 tokens in, 128 out, 3 runs x 40 requests: about 6 s",
        ),
        (
            "input_tokens: 8, request_rate: 20, duration: 5 s, ramp: {from: 2, over: 10 s, shape: exponential}",
            "20 req/s constant after a ramp from 2, 8 tokens in, 128 out, 3 runs: about 45 s",
        ),
        (
            "input_tokens: 8, concurrency: 4, requests: 9, ramp: {from: 1, over: 2 s}",
            "concurrency 4 after a ramp from 1, 8 tokens in, 128 out, 3 runs x 9 requests: as long as the server takes",
        ),
        (f"input_tokens: 8, {STAGES}", "stages of concurrency 1 → 4, 8 tokens in, 128 out, 3 runs: about 15 s"),
        (
            "input_tokens: 8, arrival: poisson, stages: [{request_rate: 2.5, duration: 2 s}]",
            "stages of 2.5 req/s poisson, 8 tokens in, 128 out, 3 runs: about 6 s",
        ),
        (
            "input_tokens: 8, request_rate: 1, requests: 2, endpoint: completions, batch_size: 4",
            "1 req/s constant, 8 tokens in, 128 out, 4 prompts a request, 3 runs x 2 requests: about 6 s",
        ),
    ],
)
def test_a_shape_and_its_words(load: str, text: str) -> None:
    (point,) = points(load)
    assert describe_load(point, 3) == text


def test_a_replay_is_as_long_as_its_trace(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,9,9\n2024-01-01 00:00:02.5,9,9\n")
    (point,) = points(f"trace: {{file: {trace}, format: azure, time_scale: 2}}, max_in_flight: 8")
    assert describe_load(point, 3) == "replay of t.csv, lengths of the trace, 3 runs: about 15 s"


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("input_tokens: 8, requests: 9", "or else `stages`, `trace` or `capacity`; given: none of them"),
        (f"input_tokens: 8, concurrency: 2, requests: 9, {TRACE}", "given: concurrency, trace"),
        ("input_tokens: 8, concurrency: 2, requests: 9, duration: 1 s", "by `duration`; both are given"),
        ("input_tokens: 8, concurrency: 2", "'requests' is missing; a load is bounded by `requests: 100` or by"),
        (
            f"input_tokens: 8, {TRACE}",
            "input_tokens: has no place beside `trace`, whose file has due times and lengths",
        ),
        (f"arrival: poisson, {TRACE}", "arrival: has no place beside `trace`, whose file has due times and lengths"),
        (f"input_tokens: 8, duration: 9 s, {STAGES}", "duration: has no place beside `stages`"),
        (STAGES, "either `input_tokens` (synthetic"),
        ("input_tokens: 8, stages: []", "stages: at least one is needed"),
        (
            "input_tokens: 8, stages: [{concurrency: 1, duration: 2 s}, {request_rate: 1, duration: 2 s}]",
            "stages: all have `request_rate`, or all have `concurrency`",
        ),
        ("input_tokens: 8, stages: [{duration: 2 s}]", "a stage has either `request_rate` or `concurrency`"),
        ("input_tokens: 8, stages: [{rate: 2, duration: 2 s}]", "unknown key 'rate'"),
        ("input_tokens: 8, request_rate: 2, requests: 9, burstiness: 2", "needs `arrival: gamma`, not constant"),
        ("input_tokens: 8, request_rate: 2, requests: 9, arrival: gamma, burstiness: 0", "greater than 0, given 0"),
        ("input_tokens: 8, concurrency: 2, requests: 9, arrival: gamma", "arrival: gamma needs `request_rate`"),
        (f"input_tokens: 8, {STAGES}, max_in_flight: 2", "max_in_flight: needs an open loop"),
        ("input_tokens: 8, concurrency: 2, requests: 9, batch_size: 2", "batch_size: needs `endpoint: completions`"),
        ("input_tokens: 8, request_rate: 2, requests: 9, ramp: {from: 2, over: 1 s}", "which is where it would end"),
        ("input_tokens: 8, request_rate: 2, requests: 9, ramp: {form: 1, over: 1 s}", "did you mean 'from'?"),
        ("input_tokens: 8, request_rate: 2, requests: 9, ramp: {from: 1, to: 9, over: 1 s}", "unknown key 'to'"),
        ("input_tokens: 8, concurrency: 2, requests: 9, ramp: {from: 1.5, over: 1 s}", "a whole number is needed"),
        ("input_tokens: 8, concurrency: 2, requests: 9, cancel: {share: 1.5, after: 1 s}", "1.5 is not a share"),
        ("input_tokens: 8, concurrency: 2, requests: 9, cancel: {share: 0.5}", "'after' is missing"),
        ("trace: {file: t, format: csv}", "must be 'mooncake', 'burstgpt' or 'azure', given 'csv'"),
        ("trace: {file: t, format: azure, time_scale: 0}", "must be greater than 0, given 0"),
        ("input_tokens: 8, concurrency: 2, requests: 9, connection: new", "must be 'keep-alive' or 'fresh'"),
    ],
)
def test_a_mistake(load: str, message: str) -> None:
    with pytest.raises(PlanError, match=r"^plan\.yaml:5: loads\.s") as error:
        points(load)
    assert message in str(error.value)


def test_batch_size_is_an_axis() -> None:
    found = points("input_tokens: 8, concurrency: 1, requests: 2, endpoint: completions, batch_size: {sweep: '1:8'}")
    assert [point.name for point in found] == ["s-b1", "s-b2", "s-b4", "s-b8"]
    assert [point.batch_size for point in found] == [1, 2, 4, 8]


def test_a_shape_as_data_has_the_plans_own_keys() -> None:
    (point,) = points("input_tokens: 8, request_rate: 2, requests: 9, ramp: {from: 1, over: 1 s}")
    assert point.as_dict()["ramp"] == {"from": 1.0, "over": 1.0, "shape": "linear"}


@pytest.fixture
def plan_with_trace(tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(plan_text(loads=f"  s: {{{TRACE}}}"))
    return tmp_path / "plan.yaml"


def test_a_trace_lies_beside_its_plan(plan_with_trace: Path) -> None:
    trace = plan_with_trace.with_name("t.csv")
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n")
    (point,) = load_plan(plan_with_trace).load_points()
    assert point.trace is not None
    assert point.trace.file == str(trace)


def test_a_damaged_trace_is_told_with_the_plan(plan_with_trace: Path) -> None:
    trace = plan_with_trace.with_name("t.csv")
    with pytest.raises(PlanError, match=r"plan\.yaml:5: loads\.s\.trace: .*t\.csv: cannot read the trace: "):
        load_plan(plan_with_trace)
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n")
    with pytest.raises(PlanError, match=r't\.csv:2: TIMESTAMP: "yesterday" is not a date and time'):
        load_plan(plan_with_trace)
