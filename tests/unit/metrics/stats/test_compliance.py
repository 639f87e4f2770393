"""Limits are met, broken, or not known; what was not measured meets none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.metrics.stats import compliance
from pytest_llmperf.metrics.stats.compliance import Compliance, LimitRun, SlaCheck, beyond, share_bounds
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.units import parse_limit


def limit(name: str, text: str) -> Limit:
    quantity = parse_quantity(name)
    op, value = parse_limit(quantity.unit, text)
    return Limit(metric=quantity.metric, stat=quantity.stat, op=op, value=value)


def counted(*over: int, n: int = 1000, value: float = 90.0) -> list[LimitRun]:
    return [LimitRun(value, n, count) for count in over]


P99 = limit("ttft_p99", "<= 100 ms")


def judge_limit(wanted: Limit, runs: Sequence[LimitRun]) -> SlaCheck:
    return compliance.judge_limit(wanted, runs, most_runs=8)


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        (counted(1, 2, 1), "PASS"),
        (counted(0, 0, 0), "PASS"),
        (counted(8, 10, 9), "INCONCLUSIVE"),
        (counted(30, 25, 28), "FAIL"),
        (counted(1000, 1000), "FAIL"),
        (counted(0, 0, 0, n=100), "INCONCLUSIVE"),
        (counted(0, 0, 60), "INCONCLUSIVE"),
    ],
)
def test_percentile_by_the_share_beyond_its_limit(runs: list[LimitRun], verdict: Compliance) -> None:
    found = judge_limit(P99, runs)
    assert (found.verdict, found.verified) == (verdict, True)
    assert "1.00% allowed" in found.reason


def test_bounds_are_clopper_and_pearsons_with_half_the_requests() -> None:
    """Runs that agree: the design effect is its least, 2."""
    lower, upper = share_bounds([10, 10], [1000, 1000])
    assert lower == pytest.approx(stats.beta.ppf(0.05, 10, 991))
    assert upper == pytest.approx(stats.beta.ppf(0.95, 11, 990))
    assert share_bounds([0, 0], [300, 300])[0] == 0.0
    assert share_bounds([300, 300], [300, 300])[1] == 1.0


def test_runs_that_disagree_count_for_fewer_requests() -> None:
    agreeing, disagreeing = share_bounds([20, 20, 20], [1000] * 3), share_bounds([0, 10, 50], [1000] * 3)
    assert disagreeing[0] < agreeing[0]
    assert disagreeing[1] > agreeing[1]


def test_a_limit_at_the_truth_is_seldom_certified() -> None:
    rng = np.random.default_rng(3)
    # Five runs of 500 requests; the share of each run varies around the allowed one.
    shares = 0.01 * np.exp(rng.normal(-0.02, 0.2, (600, 5)))
    passed = [share_bounds(rng.binomial(500, row).tolist(), [500] * 5)[1] <= 0.01 for row in shares]
    assert np.mean(passed) <= 0.05


@pytest.mark.parametrize(
    ("values", "name", "text", "verdict"),
    [
        ((90, 91, 89), "ttft_mean", "<= 100 ms", "PASS"),
        ((99, 100, 98), "ttft_mean", "<= 100 ms", "INCONCLUSIVE"),
        ((120, 121, 119), "ttft_p50", "<= 100 ms", "FAIL"),
        ((150, 151, 149), "output_token_throughput", ">= 140 tok/s", "PASS"),
        ((120, 121, 119), "output_token_throughput", ">= 140 tok/s", "FAIL"),
        ((139, 141, 140), "output_token_throughput", ">= 140 tok/s", "INCONCLUSIVE"),
    ],
)
def test_levels_have_the_interval_of_another_session(
    values: tuple[float, ...], name: str, text: str, verdict: Compliance
) -> None:
    found = judge_limit(limit(name, text), [LimitRun(value, 100) for value in values])
    assert (found.verdict, found.verified) == (verdict, True)
    assert found.reason.startswith("between ")


def test_shares_are_limited_by_counts() -> None:
    errors = limit("error_rate", "<= 5 %")
    assert judge_limit(errors, counted(0, 1, 0, n=200, value=0.0)).verdict == "PASS"
    assert judge_limit(errors, counted(30, 28, 33, n=200, value=0.15)).verdict == "FAIL"
    good = limit("goodput_share", ">= 90 %")
    assert judge_limit(good, counted(2, 3, 2, n=200, value=0.99)).verdict == "PASS"


def test_no_sample_certifies_that_there_are_no_errors() -> None:
    never = limit("error_rate", "<= 0 %")
    clean, broken = judge_limit(never, counted(0, 0, value=0.0)), judge_limit(never, counted(0, 1, value=0.001))
    assert (clean.verdict, clean.verified) == ("PASS", False)
    assert broken.verdict == "FAIL"


def test_one_run_is_compared_as_it_stands() -> None:
    found = judge_limit(P99, counted(1))
    assert (found.verdict, found.verified, found.reason) == ("PASS", False, "")
    assert judge_limit(P99, counted(20, value=101.0)).verdict == "FAIL"


def test_a_maximum_is_that_of_the_worst_run() -> None:
    found = judge_limit(limit("e2e_max", "<= 1 s"), [LimitRun(900.0, 9), LimitRun(1001.0, 9)])
    assert (found.verdict, found.verified) == ("FAIL", False)


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [LimitRun(None)],
        [LimitRun(50.0, 100, 0), LimitRun(None)],
        [LimitRun(math.nan, 100, 0)],
        [LimitRun(50.0, 100, 0), LimitRun(math.inf, 100, 0)],
    ],
)
def test_what_was_not_measured_meets_no_limit(runs: list[LimitRun]) -> None:
    found = judge_limit(P99, runs)
    assert (found.verdict, found.value) == ("FAIL", None)
    assert found.describe().startswith("ttft_p99: no value ")


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.0, 9.0, 9.0)])
def test_rate_of_nothing_breaks_its_limit(rates: tuple[float, ...]) -> None:
    found = judge_limit(limit("goodput", ">= 1 req/s"), list(map(LimitRun, rates)))
    assert found.verdict == "FAIL"


def test_runs_are_pooled_by_their_requests() -> None:
    """A search has no more than the facts of each run, and must find what `sla.check` finds."""
    wanted = limit("ttft_max", "<= 30 ms")
    found = judge_limit(wanted, [LimitRun(20.0, 2, 0, 0, (10.0, 20.0)), LimitRun(40.0, 1, 1, 0, (40.0,))])
    assert (found.value, found.n, found.verdict) == (40.0, 3, "FAIL")
    assert judge_limit(limit("ttft_p50", "<= 1 s"), [LimitRun(15.0, 2, 0, 0, (10.0, 20.0))] * 2).value == 15.0
    errors = [LimitRun(0.5, 2, 1), LimitRun(0.0, 98, 0)]
    assert judge_limit(limit("error_rate", "<= 5 %"), errors).value == pytest.approx(0.01)


def test_requests_without_a_value_are_told_whatever_the_verdict() -> None:
    for over, verdict in ((0, "PASS"), (9, "INCONCLUSIVE"), (300, "FAIL")):
        found = judge_limit(P99, [LimitRun(90.0, 1000, over, lacking=200)] * 3)
        assert found.verdict == verdict
        assert found.describe().endswith("; 600 of 3600 successful requests have no value")


def test_more_slow_requests_never_better() -> None:
    order = ("FAIL", "INCONCLUSIVE", "PASS")
    verdicts = [order.index(judge_limit(P99, counted(k, k, k)).verdict) for k in range(40)]
    assert verdicts == sorted(verdicts, reverse=True)
    assert set(verdicts) == {0, 1, 2}


def test_beyond_is_what_the_limit_excludes() -> None:
    assert [beyond(P99, value) for value in (99.0, 100.0, 101.0)] == [False, False, True]
