"""The interval is right: against scipy where both must agree, and by simulation where only the truth can judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from pytest_llmperf.metrics.stats.estimate import Estimate, compare
from pytest_llmperf.metrics.stats.margins import Prior

PRIOR = Prior(run_sd=0.02, session_sd=0.01)
NO_PRIOR = Prior(run_sd=0.0, session_sd=0.0, weight=0.0)


def sessions(rng: np.random.Generator, sizes: list[int], session_sd: float, run_sd: float) -> list[list[float]]:
    """Random-effects data around 100: a factor per session, a factor per run."""
    return [(100 * np.exp(rng.normal(rng.normal(0, session_sd), run_sd, size))).tolist() for size in sizes]


def coverage(baseline: list[int], candidate: list[int], session_sd: float, run_sd: float, trials: int = 700) -> float:
    """Share of 95 % intervals that hold the truth, which is no change."""
    rng = np.random.default_rng(20261121)
    held = 0
    for _ in range(trials):
        sides = (sessions(rng, sizes, session_sd, run_sd) for sizes in (baseline, candidate))
        estimate = compare(*sides, PRIOR, "lower")
        held += estimate.bound(0.025) <= 0 <= estimate.bound(0.975)
    return held / trials


@pytest.mark.parametrize(("baseline", "candidate"), [([5], [5]), ([3] * 3, [3]), ([3] * 5, [3]), ([3] * 8, [8])])
@pytest.mark.parametrize(("session_sd", "run_sd"), [(0.0, 0.01), (0.005, 0.02), (0.01, 0.02), (0.01, 0.005)])
def test_interval_holds_the_truth_as_often_as_it_says(
    baseline: list[int], candidate: list[int], session_sd: float, run_sd: float
) -> None:
    # 700 trials: two standard errors of 95 % are 1.6 points, so a true 95 % may read 93.4 %.
    assert coverage(baseline, candidate, session_sd, run_sd) >= 0.934


def test_interval_of_uneven_launches() -> None:
    assert coverage([3] * 5, [3, 1, 1], 0.01, 0.02) >= 0.934


runs = st.lists(st.floats(1.0, 1e4), min_size=2, max_size=9)


@given(runs, runs)
def test_equals_students_t_without_priors(then: list[float], now: list[float]) -> None:
    logs = np.log(now), np.log(then)
    assume(min(map(np.var, logs)) > 1e-12)  # else scipy warns of cancellation, and there is nothing to agree with
    estimate = compare([then], [now], NO_PRIOR, "lower")
    expected = stats.ttest_ind(*logs, equal_var=True, alternative="greater")
    interval = stats.ttest_ind(*logs, equal_var=True).confidence_interval(0.9)
    assert estimate.df == expected.df
    assert estimate.log_ratio / estimate.standard_error == pytest.approx(expected.statistic, rel=1e-12, abs=1e-12)
    assert estimate.p_no_change == pytest.approx(expected.pvalue, rel=1e-12, abs=1e-12)
    assert estimate.bound(0.05) == pytest.approx(interval.low, rel=1e-12, abs=1e-12)
    assert estimate.bound(0.95) == pytest.approx(interval.high, rel=1e-12, abs=1e-12)


def test_few_sessions_are_assumed_to_differ_as_the_prior_says() -> None:
    """The formula by hand: two sessions of two runs, one candidate session of three."""
    estimate = compare([[100, 102], [101, 99]], [[104, 103, 105]], PRIOR, "lower")
    within = [np.log(session) for session in ([100, 102], [101, 99], [104, 103, 105])]
    squares = sum(float(((logs - logs.mean()) ** 2).sum()) for logs in within)
    variance = (4 * 0.02**2 + squares) / (4 + 4)
    assert estimate.run_sd == pytest.approx(math.sqrt(variance))
    assert estimate.session_sd == PRIOR.session_sd
    assert estimate.df == 8
    assert estimate.standard_error**2 == pytest.approx(variance * (1 / 4 + 1 / 3) + 0.01**2 * (1 + 1 / 2))


def test_five_sessions_show_how_far_they_differ() -> None:
    baseline = [[100 * factor] * 3 for factor in (0.94, 1.06, 0.95, 1.05, 1.0)]
    estimate = compare(baseline, [[100.0] * 3], PRIOR, "lower")
    spread = float(np.var(np.log([0.94, 1.06, 0.95, 1.05, 1.0]), ddof=1))
    expected = (4 * 0.01**2 + 4 * (spread - estimate.run_sd**2 / 3)) / 8
    assert estimate.session_sd == pytest.approx(math.sqrt(expected))
    assert estimate.session_sd > 0.03
    assert estimate.df < 12, "mostly that of five sessions"


def test_sessions_that_agree_keep_half_of_the_prior() -> None:
    estimate = compare([[100.0] * 3] * 30, [[100.0] * 3], PRIOR, "lower")
    assert estimate.session_sd == PRIOR.session_sd / 2


def test_relaunches_narrow_what_reruns_cannot() -> None:
    baseline = [[100 * factor] * 3 for factor in (0.94, 1.06, 0.95, 1.05, 1.0)]
    rerun = compare(baseline, [[100.0] * 8], PRIOR, "lower")
    relaunched = compare(baseline, [[100.0] * 3, [100.0], [100.0]], PRIOR, "lower")
    assert relaunched.standard_error < 0.8 * rerun.standard_error


def test_throughput_is_worse_when_it_falls() -> None:
    estimate = compare([[110.0] * 5], [[100.0] * 5], PRIOR, "higher")
    assert estimate.ratio == pytest.approx(1.1)


def test_smallest_detectable_change_is_detected_four_times_in_five() -> None:
    """At S < 5 the noise is assumed, so its power can be checked against the truth it assumes."""
    rng = np.random.default_rng(7)
    pairs = [(sessions(rng, [3] * 4, 0.01, 0.02), sessions(rng, [5], 0.01, 0.02)) for _ in range(600)]
    estimates = [compare(*pair, PRIOR, "lower") for pair in pairs]
    truth = math.log1p(float(np.median([e.detectable(0.05, alpha=0.05) for e in estimates])))
    failed = np.mean([e.bound(0.05) + truth > math.log1p(0.05) for e in estimates])
    assert failed == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_a_value_without_logarithm_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="no logarithm"):
        compare([[1.0, 2.0]], [[1.0, bad]], PRIOR, "lower")


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="no run"):
        compare([[]], [[1.0]], PRIOR, "lower")
    with pytest.raises(ValueError, match="nothing is known"):
        compare([[1.0]], [[1.0]], NO_PRIOR, "lower")


def test_one_run_has_the_interval_of_the_prior() -> None:
    estimate = compare([[100.0]], [[100.0]], PRIOR, "lower")
    assert estimate.df == PRIOR.weight
    assert estimate.bound(0.95) == pytest.approx(stats.t.ppf(0.95, 4) * math.sqrt(2 * 0.02**2 + 2 * 0.01**2))


def test_no_noise_at_all_is_certain() -> None:
    same = compare([[5.0] * 3], [[5.0] * 3], NO_PRIOR, "lower")
    slower = compare([[5.0] * 3], [[6.0] * 3], NO_PRIOR, "lower")
    assert same.p_no_change == 1.0
    assert slower.p_no_change < 1e-20
    assert slower.bound(0.05) == pytest.approx(slower.bound(0.95)) == pytest.approx(math.log(1.2))


@given(st.lists(runs, min_size=1, max_size=6), runs, st.floats(1.0, 3.0))
def test_slower_runs_move_the_interval_and_not_its_width(
    baseline: list[list[float]], now: list[float], factor: float
) -> None:
    before: Estimate = compare(baseline, [now], PRIOR, "lower")
    after = compare(baseline, [[value * factor for value in now]], PRIOR, "lower")
    assert after.log_ratio == pytest.approx(before.log_ratio + math.log(factor), abs=1e-9)
    assert after.standard_error == pytest.approx(before.standard_error, rel=1e-6)
