"""Verdict on a level: its executions against the limits of the search. Pure.

One execution decides where its value is farther from the limit than noise reaches (the intervals of
metrics.stats); else the level is executed again. A limit that latency breaks is looked at twice: what disturbs a
machine makes a server slower and never faster, and one slow execution would end the search there. The session's part of
the noise is left out: the question is what this server, as it was launched, does at this level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean, geometric_mean

from pytest_llmperf.definitions import HEADLINE, Quantity
from pytest_llmperf.formulas.pace import complete
from pytest_llmperf.metrics.capacity.bracket import LevelTrial
from pytest_llmperf.metrics.stats.compliance import (
    Compliance,
    LimitRun,
    by_values,
    compared,
    excess,
    lacking,
    limit_run,
)
from pytest_llmperf.metrics.stats.margins import Prior, tolerance
from pytest_llmperf.metrics.summary import Summary, distribution
from pytest_llmperf.metrics.trust.saturation import Saturation
from pytest_llmperf.plan.limits import Limit

_RANDOM = Prior(run_sd=0.35, session_sd=0.0)
"""Noise of a latency near its limit under random arrivals, of which each execution draws others: a queue's length
depends on the bursts that it has met (benchmarks/gate/capacity.py)."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a level."""

    summary: Summary
    saturation: Saturation | None
    """None where it cannot be judged, as in a closed loop."""
    invalid: tuple[str, ...] = ()
    """Reasons why the client did not offer the level that it should; empty when it did."""
    achieved_rate: float | None = None
    gave_out: str = ""
    """Sentence on requests that the server failed before the measured part; empty when there are none."""
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Values, under random arrivals, of the criterion's metrics, which are pooled: a mean of tails is no tail."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """One limit at one level."""

    limit: Limit
    value: float | None
    verdict: Compliance
    lacking: int = 0
    """Successful requests without a value."""

    @property
    def is_broken(self) -> bool:
        """True if the mean breaks the limit, whether or not that is sure."""
        return compared(self.limit, self.value) == "FAIL"

    @property
    def is_failure(self) -> bool:
        """True if requests failed, which no noise explains, and which a server in trouble is not asked for twice."""
        return self.value is None or self.limit.metric == "error_rate"

    def describe(self) -> str:
        shown = self.limit.quantity.shown
        measured = "no value" if self.value is None else shown(self.value)
        caveat = f"; {self.lacking} successful requests have no value" if self.lacking else ""
        return f"{self.limit.quantity} {measured}, limit {self.limit.op} {shown(self.limit.value, 'g')}{caveat}"


def judge_level(level: float, criterion: Sequence[Limit], executions: Sequence[Execution]) -> LevelTrial:
    """The verdict of one execution or more; where it is not `sure`, another may decide.

    Executions that the client spoiled are left out, unless there is no other.
    """
    repeats = len(executions)
    executions = [execution for execution in executions if not execution.invalid] or executions
    trial = replace(_facts(level, criterion, executions), repeats=repeats)
    if executions[-1].invalid:
        return replace(trial, verdict="INVALID", reason=executions[-1].invalid[0])
    if gave_out := next((execution.gave_out for execution in executions if execution.gave_out), ""):
        return replace(trial, verdict="FAILS", reason=gave_out)
    behind = [found for e in executions if (found := e.saturation) is not None and found.saturated]
    if 2 * len(behind) > len(executions):
        sure = len(executions) > 1 or not executions[0].samples
        return replace(trial, verdict="FAILS", sure=sure, reason=_behind(behind[-1], trial.done_rate), saturated=True)
    findings = [_finding(limit, executions) for limit in criterion]
    gravest = max(findings, key=lambda finding: (finding.is_broken, excess(finding.limit, finding.value)))
    broken = any(finding.is_broken for finding in findings)
    enough = (finding for finding in findings if len(executions) > 1 or finding.is_failure)
    settled = any(finding.verdict == "FAIL" for finding in enough) or all(
        finding.verdict == "PASS" for finding in findings
    )
    return replace(trial, verdict="FAILS" if broken else "HOLDS", sure=settled, reason=gravest.describe())


def _behind(found: Saturation, done_rate: float | None) -> str:
    done = "" if done_rate is None else f"; requests ended at {done_rate:.4g} req/s"
    return (
        f"over-saturated: latency from the due time grew from {found.first_ms:.0f} ms to {found.last_ms:.0f} ms over "
        f"the level{done}"
    )


def _facts(level: float, criterion: Sequence[Limit], executions: Sequence[Execution]) -> LevelTrial:
    """Everything but the verdict."""
    summaries = [execution.summary for execution in executions]
    done = complete(e.saturation.done_rate if e.saturation else None for e in executions)
    shown = dict.fromkeys((*(limit.quantity for limit in criterion), *HEADLINE))
    return LevelTrial(
        level=level,
        verdict="HOLDS",
        sure=True,
        reason="",
        values=tuple((limit, _level(limit.quantity, executions)) for limit in criterion),
        repeats=len(executions),
        sent=sum(summary.sent for summary in summaries),
        failed=sum(summary.failed for summary in summaries),
        figures={str(quantity): _level(quantity, executions) for quantity in shown},
        achieved_rate=executions[-1].achieved_rate,
        done_rate=fmean(done) if done else None,
    )


def _level(quantity: Quantity, executions: Sequence[Execution]) -> float | None:
    """The quantity over all executions; None when one has no value."""
    samples = [execution.samples.get(quantity.metric) for execution in executions]
    if quantity.stat is not None and all(samples):
        return distribution(chain.from_iterable(sample or () for sample in samples)).stat(quantity.stat)
    return _mean(quantity, [execution.summary for execution in executions])


def _mean(quantity: Quantity, summaries: Sequence[Summary]) -> float | None:
    """Mean over executions, geometric where it can be; None when one has no value."""
    values = complete(summary.value(quantity) for summary in summaries)
    if not values:
        return None
    return fmean(values) if quantity.unit == "ratio" or min(values) <= 0 else geometric_mean(values)


def _finding(limit: Limit, executions: Sequence[Execution]) -> _Finding:
    summaries = [execution.summary for execution in executions]
    value = _level(limit.quantity, executions)
    without = sum(lacking(limit, summary) for summary in summaries)
    is_random = any(execution.samples for execution in executions)
    return _Finding(limit, value, _verdict(limit, summaries, value, is_random), without)


def _verdict(limit: Limit, summaries: Sequence[Summary], value: float | None, is_random: bool) -> Compliance:
    """The side of the limit that the interval lies on; a plain comparison where there is none."""
    quantity = limit.quantity
    # A percentile goes by its values: one execution has too few requests to tell the share beyond the limit.
    runs = [LimitRun(s.value(quantity)) if quantity.stat else limit_run(limit, s, {}) for s in summaries]
    prior = _RANDOM if is_random and quantity.unit == "ms" else replace(tolerance(quantity).prior, session_sd=0.0)
    found = by_values(limit, runs, prior)
    return found[0] if found else compared(limit, value)
