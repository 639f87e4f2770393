"""Sources of an interval's width, as shares of its variance: each source has a cure of its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.metrics.stats.estimate import Estimate
from pytest_llmperf.metrics.stats.margins import Prior


@dataclass(frozen=True, slots=True)
class Noise:
    """Shares of the variance of a change; the first four are all of it."""

    within_runs: float | None
    """Share from the runs' own errors, which longer runs reduce; None where they are not known."""
    between_runs: float
    """Share from runs of a launch, beyond their own errors: other work on the machine, regimes of the load."""
    launches: float
    """Share from this session's launches of the server: further launches reduce it."""
    sessions: float
    """Share from the baseline's sessions: further sessions reduce it."""
    assumed: float
    """Part of all of it that is no measurement but the expectation that variances are shrunk to, or are taken from."""


def noise(
    estimate: Estimate, prior: Prior, then: Sequence[int], now: Sequence[int], own_error: float | None
) -> Noise | None:
    """Returns the shares; None where there is no variance.

    `then` and `now` are the numbers of runs of each session of both sides, `own_error` is that of one run.
    """
    runs, sessions = estimate.run_variance, estimate.session_variance
    whole = runs + sessions
    if not whole:
        return None
    within = None if own_error is None or not runs else min(1.0, (own_error / estimate.run_sd) ** 2) * runs
    run_df = prior.weight + sum(count - 1 for count in (*then, *now))
    assumed_runs = min(1.0, prior.weight * prior.run_sd**2 / (run_df * estimate.run_sd**2)) if runs else 0.0
    return Noise(
        within_runs=None if within is None else within / whole,
        between_runs=(runs - (within or 0.0)) / whole,
        launches=estimate.launch_variance / whole,
        sessions=(sessions - estimate.launch_variance) / whole,
        assumed=(assumed_runs * runs + _assumed_sessions(estimate, prior, len(then) + len(now) - 2) * sessions) / whole,
    )


def _assumed_sessions(estimate: Estimate, prior: Prior, df: int) -> float:
    """Share of the variance between sessions that is the prior's."""
    if estimate.is_session_assumed or not estimate.session_sd:
        return 1.0
    return min(1.0, prior.weight * prior.session_sd**2 / ((prior.weight + df) * estimate.session_sd**2))
