"""Verdicts follow from estimates by rules that a slower candidate cannot profit from."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.gate.rules import DEFAULT, DUET, STRICT
from pytest_llmperf.gate.verdict import PerRun, PointVerdict, Series, holm, judge
from pytest_llmperf.metrics.stats.margins import duet, elsewhere, tolerance

ITL, TTFT_P99 = parse_quantity("itl_p50"), parse_quantity("ttft_p99")
SPREAD = (0.99, 1.0, 1.01)
BASELINE: PerRun = tuple(tuple(10 * SPREAD[(run + session) % 3] for run in range(3)) for session in range(5))
SHORT = replace(DEFAULT, most_runs=8)
"""A cap that leaves the tables readable."""
_ORDER = ("FAIL", "INCONCLUSIVE", "PASS", "IMPROVED")


def candidate(level: float, runs: int) -> PerRun:
    return (tuple(level * SPREAD[run % 3] for run in range(runs)),)


def series(now: PerRun, then: PerRun = BASELINE, quantity: Quantity = ITL, requests: int = 1000) -> Series:
    known = tolerance(quantity)
    count = sum(map(len, (*now, *then)))
    return Series(quantity, known.margin, known.prior, then, now, (requests,) * count)


def verdict_of(*gated: Series) -> PointVerdict:
    return judge({"point": gated}, SHORT)["point"]


@pytest.mark.parametrize(
    ("level", "runs", "verdict", "again"),
    [
        (10.0, 3, "PASS", False),
        (11.2, 3, "INCONCLUSIVE", True),
        (10.8, 4, "INCONCLUSIVE", True),
        (11.2, 5, "FAIL", False),
        (13.0, 3, "INCONCLUSIVE", True),
        (13.0, 4, "FAIL", False),
        (10.5, 3, "INCONCLUSIVE", True),
        (10.5, 8, "INCONCLUSIVE", False),
        (8.5, 3, "PASS", True),
        (8.5, 5, "IMPROVED", False),
        (10.0, 1, "INCONCLUSIVE", True),
        (15.0, 1, "INCONCLUSIVE", True),
    ],
)
def test_verdict_by_change_and_runs(level: float, runs: int, verdict: str, again: bool) -> None:
    found = verdict_of(series(candidate(level, runs)))
    assert (found.verdict, found.run_again) == (verdict, again)


@pytest.mark.parametrize(
    ("level", "runs", "sentence"),
    [
        (
            10.0,
            3,
            "+0.0 %, with 95 % confidence not beyond +2.0 %, 5 % tolerated; the smallest change that would have failed "
            "is +8.7 %",
        ),
        (11.2, 5, "+11.8 %, with 98 % confidence beyond +9.3 %, 5 % tolerated"),
        (11.2, 3, "+12.0 %, with 98 % confidence beyond +9.2 %, which 2 runs more must confirm"),
        (8.5, 3, "which 2 runs more will confirm"),
        (8.5, 5, "the baseline is stale, accept the new level with --llmperf-accept"),
        (10.0, 1, "1 run decides nothing: 3 are needed"),
        (10.0, 2, "2 runs decide nothing: 3 are needed"),
        (10.5, 4, "as surely as a verdict asks for, 5 % tolerated, 4 runs; another run may tell"),
        (10.5, 8, "Neither 10 more sessions nor 8 times the requests per run would decide it"),
    ],
)
def test_a_verdict_says_why(level: float, runs: int, sentence: str) -> None:
    assert sentence in verdict_of(series(candidate(level, runs))).metrics[0].reason


levels = st.floats(5.0, 20.0)


@given(
    st.lists(st.floats(9.0, 11.0), min_size=3, max_size=8),
    st.lists(st.floats(0.5, 2.0), min_size=2, max_size=4),
    st.floats(1.0, 1.5),
    st.booleans(),
)
def test_a_slower_candidate_never_gets_a_better_verdict(
    runs: list[float], others: list[float], factor: float, strict: bool
) -> None:
    """One metric is slowed by a factor while the session's others stay as they are."""
    rest = [series(((*(level * 10 for _ in range(len(runs))),),)) for level in others]
    rules = STRICT if strict else DEFAULT

    def judged(scale: float) -> tuple[int, int]:
        slowed = series((tuple(value * scale for value in runs),))
        found = judge({"slowed": [slowed], "rest": rest, "both": [slowed, *rest]}, rules)
        return _ORDER.index(found["slowed"].verdict), _ORDER.index(found["both"].metrics[0].verdict)

    before, after = judged(1.0), judged(factor)
    assert after[0] <= before[0]
    assert after[1] <= before[1]


@given(st.lists(st.floats(5.0, 20.0), min_size=5, max_size=5), st.integers(0, 4), st.floats(1.0, 1.5))
def test_a_point_does_not_profit_from_one_slower_metric(levels: list[float], slower: int, factor: float) -> None:
    before = [series(candidate(level, 5)) for level in levels]
    after = [series(candidate(v * factor if n == slower else v, 5)) for n, v in enumerate(levels)]
    assert _ORDER.index(verdict_of(*after).verdict) <= _ORDER.index(verdict_of(*before).verdict)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.2))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float], alpha: float) -> None:
    """By definition: rejected when every intersection that holds it is rejected by Bonferroni's test."""
    places = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(places, size)]
    brute = [all(min(p_values[p] for p in s) <= alpha / len(s) for s in subsets if n in s) for n in places]
    assert list(holm(p_values, alpha)) == brute


