"""Batch means: is the error that a run tells of itself the one that it has?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.metrics.stats.within import LEAST, drift, own_error


def autoregressive(phi: float, length: int, seed: int, count: int = 150):
    """Stationary AR(1) series of unit variance, one per row."""
    draw = np.random.default_rng(seed)
    shocks = draw.standard_normal((count, length)) * math.sqrt(1 - phi**2)
    series = np.empty((count, length))
    series[:, 0] = draw.standard_normal(count)
    for place in range(1, length):
        series[:, place] = phi * series[:, place - 1] + shocks[:, place]
    return series


def true_error(phi: float, length: int) -> float:
    """Standard error of the mean of an AR(1) series of unit variance."""
    lags = np.arange(1, length)
    return math.sqrt((1 + 2 * float(((1 - lags / length) * phi**lags).sum())) / length)


@settings(max_examples=25, deadline=None)
@given(phi=st.floats(0.0, 0.9), length=st.integers(200, 800), seed=st.integers(0, 2**32))
def test_the_error_is_that_of_a_correlated_series(phi: float, length: int, seed: int) -> None:
    told = [own_error(row) for row in autoregressive(phi, length, seed)]
    root_mean_square = math.sqrt(sum(error**2 for error in told) / len(told))
    assert 0.75 < root_mean_square / true_error(phi, length) < 1.7
    assert 0.8 < float(np.median(told)) / true_error(phi, length) < 1.3


def test_the_error_that_ignores_the_correlation_would_be_far_too_small() -> None:
    told = [row.std() / math.sqrt(row.size) for row in autoregressive(0.9, 400, 1)]
    assert float(np.median(told)) < 0.3 * true_error(0.9, 400)


@given(scale=st.floats(0.1, 100.0), level=st.floats(-100.0, 100.0))
def test_the_error_goes_with_the_scale_and_not_with_the_level(scale: float, level: float) -> None:
    row = autoregressive(0.5, 100, 3, count=1)[0]
    assert own_error(level + scale * row) == pytest.approx(scale * own_error(row), rel=1e-6)


def test_equal_values_have_no_error() -> None:
    assert own_error([2.0] * LEAST) == 0.0


@pytest.mark.parametrize("told", [own_error, drift])
def test_few_values_say_nothing(told) -> None:
    with pytest.raises(ValueError, match="38 values are too few"):
        told([1.0, 2.0] * (LEAST // 2 - 1))


@settings(max_examples=10, deadline=None)
@given(phi=st.floats(0.0, 0.6), seed=st.integers(0, 2**32))
def test_what_does_not_drift_is_seldom_told_to(phi: float, seed: int) -> None:
    found = [drift(row) for row in autoregressive(phi, 400, seed)]
    assert sum(abs(one.change) > 5 * one.error for one in found) <= 0.02 * len(found)


@settings(max_examples=10, deadline=None)
@given(phi=st.floats(0.0, 0.6), seed=st.integers(0, 2**32))
def test_a_trend_is_a_drift_and_no_scatter(phi: float, seed: int) -> None:
    trend = np.linspace(0.0, 12 * true_error(phi, 400) * math.sqrt(6), 400)
    found = [drift(row + trend) for row in autoregressive(phi, 400, seed)]
    assert sum(one.change > 5 * one.error for one in found) >= 0.7 * len(found)
    assert float(np.median([one.change for one in found])) == pytest.approx(trend[-1] * 2 / 3, rel=0.2)
