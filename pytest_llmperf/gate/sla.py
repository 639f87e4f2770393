"""Absolute limits: what was measured against the plan's SLA, and how sure that is. Pure.

The interval of `compliance` decides where it can. Where no number of runs that a point may take could certify a limit
(a p99 of 40 requests), and for limits that have no interval (a maximum, a single run), what was measured is compared as
it stands and the check says that it is unverified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_llmperf.capacity.answer import Capacity
from pytest_llmperf.gate.compliance import Compliance, LimitRun, allowed_share, beyond, judge_limit, share_bounds
from pytest_llmperf.limits import Limit
from pytest_llmperf.metrics import Summary, latency_samples
from pytest_llmperf.result import Result

_Samples = Mapping[str, Sequence[float]]
"""Of one run: a distribution's values by its metric."""


@dataclass(frozen=True, slots=True)
class SlaCheck:
    """One limit, and what was measured over all runs; a value of None (empty sample) never passes."""

    limit: Limit
    value: float | None
    n: int
    verdict: Compliance
    verified: bool = False
    """Whether chance was taken into account; else the value was compared as it stands."""
    undecided: bool = False
    """Another run may tell."""
    reason: str = ""
    """What the interval says; empty for a plain comparison."""

    @property
    def ok(self) -> bool:
        return self.verdict != "FAIL"

    def describe(self) -> str:
        """One line: quantity, value, limit, n, and how sure that is."""
        if self.value is None and self.reason:
            return f"{self.limit.quantity}: {self.reason}, limit {self._limit}"
        if self.value is None:
            return (
                f"{self.limit.quantity}: no value (n = {self.n}: no successful request gave one), limit {self._limit}"
            )
        measured = self.limit.quantity.shown(self.value)
        doubt = f"; INCONCLUSIVE: {self.reason}" if self.verdict == "INCONCLUSIVE" else ""
        if self.verdict == "FAIL" and self.reason and not self.verified:
            doubt = f"; {self.reason}"
        return f"{self.limit.quantity}: {measured}, limit {self._limit}{self._excess()}, n = {self.n}{doubt}"

    @property
    def _limit(self) -> str:
        return f"{self.limit.op} {self.limit.quantity.shown(self.limit.value, 'g')}"

    def _excess(self) -> str:
        if self.value is None or not self.limit.value or not beyond(self.limit, self.value):
            return ""
        return f" ({self.value / self.limit.value - 1:+.1%})"


def check_sla(limits: Sequence[Limit], result: Result, most_runs: int) -> tuple[SlaCheck, ...]:
    """Every limit checked, in the plan's order. `most_runs` is how many a point may take in all.

    A limit that the runs so far leave open is INCONCLUSIVE while what was measured keeps it, and FAIL when it does not.
    """
    if result.capacity is not None:
        limits = (*limits, *_implied(limits, result.capacity))
    needed = any(limit.quantity.stat is not None for limit in limits)
    samples = [latency_samples(run) if needed else {} for run in result.runs]
    return tuple(_check(limit, result, samples, most_runs) for limit in limits)


def _implied(limits: Sequence[Limit], capacity: Capacity) -> Iterator[Limit]:
    """A search that nobody limits must find a level that holds: its lowest one at least."""
    if all(limit.quantity != capacity.quantity for limit in limits):
        yield Limit(metric=capacity.quantity.metric, stat=None, op=">=", value=capacity.asked.span[0])


def _check(limit: Limit, result: Result, samples: Sequence[_Samples], most_runs: int) -> SlaCheck:
    value, n, capacity = result.metrics.value(limit.quantity), result.metrics.n(limit.quantity), result.capacity
    if capacity is not None and limit.quantity == capacity.quantity and (value is None or capacity.is_bound):
        verdict: Compliance = "FAIL" if value is None or beyond(limit, value) else "PASS"
        return SlaCheck(limit, value, n, verdict, reason=capacity.sentence)
    runs = [limit_run(limit, summary, of_run) for summary, of_run in zip(result.summaries, samples, strict=True)]
    return check_runs(limit, value, n, runs, most_runs)


def check_runs(limit: Limit, value: float | None, n: int, runs: Sequence[LimitRun], most_runs: int) -> SlaCheck:
    """One limit; `value` is that of all runs together, with a sample of `n`."""
    if value is None:
        return SlaCheck(limit, None, n, "FAIL")
    plain: Compliance = "FAIL" if beyond(limit, value) else "PASS"
    found = judge_limit(limit, runs)
    if found.verdict == "INCONCLUSIVE" and _certifiable(limit, runs, most_runs):
        verdict: Compliance = "FAIL" if plain == "FAIL" else "INCONCLUSIVE"
        return SlaCheck(limit, value, n, verdict, True, len(runs) < most_runs, found.reason)
    if found.verified and found.verdict != "INCONCLUSIVE":
        return SlaCheck(limit, value, n, found.verdict, True, reason=found.reason)
    return SlaCheck(limit, value, n, plain)


def limit_run(limit: Limit, summary: Summary, samples: Mapping[str, Sequence[float]]) -> LimitRun:
    """What one run says about a limit; `samples` holds the run's distributions by metric (metrics.latency_samples)."""
    quantity = limit.quantity
    value, n = summary.value(quantity), summary.n(quantity)
    if quantity.stat is not None:
        return LimitRun(value, n, sum(beyond(limit, one) for one in samples[quantity.metric]))
    if quantity.unit == "ratio" and value is not None:
        counted = value if limit.op in ("<", "<=") else 1 - value
        return LimitRun(value, n, round(counted * n))
    return LimitRun(value, n)


def _certifiable(limit: Limit, runs: Sequence[LimitRun], most_runs: int) -> bool:
    """Whether as many runs as a point may take, all without a single violation, would pass."""
    allowed = allowed_share(limit)
    if allowed is None:
        return True
    return share_bounds([0] * most_runs, [max(1, round(sum(r.n for r in runs) / len(runs)))] * most_runs)[1] <= allowed
