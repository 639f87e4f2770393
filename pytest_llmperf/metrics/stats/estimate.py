"""Estimates a change and its certainty: per-run values of two sides to a ratio with its interval. Pure.

Sessions (server launches) differ by more than their runs do, and the candidate is a new session: its session effect
does not average out however often it is run. So the variance has a term per level, as in Kalibera and Jones (Rigorous
Benchmarking in Reasonable Time, 2013). Both terms are shrunk to an expectation (margins.Prior), because three runs tell
little about a variance. Working in logs makes noise additive, ratios symmetric and the interval one of a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean
from typing import Literal

from scipy.special import stdtr, stdtrit

from pytest_llmperf.metrics.stats.margins import Prior

Sessions = Sequence[Sequence[float]]
"""Positive per-run values, by session."""
_Logs = Sequence[Sequence[float]]
_SESSIONS_TO_ESTIMATE = 4
"""Degrees of freedom (five baseline sessions) from which the spread between sessions is estimated, not assumed."""
_POWER = 0.8
"""Share of sessions in which the smallest change that is called detectable fails."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Log of the ratio candidate / baseline, turned so that more is worse, and what its uncertainty is made of."""

    log_ratio: float
    df: float
    run_sd: float
    """Estimated sd of the log between runs of a session, shrunk to the prior."""
    session_sd: float
    """Estimated sd between sessions; the prior's where there are too few sessions."""
    run_variance: float
    """The runs' part of the variance of log_ratio."""
    session_variance: float
    """The sessions' part."""
    launch_variance: float = 0.0
    """The part of `session_variance` from the candidate's own launches, which more sessions do not reduce."""
    is_session_assumed: bool = False
    """True where there are too few sessions to estimate session_sd from, so that it is the prior's."""

    @property
    def ratio(self) -> float:
        """1.10 is 10 % worse: slower, or less throughput."""
        return math.exp(self.log_ratio)

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.run_variance + self.session_variance)

    def bound(self, level: float) -> float:
        """One-sided bound of log_ratio: the truth lies below it with probability `level` (0.05: lower, 0.95: upper)."""
        return self.log_ratio + float(stdtrit(self.df, level)) * self.standard_error

    @property
    def p_no_change(self) -> float:
        """One-sided p value of "it did not get worse"."""
        if not self.standard_error:
            return 0.0 if self.log_ratio > 0 else 1.0
        return float(stdtr(self.df, -self.log_ratio / self.standard_error))

    def detectable(self, margin: float, alpha: float) -> float:
        """The smallest worsening (0.08: 8 %) that fails at level `alpha` four times in five, with this precision."""
        quantiles = float(stdtrit(self.df, 1 - alpha)) + float(stdtrit(self.df, _POWER))
        return math.exp(math.log1p(margin) + quantiles * self.standard_error) - 1


def compare(baseline: Sessions, candidate: Sessions, prior: Prior, better: Literal["lower", "higher"]) -> Estimate:
    """Candidate against baseline; a candidate that was launched several times has several sessions.

    ValueError when a side has no run, a value is not positive and finite, or nothing is known about the noise (one run
    on each side and no prior).
    """
    then, now = _logs(baseline, better), _logs(candidate, better)
    run_variance, run_df = _run_variance([*then, *now], prior)
    return _estimate(then, now, (run_variance, run_df), _session_variance(then, now, run_variance, prior))


def projected(
    estimate: Estimate,
    prior: Prior,
    then: Sequence[int],
    now: Sequence[int],
    *,
    run_sd: float | None = None,
    session_sd: float | None = None,
) -> Estimate:
    """Estimate that so many runs in each session of both sides would give, were change and noise as in `estimate`.

    `run_sd` and `session_sd` replace the noise that was found.
    """
    run_variance = (estimate.run_sd if run_sd is None else run_sd) ** 2
    session_variance = (estimate.session_sd if session_sd is None else session_sd) ** 2
    df = len(then) + len(now) - 2
    session_df = math.inf if df < _SESSIONS_TO_ESTIMATE or not session_variance else prior.weight + df
    run_df = prior.weight + sum(count - 1 for count in (*then, *now))
    old, new = ([[0.0] * count for count in side] for side in (then, now))
    found = _estimate(old, new, (run_variance, run_df), (session_variance, session_df))
    return replace(found, log_ratio=estimate.log_ratio)


