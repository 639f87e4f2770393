"""What a search wants: scores of weights, limits, and who beats whom."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
from samples import point, record, result
from samples import run as sample_run

from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.metrics.stats.compliance import LimitRun, limit_run
from pytest_llmperf.metrics.summary import summarize
from pytest_llmperf.plan.limits import parse_limits
from pytest_llmperf.plan.search import MemoryLimit
from pytest_llmperf.search.strategy.goal import Goal
from pytest_llmperf.search.strategy.trial import RunFacts, Trial, parse_facts

RATE, TAIL = "output_token_throughput", "ttft_p99"


def goal(weights=None, limits=None, memory=None, loads=("chat",)) -> Goal:
    aims = {parse_quantity(name): weight for name, weight in (weights or {RATE: 1.0}).items()}
    return Goal(aims, {load: parse_limits(limits or {}) for load in loads}, memory)


def run(load="chat", launch=1, limits=None, memory=None, invalid=(), **values) -> RunFacts:
    found = {str(limit): LimitRun(values.get(str(limit.quantity)), 100) for limit in parse_limits(limits or {})}
    return RunFacts(load, launch, values, found, 100, 0, tuple(invalid), memory)


def trial(*runs: RunFacts, **facts) -> Trial:
    return Trial((0,), runs, **facts)


def test_weights_are_exponents_of_ratios():
    """Twice the throughput is worth four times the latency, at weights of 1 and 0.5."""
    wanted = goal({RATE: 1.0, TAIL: 0.5})
    slow, fast = (
        wanted.assess(trial(run(output_token_throughput=rate, ttft_p99=tail)))
        for rate, tail in ((100.0, 50.0), (200.0, 200.0))
    )
    assert slow.level
    assert fast.level
    assert fast.level.value == pytest.approx(slow.level.value)
    assert wanted.beats(slow, fast) is None


def test_a_score_is_the_geometric_mean_over_loads():
    wanted = goal(loads=("chat", "long"))
    found = wanted.assess(trial(run(output_token_throughput=100.0), run("long", output_token_throughput=400.0)))
    assert found.level
    assert found.level.value == pytest.approx(200.0)
    assert wanted.assess(trial(run(output_token_throughput=100.0))).level is None


def test_less_is_better_where_the_metric_says_so():
    wanted = goal({TAIL: 1.0})
    slow, fast = (wanted.assess(trial(run(ttft_p99=tail))) for tail in (100.0, 40.0))
    assert wanted.beats(fast, slow) is True
    assert wanted.beats(slow, fast) is False


def test_launches_that_differ_widen_the_interval():
    alike, apart = (
        goal().assess(trial(*(run(launch=n, output_token_throughput=rate) for n, rate in enumerate(rates))))
        for rates in ((100.0, 100.0, 100.0), (80.0, 100.0, 125.0))
    )
    assert alike.level
    assert apart.level
    assert apart.level.high > 1.1 * alike.level.high


@pytest.mark.parametrize(
    ("value", "standing", "clear"),
    [(50.0, "ok", True), (95.0, "ok", False), (105.0, "broken", False), (300.0, "broken", True)],
)
def test_a_limit_is_clear_when_noise_cannot_change_it(value, standing, clear):
    limits = {TAIL: "<= 100 ms"}
    found = goal(limits=limits).assess(trial(run(limits=limits, output_token_throughput=1.0, ttft_p99=value)))
    assert (found.standing, found.clear) == (standing, clear)


@pytest.mark.parametrize(
    ("failed", "standing", "clear"), [(0, "ok", False), (6, "broken", False), (50, "broken", True)]
)
def test_a_share_is_clear_by_the_number_of_its_requests(failed, standing, clear):
    limits = {"error_rate": "<= 5 %"}
    (limit,) = parse_limits(limits)
    facts = replace(run(output_token_throughput=1.0), limits={str(limit): LimitRun(failed / 100, 100, failed)})
    found = goal(limits=limits).assess(trial(facts))
    assert (found.standing, found.clear) == (standing, clear)


def test_a_check_says_by_how_much():
    limits = {TAIL: "<= 100 ms", "output_token_throughput": ">= 50 tok/s"}
    found = goal(limits=limits).assess(trial(run(limits=limits, output_token_throughput=40.0, ttft_p99=80.0)))
    assert [check.describe() for check in found.checks] == [
        "ttft_p99 80 ms at chat, limit <= 100 ms (20 % to spare)",
        "output_token_throughput 40 tok/s at chat, limit >= 50 tok/s (25 % beyond)",
    ]
    assert found.excess == pytest.approx(math.log(50 / 40))


def test_without_a_value_no_limit_is_kept():
    limits = {TAIL: "<= 100 ms"}
    found = goal(limits=limits).assess(trial(run(limits=limits, output_token_throughput=40.0)))
    assert found.standing == "broken"
    assert "without a value" in found.why


def test_a_percentile_is_that_of_all_requests_as_in_the_gate():
    """One of two runs breaks a limit that the requests of both together keep."""
    limits = {"ttft_p90": "<= 100 ms"}
    (limit,) = parse_limits(limits)
    samples = (tuple([10.0] * 17 + [150.0] * 3), (10.0,) * 20)
    found = [summarize(sample_run([record(0, [ttft, ttft + 1]) for ttft in times]), point()) for times in samples]
    facts = [
        replace(run(output_token_throughput=1.0), limits={str(limit): limit_run(limit, summary, {"ttft": times})})
        for summary, times in zip(found, samples, strict=True)
    ]
    (check,) = goal(limits=limits).assess(trial(*facts)).checks
    gate = check_sla([limit], result([sample_run([record(0, [t, t + 1]) for t in times]) for times in samples]), 3)
    assert (check.value, check.verdict) == (gate[0].value, gate[0].verdict) == (10.0, "INCONCLUSIVE")
    assert parse_facts(json.loads(json.dumps(facts[0].as_dict()))) == facts[0]


@pytest.mark.parametrize(
    ("memory", "standing", "why"),
    [
        (30.0, "ok", ""),
        (41.0, "broken", "gpu_memory 41 GB at chat, limit <= 40 GB (2 % beyond)"),
        (None, "broken", "gpu_memory without a value at chat, limit <= 40 GB"),
    ],
)
def test_gpu_memory_is_never_passed_without_a_value(memory, standing, why):
    wanted = goal(memory=MemoryLimit(gpu_memory_gb=40.0))
    found = wanted.assess(trial(run(memory=memory, output_token_throughput=1.0)))
    assert (found.standing, found.why) == (standing, why)


def test_standings_come_before_scores():
    limits = {TAIL: "<= 100 ms"}
    wanted = goal(limits=limits)
    kept = wanted.assess(trial(run(limits=limits, output_token_throughput=1.0, ttft_p99=10.0)))
    broken = wanted.assess(trial(run(limits=limits, output_token_throughput=99.0, ttft_p99=900.0)))
    invalid = wanted.assess(trial(run(limits=limits, output_token_throughput=99.0, ttft_p99=9.0, invalid=["slow"])))
    failed = wanted.assess(trial(error="died"))
    skipped = wanted.assess(trial(skipped="needs 8 GPUs, found 1"))
    order = [kept, broken, invalid, failed, skipped]
    assert [found.standing for found in order] == ["ok", "broken", "invalid", "failed", "skipped"]
    assert all(wanted.beats(better, worse) for better, worse in itertools.pairwise(order))
    assert sorted([failed, kept, skipped, broken, invalid], key=wanted.order) == order


def test_a_run_that_is_not_to_be_trusted_does_not_count_where_another_is():
    spoiled = run(output_token_throughput=999.0, invalid=["the client was the bottleneck"])
    found = goal().assess(trial(spoiled, run(output_token_throughput=100.0)))
    assert found.standing == "ok"
    assert found.level
    assert found.level.value == pytest.approx(100.0)


def test_facts_survive_json():
    facts = run(limits={TAIL: "<= 100 ms"}, output_token_throughput=1.5, ttft_p99=None, invalid=["a"], memory=3.0)
    assert parse_facts(facts.as_dict()) == facts


def test_a_percentile_that_too_many_requests_break_says_so():
    """The mean of the runs' p99 is kept, the share of requests beyond the limit is not."""
    (limit,) = parse_limits({TAIL: "<= 100 ms"})
    runs = [
        RunFacts("chat", n, {RATE: 1.0, TAIL: 98.0}, {str(limit): LimitRun(98.0, 1000, 40)}, 1000, 0) for n in (1, 2)
    ]
    found = goal(limits={TAIL: "<= 100 ms"}).assess(trial(*runs))
    assert found.standing == "broken"
    assert "(80 of 2000 requests were beyond the limit: a share of" in found.why