def test_holm_of_nothing() -> None:
    assert holm([], 0.05) == ()


def test_a_failure_must_be_no_accident_among_all_metrics_of_the_session() -> None:
    suspect = replace(series(((10.2, 10.3, 10.2, 10.3, 10.3),)), margin=0.001)
    alone = verdict_of(suspect)
    assert alone.metrics[0].estimate is not None
    assert 0.005 < alone.metrics[0].estimate.p_no_change < 0.05
    others = {f"p{number}": [series(candidate(10.0, 5))] for number in range(20)}
    found = judge({"suspect": [suspect], **others})["suspect"]
    assert alone.verdict == "FAIL"
    assert (found.verdict, found.run_again) == ("INCONCLUSIVE", True)
    assert "may be chance" in found.metrics[0].reason


def test_a_point_ends_with_its_first_confirmed_failure() -> None:
    found = verdict_of(series(candidate(12.0, 5)), series(candidate(10.5, 5)))
    assert [metric.verdict for metric in found.metrics] == ["FAIL", "INCONCLUSIVE"]
    assert not found.run_again


@pytest.mark.parametrize(
    ("then", "now", "verdict", "reason"),
    [
        ((), candidate(10.0, 3), "NO BASELINE", "there is no baseline"),
        (((10.0, 10.0, 10.0),), candidate(10.0, 3), "NO BASELINE", "holds 3 runs, 5 are needed"),
        (((10.0, None, 10.0, 10.0, 10.0),), candidate(10.0, 3), "NO BASELINE", "holds None"),
        (((10.0, 10.0, math.nan, 10.0, 10.0),), candidate(10.0, 3), "NO BASELINE", "holds nan"),
        (((0.0,) * 5,), candidate(10.0, 3), "NO BASELINE", "holds 0.0"),
        (BASELINE, ((None, None, None),), "FAIL", "the baseline has a value, this session has none"),
        (BASELINE, ((),), "FAIL", "the baseline has a value, this session has none"),
        (BASELINE, ((10.0, None, 10.0),), "FAIL", "run 2 of 3 gave None"),
        (BASELINE, ((10.0, 10.0, math.nan),), "FAIL", "run 3 of 3 gave nan"),
        (BASELINE, ((10.0, math.inf, 10.0),), "FAIL", "run 2 of 3 gave inf"),
        (BASELINE, ((0.0, 0.0, 0.0),), "FAIL", "run 1 of 3 gave 0.0"),
        (((None,) * 5,), ((None,) * 3,), "NOT GATED", "neither the baseline nor this session"),
    ],
)
def test_what_cannot_be_compared_never_passes(then: PerRun, now: PerRun, verdict: str, reason: str) -> None:
    found = verdict_of(series(now, then))
    assert found.verdict == verdict
    assert reason in found.metrics[0].reason
    assert not found.run_again


def test_a_metric_that_vanished_outweighs_those_that_pass() -> None:
    assert verdict_of(series(candidate(10.0, 3)), series(((None,) * 3,))).verdict == "FAIL"
    assert verdict_of(series(candidate(10.0, 3)), series(candidate(10.0, 3), ())).verdict == "NO BASELINE"


def test_a_metric_without_baseline_does_not_hide_a_suspected_failure() -> None:
    unknown = series(candidate(10.0, 3), ())
    assert verdict_of(series(candidate(11.2, 3)), unknown).run_again
    assert verdict_of(series(candidate(11.2, 5)), series(candidate(10.0, 5), ())).verdict == "FAIL"


def test_percentiles_need_requests() -> None:
    few = verdict_of(series(candidate(30.0, 5), quantity=TTFT_P99, requests=150))
    assert few.verdict == "NOT GATED"
    assert "p99 needs 200 requests per run, there were 150" in few.metrics[0].reason
    pair = series(((30.0,),), ((10.0,),), TTFT_P99, requests=220)
    short = judge({"point": [pair]}, replace(DUET, baseline_runs=1))["point"].metrics[0]
    assert "p99 needs 1000 requests over all runs, there were 440" in short.reason
    enough = verdict_of(series(candidate(30.0, 5), quantity=TTFT_P99, requests=200))
    assert enough.verdict == "FAIL"


