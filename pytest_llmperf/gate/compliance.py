"""Whether an absolute limit is met, and how sure that is: per-run facts against one limit of an SLA. Pure.

"p99 <= L" says that at most one request in a hundred is slower than L, so a percentile is judged by the share of
requests beyond its limit (Clopper and Pearson's interval). Requests of one run wait for each other: the effective
number of them is smaller by the design effect, the ratio of the variance between runs to that of independent requests.
Means, medians and rates have an interval from the logs of their per-run values, with the variance that a session adds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import betaincinv, stdtrit

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.gate.margins import tolerance
from pytest_llmperf.limits import Limit
from pytest_llmperf.units import OPERATORS

_LEVEL = 0.95
_LEAST_DESIGN_EFFECT = 2.0
"""Few runs say little about the design effect, and in a queue it never was less than this."""

Compliance = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class LimitRun:
    """What one run says about one limit."""

    value: float | None
    """The quantity, in its unit; None when its sample is empty."""
    n: int = 0
    """Requests in the sample."""
    beyond: int | None = None
    """Those that break the limit (of a share: that are counted by it); None where requests have no value each."""


@dataclass(frozen=True, slots=True)
class LimitVerdict:
    """The verdict on one limit. `verified` is False where numbers were compared without regard to chance."""

    limit: Limit
    verdict: Compliance
    verified: bool
    value: float | None
    """Mean over runs of the per-run values; None when a run has none."""
    bounds: tuple[float, float] | None
    """Interval of the share beyond the limit, or of the value; None when not verified."""
    reason: str


def judge_limit(limit: Limit, runs: Sequence[LimitRun]) -> LimitVerdict:
    """One limit against all runs of a point. INCONCLUSIVE asks for another run.

    A run without a value, or with one that is not finite, fails: what was not measured meets no limit.
    """
    values = [run.value for run in runs if run.value is not None and math.isfinite(run.value)]
    if not values or len(values) < len(runs):
        missing = len(runs) - len(values)
        return LimitVerdict(limit, "FAIL", False, None, None, f"no value in {missing or 'any'} of {len(runs)} runs")
    allowed = allowed_share(limit)
    if len(runs) > 1 and allowed is not None and all(run.beyond is not None and run.n for run in runs):
        return _by_share(limit, runs, values, allowed)
    if len(runs) > 1 and _has_level(limit.quantity) and min(values) > 0 and limit.value > 0:
        return _by_level(limit, values)
    return _by_point(limit, values)


def beyond(limit: Limit, value: float) -> bool:
    """Whether one request's value breaks the limit: what `LimitRun.beyond` counts for percentiles."""
    return not OPERATORS[limit.op](value, limit.value)


def allowed_share(limit: Limit) -> float | None:
    """Share of requests that may break a percentile's limit, or that a share's limit allows; None for all others.

    0 is no share that any sample could certify, so such a limit is compared as it stands.
    """
    stat, upper = limit.stat or "", limit.op in ("<", "<=")
    if stat.startswith("p") and stat != "p50":
        share = int(stat[1:]) / 100
        return 1 - share if upper else share
    if limit.quantity.unit == "ratio":
        return (limit.value if upper else 1 - limit.value) or None
    return None


def _has_level(quantity: Quantity) -> bool:
    return quantity.unit != "ratio" and quantity.stat in (None, "mean", "p50")


def _by_share(limit: Limit, runs: Sequence[LimitRun], values: Sequence[float], allowed: float) -> LimitVerdict:
    lower, upper = share_bounds([run.beyond or 0 for run in runs], [run.n for run in runs])
    verdict: Compliance = "PASS" if upper <= allowed else "FAIL" if lower > allowed else "INCONCLUSIVE"
    counted = sum(run.beyond or 0 for run in runs), sum(run.n for run in runs)
    reason = (
        f"{counted[0]} of {counted[1]} requests were beyond the limit: a share of {lower:.2%} to {upper:.2%}, "
        f"{allowed:.2%} allowed"
    )
    return LimitVerdict(limit, verdict, True, _mean(values), (lower, upper), reason)


def share_bounds(beyond: Sequence[int], n: Sequence[int], level: float = _LEVEL) -> tuple[float, float]:
    """One-sided bounds of the share of requests beyond a limit, from counts and sample sizes (> 0) of one run or more.

    Clopper and Pearson (1934) with the effective sample size of a clustered sample (Korn and Graubard, 1998).
    """
    shares = [count / size for count, size in zip(beyond, n, strict=True)]
    share = _mean(shares)
    binomial = share * (1 - share) / _mean(n)
    between = _variance(shares) / binomial if binomial and len(shares) > 1 else 0.0
    effect = max(_LEAST_DESIGN_EFFECT, between)
    size = sum(n) / effect
    count = share * size
    lower = float(betaincinv(count, size - count + 1, 1 - level)) if count else 0.0
    return lower, float(betaincinv(count + 1, size - count, level)) if count < size else 1.0


def _by_level(limit: Limit, values: Sequence[float]) -> LimitVerdict:
    """Bound of the geometric mean over runs, as seen from another session (log scale)."""
    prior = tolerance(limit.quantity).prior
    logs = [math.log(value) for value in values]
    df = len(logs) - 1 + prior.weight
    run_variance = ((len(logs) - 1) * _variance(logs) + prior.weight * prior.run_sd**2) / df
    half = float(stdtrit(df, _LEVEL)) * math.sqrt(run_variance / len(logs) + prior.session_sd**2)
    low, high = math.exp(_mean(logs) - half), math.exp(_mean(logs) + half)
    met = OPERATORS[limit.op]
    verdict: Compliance = "FAIL" if not (met(low, limit.value) or met(high, limit.value)) else "INCONCLUSIVE"
    if met(low, limit.value) and met(high, limit.value):
        verdict = "PASS"
    reason = f"between {limit.quantity.shown(low)} and {limit.quantity.shown(high)} over {len(values)} runs"
    return LimitVerdict(limit, verdict, True, _mean(values), (low, high), reason)


def _by_point(limit: Limit, values: Sequence[float]) -> LimitVerdict:
    """Every run must meet the limit: no interval is known for a maximum, a share of nothing, or a single run."""
    worst = max(values) if limit.op in ("<", "<=") else min(values)
    verdict: Compliance = "FAIL" if beyond(limit, worst) else "PASS"
    why = "one run" if len(values) == 1 else f"the worst of {len(values)} runs"
    reason = f"{limit.quantity.shown(worst)} in {why}, compared as it stands (unverified)"
    return LimitVerdict(limit, verdict, False, _mean(values), None, reason)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
