"""Shares of an interval's variance by their source."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.metrics.stats.estimate import compare
from pytest_llmperf.metrics.stats.margins import Prior
from pytest_llmperf.metrics.stats.noise import noise

PRIOR = Prior(0.02, 0.01)


def sides(sessions: int, run_sd: float, session_sd: float, seed: int = 1):
    """A baseline of sessions of three runs, and a candidate of one session of five."""
    draw = random.Random(seed)

    def session(count: int):
        level = draw.lognormvariate(0, session_sd)
        return [level * draw.lognormvariate(0, run_sd) for _ in range(count)]

    return [session(3) for _ in range(sessions)], [session(5)]


def shares(sessions: int, run_sd: float, session_sd: float, own_error: float | None, prior: Prior = PRIOR):
    then, now = sides(sessions, run_sd, session_sd)
    return noise(compare(then, now, prior, "lower"), prior, [3] * sessions, [5], own_error)


@given(
    sessions=st.integers(1, 9),
    run_sd=st.floats(0.0, 0.2),
    session_sd=st.floats(0.0, 0.2),
    own_error=st.floats(0.0, 0.5),
)
def test_the_sources_are_all_of_it(sessions, run_sd, session_sd, own_error):
    found = shares(sessions, run_sd, session_sd, own_error)
    parts = (found.within_runs, found.between_runs, found.launches, found.sessions)
    assert sum(parts) == pytest.approx(1.0)
    assert min(parts) >= -1e-12
    assert 0 <= found.assumed <= 1 + 1e-12


def test_noise_of_short_runs_is_within_them():
    found = shares(3, 0.15, 0.0, own_error=0.15)
    assert found.within_runs > 0.9
    assert found.assumed < 0.1


def test_what_an_own_error_does_not_explain_is_between_runs():
    found = shares(3, 0.15, 0.0, own_error=0.01)
    assert found.between_runs > 0.9
    assert found.within_runs < 0.02


def test_an_unknown_own_error_leaves_it_open():
    found = shares(3, 0.15, 0.0, own_error=None)
    assert found.within_runs is None
    assert found.between_runs > 0.9


def test_one_session_is_mostly_assumption():
    found = shares(1, 0.001, 0.0, own_error=0.001)
    assert found.launches == pytest.approx(found.sessions)
    assert found.assumed > 0.9


def test_launches_that_differ_are_measured_with_many_sessions():
    found = shares(9, 0.001, 0.1, own_error=0.001)
    assert found.launches > 0.8
    assert found.assumed < 0.1


def test_without_variance_there_are_no_shares():
    prior = Prior(0.0, 0.0)
    estimate = compare([[1.0, 1.0]], [[1.0, 1.0]], prior, "lower")
    assert noise(estimate, prior, [2], [2], 0.0) is None
