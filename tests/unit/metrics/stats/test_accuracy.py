"""Intervals of mean scores, and changes on the same prompts."""

from __future__ import annotations

import pytest

from pytest_llmperf.metrics.stats.accuracy import drop, mean_score


def scores(right: int, wrong: int) -> dict[str, float]:
    return {f"p{number}": float(number < right) for number in range(right + wrong)}


def test_a_share_has_clopper_and_pearsons_interval():
    found = mean_score(list(scores(46, 4).values()))
    assert (found.value, found.n) == (0.92, 50)
    assert (found.low, found.high) == pytest.approx((0.8262, 0.9722), abs=1e-4)  # qbeta(.05, 46, 5), qbeta(.95, 47, 4)
    assert mean_score([1.0] * 10).high == 1.0
    assert mean_score([0.0] * 10).low == 0.0


def test_another_score_has_a_bootstrap_interval_that_is_the_same_every_time():
    sample = [0.1 * number for number in range(11)]
    found = mean_score(sample)
    assert 0.3 < found.low < 0.42 < 0.58 < found.high < 0.7
    assert found == mean_score(sample)
    assert mean_score([0.5] * 9).low == mean_score([0.5] * 9).high == 0.5


def test_answers_that_got_worse():
    before, now = scores(100, 0), scores(92, 8)
    found = drop(before, now)
    assert (found.value, found.n, found.worse, found.better) == (pytest.approx(0.08), 100, 8, 0)
    assert found.p_no_drop == 0.5**8
    assert 0.02 < found.bound(0.02) < 0.06 < 0.1 < found.bound(0.95)
    assert drop(now, before).value == pytest.approx(-0.08)


def test_the_same_answers_leave_no_doubt():
    found = drop(scores(30, 2), scores(30, 2))
    assert (found.bound(0.02), found.bound(0.95), found.p_no_drop) == (0.0, 0.0, 1.0)


def test_only_prompts_of_both_sides_count():
    assert drop({"a": 1.0, "b": 1.0}, {"b": 0.0, "c": 1.0}).n == 1
    with pytest.raises(ValueError, match="both sides"):
        drop({"a": 1.0}, {"b": 1.0})
