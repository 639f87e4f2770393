"""Steps of the history are found where they are, and noise is no step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pytest_llmperf.gate.baselines.trend import change_points


def history(levels: list[float], seed: int = 1, sd: float = 0.01) -> list[list[float]]:
    """Sessions of three runs; `sd` is that between sessions."""
    rng = np.random.default_rng(seed)
    return [
        [level * math.exp(shift) * (1 + run) for run in (-0.005, 0, 0.005)]
        for level, shift in _shifted(levels, rng, sd)
    ]


def _shifted(levels: list[float], rng: np.random.Generator, sd: float) -> list[tuple[float, float]]:
    return list(zip(levels, rng.normal(0, sd, len(levels)), strict=True))


def test_one_step_is_found_where_it_was() -> None:
    (found,) = change_points(history([100] * 12 + [110] * 10), 0.05, "lower")
    assert found.first == 12
    assert found.ratio == pytest.approx(1.10, abs=0.015)


def test_several_steps_are_found_in_order() -> None:
    found = change_points(history([100] * 10 + [115] * 10 + [95] * 10), 0.05, "lower")
    assert [step.first for step in found] == [10, 20]
    assert [step.log_step > 0 for step in found] == [True, False]


def test_a_fall_of_throughput_is_a_step_to_the_worse() -> None:
    (found,) = change_points(history([100] * 8 + [80] * 8), 0.05, "higher")
    assert found.ratio == pytest.approx(1.25, abs=0.03)


def test_p_value_is_students() -> None:
    sessions = history([100] * 9 + [110] * 7)
    (found,) = change_points(sessions, 0.05, "lower")
    means = [float(np.mean(np.log(runs))) for runs in sessions]
    expected = stats.ttest_ind(means[: found.first], means[found.first :]).pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_noise_is_seldom_a_step() -> None:
    found = [change_points(history([100] * 30, seed, 0.02), 0.05, "lower") for seed in range(100)]
    assert sum(map(bool, found)) <= 2


def test_a_step_too_small_to_matter_is_not_reported() -> None:
    assert change_points(history([100] * 15 + [102] * 15, sd=0.001), 0.05, "lower") == ()
    assert len(change_points(history([100] * 15 + [102] * 15, sd=0.001), 0.03, "lower")) == 1


def test_short_histories_have_no_steps() -> None:
    assert change_points(history([100] * 5 + [200] * 6), 0.05, "lower") == ()
    assert change_points([], 0.05, "lower") == ()


def test_a_step_within_four_sessions_of_the_end_is_put_where_four_remain() -> None:
    found = change_points(history([100] * 20 + [130] * 2), 0.05, "lower")
    assert all(step.first <= 18 for step in found)


def test_a_step_in_a_history_of_many_sessions_is_found_where_it_was() -> None:
    found = change_points(history([100] * 6_000 + [110] * 4_000), 0.05, "lower")
    assert [step.first for step in found] == [6_000]


def test_a_perfect_step_is_certain() -> None:
    (found,) = change_points([[100.0]] * 6 + [[110.0]] * 6, 0.05, "lower")
    assert (found.first, found.p_value) == (6, pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize("bad", [[], [0.0], [math.nan], [-1.0]])
def test_a_session_without_a_level_is_an_error(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no logarithm|no level"):
        change_points([*history([100] * 12), bad], 0.05, "lower")
