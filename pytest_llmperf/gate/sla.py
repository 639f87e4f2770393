"""Absolute limits: what was measured against the plan's SLA. Pure; `compliance` judges each limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_llmperf.definitions import ACCURACIES, ACCURACY
from pytest_llmperf.gate.answers import GUARD, check_accuracy
from pytest_llmperf.metrics.answers import answers_of
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck, compared, judge_limit, limit_run
from pytest_llmperf.metrics.summary import metric_values
from pytest_llmperf.plan.limits import Limit

_Samples = Mapping[str, Sequence[float]]
"""Values of one run's requests by metric."""


def check_sla(limits: Sequence[Limit], result: Result, most_runs: int) -> tuple[SlaCheck, ...]:
    """Every limit checked, in the plan's order. `most_runs` is how many a point may take in all.

    A limit that the runs so far leave open is INCONCLUSIVE while what was measured keeps it, and FAIL when it does not.
    """
    capacity = result.capacity
    wanted = {limit.metric for limit in limits if limit.stat}
    samples = [metric_values(run, wanted) if wanted else {} for run in result.runs]
    checks = tuple(_check(limit, result, samples, most_runs) for limit in limits)
    if capacity is None or any(limit.quantity == capacity.quantity for limit in limits):
        return checks
    return (*checks, _lowest_holds(capacity, result.metrics.n(capacity.quantity)))


def _lowest_holds(capacity: Capacity, n: int) -> SlaCheck:
    """A search without a limit on its capacity must find a level that holds: its lowest one at least."""
    # The answer may lie below the level that held: of random arrivals it is the low end of its interval.
    least = min(filter(None, (capacity.asked.span[0], capacity.value)))
    limit = Limit(metric=capacity.quantity.metric, stat=None, op=">=", value=least)
    return SlaCheck(limit, capacity.value, n, compared(limit, capacity.value), reason=capacity.sentence)


def _check_score(limit: Limit, result: Result) -> SlaCheck:
    found = answers_of(result.runs)
    name = limit.metric.removeprefix(ACCURACY)
    good = [record for run in result.runs for record in run.measured if record.ok]
    lacking = sum(name not in (record.scores or {}) for record in good)
    scores = found.scores.get(limit.metric, {}) if found else {}
    return check_accuracy(limit, scores, result.metrics.value(limit.quantity), lacking)


def _check(limit: Limit, result: Result, samples: Sequence[_Samples], most_runs: int) -> SlaCheck:
    if limit.metric in ACCURACIES:
        return _check_score(limit, result)
    value, n, capacity = result.metrics.value(limit.quantity), result.metrics.n(limit.quantity), result.capacity
    if limit.quantity == GUARD:  # a run alone agrees with nobody
        return SlaCheck(limit, value, n, compared(limit, value))
    if capacity is not None and limit.quantity == capacity.quantity and (value is None or capacity.is_bound):
        return SlaCheck(limit, value, n, compared(limit, value), reason=capacity.sentence)
    runs = [limit_run(limit, summary, of_run) for summary, of_run in zip(result.summaries, samples, strict=True)]
    return judge_limit(limit, runs, most_runs, value)
