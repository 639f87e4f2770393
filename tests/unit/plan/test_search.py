"""The plan's `searches:`, and what a search makes of a server entry with sweeps."""

from __future__ import annotations

import pytest

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.server.engines.vllm import VllmServer
from pytest_llmperf.search.candidates import candidates, with_replicas

PLAN = """\
model: m
locked: {{dtype: half}}
servers:
  one: {{engine: vllm}}
  up: {{engine: openai, url: http://x:1, args: {{dtype: half, max-num-seqs: {{sweep: [1, 2]}}}}}}
  grid:
    engine: vllm
    args:
      max-num-seqs: {{sweep: [64, 8, 16]}}
      enforce-eager: {{sweep: [true, false]}}
loads:
  short: {{input_tokens: 8, concurrency: 2, requests: 20, sla: {{ttft_p99: "<= 1 s"}}}}
  long: {{input_tokens: 8, concurrency: {{sweep: [2, 4]}}, requests: 20}}
searches:
  best: {search}
"""


def plan(search: str = "{server: grid}"):
    return parse_plan(PLAN.format(search=search), "plan.yaml")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{server: gird}", "plan.yaml:15: searches.best.server: the plan has no server 'gird'; did you mean 'grid'?"),
        ("{server: one}", "'one' is one configuration; write `{sweep: ...}` at what is to be searched"),
        ("{server: up}", "'up' is up already: a search starts its configurations itself"),
        ("{server: grid, loads: shrot}", "searches.best.loads: the plan has no load 'shrot'; did you mean 'short'?"),
        ("{server: grid, objective: ttft}", "'ttft' needs a statistic, for example ttft_p99"),
        ("{server: grid, objective: error_rate}", "error_rate is nothing to search for; limit it in `constraints`"),
        ("{server: grid, objective: {itl_p50: 0}}", "a weight is a number above 0, not 0"),
        ("{server: grid, constraints: {itl_p50: 3}}", "3 is not a limit"),
        ("{server: grid, constraints: {gpu_memory: <= 40}}", "'<= 40' is not a limit of memory, such as '<= 40 GB'"),
        ("{server: grid, mode: quik}", "searches.best.mode"),
        ("{server: grid, runs: 4}", "runs: 4 is more than most_runs: 3"),
        ("{server: grid, trails: 4}", "unknown key 'trails'; did you mean 'trials'?"),
    ],
)
def test_mistakes_are_told_where_they_stand(search, message):
    with pytest.raises(PlanError) as told:
        plan(search)
    assert message in str(told.value)


def test_an_axis_over_an_argument_that_changes_output_is_refused():
    text = (
        PLAN.format(search="{server: grid}").replace("enforce-eager", "quantization").replace("[true, false]", "[a, b]")
    )
    with pytest.raises(
        PlanError, match=r"sets quantization, which changes what the model outputs.*`unlocked: \[\.\.\.\]`"
    ):
        parse_plan(text, "plan.yaml")
    allowed = text.replace("    args:\n", "    unlocked: [quantization]\n    args:\n")
    assert len(candidates(parse_plan(allowed, "plan.yaml"), "best", 8).space) == 6


def test_numbers_are_in_order_whatever_the_plan_writes():
    found = candidates(plan(), "best", 8)
    assert found.space.ordered == (True, False)
    assert [found.values((at, 0)) for at in range(3)] == [
        {"max-num-seqs": seqs, "enforce-eager": True} for seqs in (8, 16, 64)
    ]
    assert found.configs[(0, 1)].args == {"dtype": "half", "max-num-seqs": 8, "enforce-eager": False}


def test_constraints_stand_beside_the_loads_own_limits():
    found = candidates(plan('{server: grid, constraints: {ttft_p99: "<= 500 ms", gpu_memory: "<= 40 GiB"}}'), "best", 8)
    assert {load: [*map(str, limits)] for load, limits in found.goal.limits.items()} == {
        "short": ["ttft_p99 <= 1000 ms", "error_rate <= 0", "ttft_p99 <= 500 ms"],
        "long-c2": ["error_rate <= 0", "ttft_p99 <= 500 ms"],
        "long-c4": ["error_rate <= 0", "ttft_p99 <= 500 ms"],
    }
    assert str(found.goal.memory) == "gpu_memory <= 42.9497 GB"
    assert [point.name for point in candidates(plan("{server: grid, loads: short}"), "best", 8).points] == ["short"]


def test_a_limit_of_all_runs_together_is_refused():
    found = plan('{server: grid, loads: short, constraints: {output_agreement: ">= 95 %"}}')
    with pytest.raises(PlanError, match="output_agreement, a limit at short, is one of all runs together: take it"):
        candidates(found, "best", 8)


def test_a_plan_without_that_search():
    with pytest.raises(PlanError, match="the plan has no search 'bset'; did you mean 'best'"):
        candidates(plan(), "bset", 8)


@pytest.mark.parametrize(
    ("tp", "gpus", "given", "replicas"),
    [(1, 8, {}, 8), (2, 8, {}, 4), (3, 8, {}, 2), (8, 8, {}, 1), (8, 4, {}, 1), (2, 8, {"replicas": 1}, 1)],
)
def test_gpus_that_are_left_take_more_instances(tp, gpus, given, replicas):
    config = VllmServer(engine="vllm", args={"tensor-parallel-size": tp}, **given)
    assert with_replicas(config, gpus, auto=True).replicas == replicas
    assert with_replicas(config, gpus, auto=False).replicas == 1


def test_a_load_of_open_length_is_as_long_for_all_configurations():
    text = PLAN.format(search="{server: grid, loads: short}").replace("2, requests: 20", "2, requests: auto")
    (short,) = candidates(parse_plan(text, "plan.yaml"), "best", 8).points
    assert (short.length, short.requests) == (None, 100)
