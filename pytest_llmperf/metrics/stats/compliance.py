"""Compliance with an absolute limit, and how sure it is: per-run facts against one limit of an SLA. Pure.

The one judgement of a limit: gate.sla and searches take it whole, a search of a capacity takes its intervals.

"p99 <= L" says that at most one request in a hundred is slower than L, so a percentile is judged by the share of
requests beyond its limit (Clopper and Pearson's interval). Requests of one run wait for each other: the effective
number of them is smaller by the design effect, the ratio of the variance between runs to that of independent requests.
Means, medians and rates have an interval from the logs of their per-run values, with the variance that a session adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from statistics import fmean, variance
from typing import Literal

from scipy.special import betaincinv

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.formulas.pace import complete
from pytest_llmperf.metrics.stats.estimate import interval_of
from pytest_llmperf.metrics.stats.margins import Prior, tolerance
from pytest_llmperf.metrics.summary import Summary, distribution
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.units import OPERATORS, percent, signed_percent

NO_RATIO = 10.0
"""A number in the place of the log of an infinite ratio."""
_LEVEL = 0.95
_LEAST_DESIGN_EFFECT = 2.0
"""Few runs say little about the design effect, and in a queue it never was less than this."""

Compliance = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class LimitRun:
    """Facts of one run for one limit."""

    value: float | None
    """The quantity, in its unit; None when its sample is empty."""
    n: int = 0
    """Requests in the sample."""
    beyond: int | None = None
    """Requests that break the limit (of a share: that are counted by it); None where requests have no value each."""
    lacking: int = 0
    """Successful requests without a value, which the sample therefore leaves out."""
    sample: tuple[float, ...] = ()
    """Every value of a statistic over requests, so that runs can be pooled; empty for rates and shares."""


@dataclass(frozen=True, slots=True)
class SlaCheck:
    """One limit against all runs of a point, and how sure that is; a value of None never passes."""

    limit: Limit
    value: float | None
    """The value of all runs together; None where a run has none."""
    n: int
    verdict: Compliance
    verified: bool = False
    """True if chance was taken into account; else the value was compared as it stands."""
    undecided: bool = False
    """Another run may decide."""
    reason: str = ""
    """Sentence on the interval, on why there is no value, and on requests without one; else empty."""
    lacking: int = 0
    """Successful requests without a value: the verdict is on the others."""

    @property
    def ok(self) -> bool:
        return self.verdict != "FAIL"

    def describe(self) -> str:
        """One line: quantity, value, limit, n, and how sure that is."""
        limit = f"limit {self.limit.op} {self.limit.quantity.shown(self.limit.value, 'g')}"
        if self.value is None:
            return f"{self.limit.quantity}: {self.reason or 'no value'}, {limit}"
        measured = f"{self.limit.quantity}: {self.limit.quantity.shown(self.value)}"
        unsure = ", unverified" if self.is_unverified else ""
        line = f"{measured}, {limit}{self._excess()}, n = {self.n}{unsure}"
        if self.verdict == "INCONCLUSIVE":
            return f"{line}; INCONCLUSIVE: {self.reason}"
        is_shown = self.reason and (self.lacking or (self.verdict == "FAIL" and not self.verified))
        return f"{line}; {self.reason}" if is_shown else line

    @property
    def is_unverified(self) -> bool:
        """True if it limits a percentile that the runs cannot certify, so that its value was compared as it stands."""
        return self.limit.quantity.stat is not None and allowed_share(self.limit) is not None and not self.verified

    def _excess(self) -> str:
        if self.value is None or not self.limit.value or not beyond(self.limit, self.value):
            return ""
        return f" ({signed_percent(self.value / self.limit.value - 1)})"


def judge_limit(limit: Limit, runs: Sequence[LimitRun], most_runs: int, value: float | None = None) -> SlaCheck:
    """One limit against all runs of a point, which may take `most_runs`.

    A run without a value, or with one that is not finite, fails: what was not measured meets no limit. The interval
    decides where it can; a limit that it leaves open fails when `value`, that of all runs together (None: computed from
    `runs`), breaks it. Where no number of runs could certify a limit, and where all requests keep it by a factor of two
    or `value` breaks it by one, `value` is compared as it stands, and asks for no more runs.
    """
    n, without = sum(run.n for run in runs), sum(run.lacking for run in runs)
    if gone := _nothing(limit, runs):
        return SlaCheck(limit, None, n, "FAIL", reason=gone, lacking=without)
    value = _pooled(limit, runs) if value is None else value
    plain = compared(limit, value)
    caveat = f"{without} of {n + without} successful requests have no value" if without else ""
    found = _beyond_chance(limit, runs)
    if found is None or (found[0] == "INCONCLUSIVE" and not _certifiable(limit, runs, most_runs)):
        return SlaCheck(limit, value, n, plain, reason=caveat, lacking=without)
    verdict, reason = found[0], "; ".join(filter(None, (found[1], caveat)))
    if verdict == "INCONCLUSIVE" and (clear := _clear(limit, runs, value, most_runs)):
        return SlaCheck(limit, value, n, plain, reason="; ".join(filter(None, (clear, caveat))), lacking=without)
    if verdict == "INCONCLUSIVE":
        open_ = "FAIL" if plain == "FAIL" else verdict
        return SlaCheck(limit, value, n, open_, True, len(runs) < most_runs, reason, without)
    return SlaCheck(limit, value, n, verdict, True, reason=reason, lacking=without)


def limit_run(limit: Limit, summary: Summary, samples: Mapping[str, Sequence[float]]) -> LimitRun:
    """Facts of one run for one limit; `samples` has the values of the limit's metric if it is a distribution."""
    quantity = limit.quantity
    value, n = summary.value(quantity), summary.n(quantity)
    if quantity.stat is not None:
        sample = samples[quantity.metric]
        kept = sum(map(OPERATORS[limit.op], sample, repeat(limit.value)))
        return LimitRun(value, n, len(sample) - kept, lacking(limit, summary), tuple(sample))
    if quantity.unit == "ratio" and value is not None:
        counted = value if limit.op in ("<", "<=") else 1 - value
        return LimitRun(value, n, round(counted * n))
    return LimitRun(value, n)