def test_too_noisy_names_the_level_and_the_cure() -> None:
    wild = ((8.0, 13.0, 9.0, 12.0, 7.5, 13.5, 10.0, 11.0),)
    runs = verdict_of(series(wild)).metrics[0]
    assert (runs.verdict, runs.too_noisy) == ("INCONCLUSIVE", "runs")
    assert "; the smallest change that would have failed is +" in runs.reason
    assert re.search(r"The interval is 9\d % noise between runs \(which differ by 1\d\.\d+ %\)", runs.reason)
    launches = tuple((level,) * 3 for level in (8.0, 12.0, 9.0, 11.0, 10.0))
    sessions = verdict_of(series(((10.0,) * 8,), launches)).metrics[0]
    assert (sessions.verdict, sessions.too_noisy) == ("INCONCLUSIVE", "sessions")
    assert "the 5 sessions of the baseline (sessions differ by 1" in sessions.reason
    assert "this session's 1 launch of the server" in sessions.reason


QUIET = (1.0, 0.999, 1.001, 1.0, 0.999, 1.001, 1.0, 1.0)


def recorded(sessions: int) -> PerRun:
    return tuple(tuple(10 * QUIET[run] for run in range(5 if not session else 3)) for session in range(sessions))


def test_a_baseline_of_one_session_is_named_as_the_cause_and_more_sessions_as_the_cure() -> None:
    """The advice holds: with as many sessions as it names, the same change fails."""
    now = (tuple(10.8 * factor for factor in QUIET),)
    found = verdict_of(series(now, recorded(1))).metrics[0]
    assert found.verdict == "INCONCLUSIVE"
    assert "43 % the 1 session of the baseline (sessions are assumed to differ by 1 %)" in found.reason
    assert "43 % this session's 1 launch of the server" in found.reason
    assert "quieter machine" not in found.reason
    assert "a duet of both servers, 8 runs of each" in found.reason
    assert "a launch of the server for each of the 8 runs (--llmperf-relaunch=always)" in found.reason
    more = re.search(r"(\d+) more sessions? of the old state in the baseline", found.reason)
    assert more is not None
    assert verdict_of(series(now, recorded(1 + int(more[1])))).verdict == "FAIL"
    assert verdict_of(series(now, recorded(int(more[1])))).verdict == "INCONCLUSIVE"
    assert verdict_of(series(tuple((run,) for run in now[0]), recorded(1))).verdict == "FAIL"


def test_a_duet_in_doubt_is_told_of_no_baseline() -> None:
    wild = ((8.0, 13.0, 9.0, 12.0, 7.5, 13.5, 10.0, 11.0),)
    pair = replace(series(wild, wild), prior=duet(tolerance(ITL).prior), reference="duet")
    reason = judge({"point": [pair]}, replace(DUET, most_runs=8))["point"].metrics[0].reason
    assert "baseline" not in reason
    assert reason.endswith(
        "Not even 8 times the requests per run would decide it: the change is too near to what is "
        "tolerated for this noise"
    )


@pytest.mark.parametrize(
    ("name", "level", "sentence"),
    [
        ("itl_p50", 13.0, "+30.0 %, with 98 % confidence beyond +27"),
        ("output_token_throughput", 7.337, "-26.6 %, with 98 % confidence beyond -25.1 %"),
    ],
)
def test_a_change_is_that_of_the_value_with_its_sign(name: str, level: float, sentence: str) -> None:
    now = (tuple(level * factor for factor in QUIET[:5]),)
    found = verdict_of(series(now, recorded(5), parse_quantity(name))).metrics[0]
    assert found.verdict == "FAIL"
    assert sentence in found.reason


def test_the_smallest_change_of_a_throughput_is_a_fall() -> None:
    found = verdict_of(series(recorded(1), recorded(5), parse_quantity("output_token_throughput"))).metrics[0]
    assert re.search(r"the smallest change that would have failed is -[789]\.\d %", found.reason)


def test_relaunch_is_asked_for_where_launches_differ_more_than_runs() -> None:
    launches = tuple((level,) * 3 for level in (9.5, 10.5, 9.6, 10.4, 10.0))
    assert verdict_of(series(((10.0,) * 3,), launches)).relaunch
    assert not verdict_of(series(candidate(10.5, 3))).relaunch


def test_relaunch_is_asked_for_once_further_runs_of_a_launch_tell_less() -> None:
    assert [verdict_of(series(candidate(10.5, runs))).relaunch for runs in (3, 4, 6)] == [False, True, True]


def test_another_machine_doubts_more_and_a_duet_less() -> None:
    usual = series(candidate(10.0, 3), ((10.0, 10.1, 9.9, 10.0, 10.0),))
    estimates = [
        verdict_of(replace(usual, prior=prior)).metrics[0].estimate
        for prior in (duet(usual.prior), usual.prior, elsewhere(usual.prior))
    ]
    errors = [estimate.standard_error for estimate in estimates if estimate]
    assert errors == sorted(set(errors))
    assert estimates[2] is not None
    assert estimates[2].session_sd == 2 * usual.prior.session_sd


def test_a_duet_needs_no_more_runs_than_it_has() -> None:
    pair = replace(series(candidate(10.0, 3), candidate(10.0, 3)), prior=duet(tolerance(ITL).prior), reference="duet")
    assert judge({"point": [pair]}, DUET)["point"].verdict == "PASS"


def test_nothing_gated_is_not_a_pass() -> None:
    assert verdict_of().verdict == "NOT GATED"