def _estimate(then: _Logs, now: _Logs, runs: tuple[float, float], sessions: tuple[float, float]) -> Estimate:
    """The estimate from the logs of both sides; `runs` and `sessions` are a variance and its degrees of freedom."""
    means, parts = zip(*(_weighted(side, runs[0], sessions[0]) for side in (then, now)), strict=True)
    of_runs = runs[0] * sum(part[0] for part in parts)
    of_sessions = sessions[0] * sum(part[1] for part in parts)
    return Estimate(
        log_ratio=means[1] - means[0],
        df=_degrees((of_runs, runs[1]), (of_sessions, sessions[1])),
        run_sd=math.sqrt(runs[0]),
        session_sd=math.sqrt(sessions[0]),
        run_variance=of_runs,
        session_variance=of_sessions,
        launch_variance=sessions[0] * parts[1][1],
        is_session_assumed=math.isinf(sessions[1]),
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """Geometric mean of one side's runs, and the 90 % interval in which another session's would be expected too."""

    value: float
    low: float
    high: float


def interval_of(sessions: Sessions, prior: Prior) -> Interval:
    """The level of runs that are compared with nothing; ValueError as `compare`."""
    logs = _logs(sessions, "lower")
    run_variance, df = _run_variance(logs, prior)
    mean, (of_runs, of_sessions) = _weighted(logs, run_variance, prior.session_sd**2)
    error = math.sqrt(run_variance * of_runs + prior.session_sd**2 * of_sessions)
    half = float(stdtrit(df, 0.95)) * error
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _logs(sessions: Sessions, better: Literal["lower", "higher"]) -> list[list[float]]:
    """Logs, + is worse. ValueError says which value has none."""
    held = [list(runs) for runs in sessions if len(runs)]
    wrong = [value for value in chain(*held) if not (value > 0 and math.isfinite(value))]
    if wrong or not held:
        raise ValueError(f"{wrong[0]!r} has no logarithm" if wrong else "there is no run to compare")
    sign = 1.0 if better == "lower" else -1.0
    return [[sign * math.log(value) for value in runs] for runs in held]


def _squares(values: Sequence[float]) -> float:
    """Sum of squared distances from the mean."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _run_variance(sessions: _Logs, prior: Prior) -> tuple[float, float]:
    """Variance within sessions, pooled over all of them and shrunk to the prior; and its degrees of freedom."""
    df = prior.weight + sum(len(runs) - 1 for runs in sessions)
    if not df:
        raise ValueError("one run on each side and no prior: nothing is known about the noise")
    return (prior.weight * prior.run_sd**2 + math.fsum(map(_squares, sessions))) / df, df


def _session_variance(then: _Logs, now: _Logs, run_variance: float, prior: Prior) -> tuple[float, float]:
    """Variance between sessions and its degrees of freedom; the prior's (known: infinitely many) below five sessions.

    What the runs' own noise adds to the means of sessions is taken off. Half of the prior's sd is the least: five
    sessions that happened to agree are no proof that the sixth will.
    """
    df = len(then) + len(now) - 2
    if df < _SESSIONS_TO_ESTIMATE:
        return prior.session_sd**2, math.inf
    spread = sum(_squares([fmean(runs) for runs in side]) for side in (then, now)) / df
    from_runs = run_variance * fmean([1 / len(runs) for runs in (*then, *now)])
    observed = max(spread - from_runs, 0.0)
    shrunk = (prior.weight * prior.session_sd**2 + df * observed) / (prior.weight + df)
    return max(shrunk, (prior.session_sd / 2) ** 2), prior.weight + df


def _weighted(side: _Logs, run_variance: float, session_variance: float) -> tuple[float, tuple[float, float]]:
    """The side's mean, and by how much each variance counts in the variance of that mean.

    Session means weighted by the inverse of their variance: the mean over all runs where sessions have equally many
    runs or do not differ, the mean over sessions where they do. An uneven relaunch thus gives all that it can.
    """
    variances = [session_variance + run_variance / len(runs) for runs in side]
    raw = [1 / variance for variance in variances] if min(variances) else [float(len(runs)) for runs in side]
    weights = [weight / math.fsum(raw) for weight in raw]
    mean = math.fsum(weight * fmean(runs) for weight, runs in zip(weights, side, strict=True))
    of_runs = math.fsum(weight**2 / len(runs) for weight, runs in zip(weights, side, strict=True))
    return mean, (of_runs, math.fsum(weight**2 for weight in weights))


def _degrees(runs: tuple[float, float], sessions: tuple[float, float]) -> float:
    """Satterthwaite's degrees of freedom of the sum of two variances; those of the runs where sessions are assumed."""
    if math.isinf(sessions[1]) or not runs[0] + sessions[0]:
        return runs[1]
    return (runs[0] + sessions[0]) ** 2 / (runs[0] ** 2 / runs[1] + sessions[0] ** 2 / sessions[1])