def lacking(limit: Limit, summary: Summary) -> int:
    """Successful requests without a value of what is limited; 0 for rates, and for ICL, of which a request has many."""
    if limit.quantity.stat is None or limit.metric == "icl":
        return 0
    return max(0, summary.ok - summary.n(limit.quantity))


def _nothing(limit: Limit, runs: Sequence[LimitRun]) -> str:
    """The reason why a run has no value that could meet the limit; empty where all have one."""
    values = [run.value for run in runs if run.value is not None and math.isfinite(run.value)]
    if not values:
        return f"no value (n = {sum(run.n for run in runs)}: no successful request gave one)"
    if len(values) < len(runs):
        return f"no value in {len(runs) - len(values)} of {len(runs)} runs"
    at_least = limit.op in (">", ">=") and limit.value > 0 and _has_level(limit.quantity)
    nothing = sum(value <= 0 for value in values) if at_least else 0
    return f"nothing in {nothing} of {len(runs)} runs" if 0 < nothing < len(runs) else ""


def _pooled(limit: Limit, runs: Sequence[LimitRun]) -> float:
    """The value of all runs together, from their requests; else the mean of rates, means and medians, or the worst."""
    values = [run.value for run in runs if run.value is not None]
    stat = limit.quantity.stat
    if stat is not None and all(run.sample for run in runs):
        pooled = distribution(chain.from_iterable(run.sample for run in runs)).stat(stat)
        assert pooled is not None, "no run's sample is empty"
        return pooled
    if limit.quantity.unit == "ratio" and (n := sum(run.n for run in runs)):
        return math.fsum(value * run.n for value, run in zip(values, runs, strict=True)) / n
    if _has_level(limit.quantity):
        return fmean(values)
    return max(values) if limit.op in ("<", "<=") else min(values)


def _beyond_chance(limit: Limit, runs: Sequence[LimitRun]) -> tuple[Compliance, str] | None:
    """The verdict of the interval; None where there is none: of a single run, a maximum, a share of nothing."""
    if len(runs) < 2:
        return None
    return _by_requests(limit, runs) or (by_values(limit, runs) if _has_level(limit.quantity) else None)


def _certifiable(limit: Limit, runs: Sequence[LimitRun], most_runs: int) -> bool:
    """True if as many runs as a point may take, all without a single violation, would pass."""
    allowed = allowed_share(limit)
    if allowed is None:
        return True
    return share_bounds([0] * most_runs, [max(1, round(sum(r.n for r in runs) / len(runs)))] * most_runs)[1] <= allowed


