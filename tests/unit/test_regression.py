"""The verdict on a change: which are gated, by which margin, and what may never pass."""

from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from samples import failed, point, run, steady_run

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.gate.regression import DEFAULT_MARGINS, Regression, gated_margins, judge
from pytest_llmperf.metrics import summarize

ITL, TTFT, RATE = Quantity("itl", "p50"), Quantity("ttft", "p99"), Quantity("output_token_throughput")
GOODNESS = {"FAIL": 0, "PASS": 1, "IMPROVED": 2}
SLOWNESS = st.floats(0.05, 20.0)


@cache
def summary(slowness, requests):
    return summarize(steady_run(0, slowness, requests), point())


def summaries(*slowness, requests=20):
    return [summary(s, requests) for s in slowness]


def stored(*slowness, quantities=(ITL, TTFT, RATE), requests=20):
    return [{q: s.value(q) for q in quantities} for s in summaries(*slowness, requests=requests)]


def verdict(then, now, quantity=ITL, margin=0.05):
    (found,) = judge(then, now, {quantity: margin}).metrics
    return found


@pytest.mark.parametrize(
    ("slowness", "expected"),
    [
        (1.0, "PASS"),
        (1.04, "PASS"),
        (0.97, "PASS"),
        (1.06, "FAIL"),
        (3.0, "FAIL"),
        (0.94, "IMPROVED"),
        (0.3, "IMPROVED"),
    ],
)
@pytest.mark.parametrize("quantity", [ITL, RATE], ids=str)
def test_verdicts_by_the_margin_in_both_directions(slowness, expected, quantity):
    assert verdict(stored(1.0, 1.0), summaries(slowness, slowness), quantity).verdict == expected


@given(SLOWNESS, SLOWNESS, st.floats(0.01, 0.5), st.sampled_from([ITL, RATE]))
def test_a_slower_candidate_never_gets_a_better_verdict(one, other, margin, quantity):
    assume(one != other)
    faster, slower = (verdict(stored(1.0), summaries(s), quantity, margin).verdict for s in sorted((one, other)))
    assert GOODNESS[slower] <= GOODNESS[faster]


@given(SLOWNESS, st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_a_wider_margin_never_fails_what_a_narrower_one_passed(slowness, one, other):
    narrow, wide = (verdict(stored(1.0), summaries(slowness), ITL, m).verdict for m in sorted((one, other)))
    assert narrow == "FAIL" or wide != "FAIL"


@given(st.permutations([1.0, 1.1, 0.9, 1.2]))
def test_the_order_of_runs_does_not_matter(slowness):
    assert verdict(stored(*slowness), summaries(1.0)).ratio == pytest.approx(
        verdict(stored(1.0, 1.1, 0.9, 1.2), summaries(1.0)).ratio
    )


def test_runs_are_averaged_geometrically():
    found = verdict(stored(0.5, 2.0), summaries(1.0))
    assert found.baseline == pytest.approx(summaries(1.0)[0].value(ITL))
    assert (found.baseline_runs, found.runs) == (2, 1)


def test_a_description():
    assert verdict(stored(1.0, 1.0), summaries(1.5)).describe() == (
        "itl_p50: 14.5 ms, baseline 9.667 ms (+50.0%, margin 5%, 1 runs against 2): FAIL"
    )


def test_a_value_that_is_gone_fails():
    found = verdict(stored(1.0), [summarize(run([failed()] * 20), point())])
    assert (found.verdict, found.now) == ("FAIL", None)
    assert found.describe() == "itl_p50: FAIL: the baseline has a value, this run has none"


def test_one_run_without_a_value_is_not_averaged_away():
    found = verdict(stored(1.0), [*summaries(1.0), summarize(run([failed()] * 20), point())])
    assert (found.verdict, found.now) == ("FAIL", None)


@pytest.mark.parametrize("then", [[{ITL: None}], [{}], [], [{ITL: 9.5}, {ITL: None}], [{ITL: 0.0}], [{ITL: -1.0}]])
def test_a_baseline_without_a_usable_value_fails(then):
    found = verdict(then, summaries(1.0))
    assert found.verdict == "FAIL"
    assert "the baseline holds no usable value: renew it" in found.describe()


def test_what_neither_has_is_not_gated():
    found = verdict([{ITL: None}], [summarize(run([failed()]), point())])
    assert (found.verdict, found.reason) == ("NOT GATED", "neither the baseline nor this run has a value")


@pytest.mark.parametrize(("requests", "expected"), [(199, "NOT GATED"), (200, "FAIL")])
def test_a_percentile_of_too_few_requests_is_not_gated(requests, expected):
    found = verdict(stored(1.0, requests=requests), summaries(2.0, requests=requests), TTFT)
    assert found.verdict == expected
    if expected == "NOT GATED":
        assert found.describe().endswith("NOT GATED, p99 needs 200 requests per run, there were 199")


def test_the_point_fails_when_one_metric_does():
    assert judge(stored(1.0), summaries(2.0), {ITL: 0.05, RATE: 5.0}).verdict == "FAIL"
    assert judge(stored(1.0), summaries(1.0), {ITL: 0.05, TTFT: 0.05}).verdict == "PASS"
    assert judge(stored(1.0), summaries(0.5), {ITL: 0.05, RATE: 5.0}).verdict == "IMPROVED"
    assert Regression(()).verdict == "NOT GATED"


def test_margins_of_the_plan_and_the_defaults():
    found = gated_margins(point(), {"itl_p50": 0.5, "e2e_p50": 0.2})
    assert found[ITL] == 0.5
    assert found[Quantity("e2e", "p50")] == 0.2
    assert set(found) == {parse_quantity(name) for name in (*DEFAULT_MARGINS, "e2e_p50")}


def test_an_open_loops_throughput_is_what_was_offered():
    margins = dict.fromkeys(("request_throughput", "output_token_throughput_per_gpu", "goodput"), 0.1)
    found = {str(q) for q in gated_margins(point(request_rate=5), margins)}
    assert not {name for name in found if "throughput" in name}
    assert {"goodput", "itl_p50"} <= found