def _clear(limit: Limit, runs: Sequence[LimitRun], value: float, most_runs: int) -> str:
    """Sentence on a percentile's limit that more runs need not be spent on; empty where they are needed.

    All requests keep it by a factor of two, and so many are certain enough were they independent: (1 - share allowed)^n
    is the chance to see none beyond a limit that is just broken. Or the value breaks it by that factor.
    """
    allowed = allowed_share(limit)
    if limit.quantity.stat is None or allowed is None or limit.value <= 0 or not all(run.sample for run in runs):
        return ""
    upper = limit.op in ("<", "<=")
    half = _limit_at(limit, limit.value * (0.5 if upper else 2.0))
    double = _limit_at(limit, limit.value * (2.0 if upper else 0.5))
    if beyond(double, value):
        return "broken by more than a factor of two"
    if any(beyond(half, seen) for run in runs for seen in run.sample):
        return ""
    certainty = 1 - (1 - allowed) ** sum(run.n for run in runs)
    if certainty < _LEVEL and len(runs) < most_runs:
        return ""
    return (
        f"all requests keep it by a factor of two; {percent(round(certainty, 3))} certain by their number that no more "
        f"than {percent(allowed)} are beyond it"
    )


def _limit_at(limit: Limit, value: float) -> Limit:
    return limit.model_copy(update={"value": value})


def beyond(limit: Limit, value: float) -> bool:
    """True if one request's value breaks the limit: what `LimitRun.beyond` counts for percentiles."""
    return not OPERATORS[limit.op](value, limit.value)


def compared(limit: Limit, value: float | None) -> Compliance:
    """Returns the verdict on the value as it stands; FAIL for None, since what was not measured meets no limit."""
    return "FAIL" if value is None or beyond(limit, value) else "PASS"


def excess(limit: Limit, value: float | None) -> float:
    """Returns the log of value / limit, turned so that above 0 is broken: 0.1 is 10 % too much (or too little).

    NO_RATIO of that sign where there is no ratio: nothing was measured, or the value or the limit is 0.
    """
    if value is None or limit.value <= 0 or value <= 0:
        return NO_RATIO if compared(limit, value) == "FAIL" else -NO_RATIO
    log = math.log(value / limit.value)
    return log if limit.op in ("<", "<=") else -log


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


def _by_requests(limit: Limit, runs: Sequence[LimitRun]) -> tuple[Compliance, str] | None:
    """The verdict of the interval of the share of requests beyond a limit; None where they are not counted."""
    allowed = allowed_share(limit)
    if allowed is None or not all(run.beyond is not None and run.n for run in runs):
        return None
    counts, sizes = [run.beyond or 0 for run in runs], [run.n for run in runs]
    lower, upper = share_bounds(counts, sizes)
    verdict: Compliance = "PASS" if upper <= allowed else "FAIL" if lower > allowed else "INCONCLUSIVE"
    return verdict, (
        f"{sum(counts)} of {sum(sizes)} requests were beyond the limit: a share of {lower:.2%} to {upper:.2%}, "
        f"{allowed:.2%} allowed"
    )


def share_bounds(beyond: Sequence[int], n: Sequence[int]) -> tuple[float, float]:
    """One-sided bounds of the share of requests beyond a limit, from counts and sample sizes (> 0) of one run or more.

    Clopper and Pearson (1934) with the effective sample size of a clustered sample (Korn and Graubard, 1998).
    """
    shares = [count / size for count, size in zip(beyond, n, strict=True)]
    share = fmean(shares)
    binomial = share * (1 - share) / fmean(n)
    between = variance(shares) / binomial if binomial and len(shares) > 1 else 0.0
    effect = max(_LEAST_DESIGN_EFFECT, between)
    size = sum(n) / effect
    count = share * size
    lower = float(betaincinv(count, size - count + 1, 1 - _LEVEL)) if count else 0.0
    return lower, float(betaincinv(count + 1, size - count, _LEVEL)) if count < size else 1.0


def by_values(limit: Limit, runs: Sequence[LimitRun], prior: Prior | None = None) -> tuple[Compliance, str] | None:
    """The verdict of the interval of the runs' values (of a share: of its requests), with a sentence; of one run too.

    None where there is none: a run has no value, or a value or the limit is 0. Without `prior` the metric's own is
    taken; its `session_sd` is the part of the noise that a session adds: 0 asks about this launch of the server alone.
    """
    if limit.quantity.unit == "ratio":
        return _by_requests(limit, runs)
    values = complete(run.value for run in runs)
    if not values or min(values) <= 0 or limit.value <= 0:
        return None
    held = interval_of([values], prior or tolerance(limit.quantity).prior)
    ends = {compared(limit, held.low), compared(limit, held.high)}
    shown = limit.quantity.shown
    told = f"between {shown(held.low)} and {shown(held.high)} over {len(values)} runs"
    return "INCONCLUSIVE" if len(ends) > 1 else ends.pop(), told
