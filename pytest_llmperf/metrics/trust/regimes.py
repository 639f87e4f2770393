"""Jumps of a closed loop between two regimes: requests that fall into step, and requests that do not. Pure.

Slots that start together prefill together, and decode undisturbed; slots that start one after the other disturb each
other's decoding. Either lasts until chance ends it, so that runs, or parts of one, differ by what no change made.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_llmperf.formulas.request import TimedRequest
from pytest_llmperf.metrics.stats.within import LEAST, batch_means
from pytest_llmperf.records import Run
from pytest_llmperf.units import counted

_CRITICAL = {5: 0.989, 6: 0.981, 7: 0.972, 8: 0.966, 10: 0.948, 15: 0.92, 20: 0.917}
"""Critical values by number of values: the share of their squares that the best cut into two groups takes by chance in
one sample of a hundred, of 20 values (batches of each of several runs) in one of 500. Of 40,000 samples each of
uniform, exponential, normal, lognormal and t distributions and of normal series correlated by up to 0.9, the highest
(exponential, uniform).
"""
_LEAST_SHARE = 5
"""The smaller group has a value in so many, and two at least: a single one is an outlier, no regime."""
_CAUSE = "requests of a closed loop fall into step with each other, or out of it"
_LEAST_APART = 0.05
"""Regimes that differ by less are within what any gate tolerates."""


@dataclass(frozen=True, slots=True)
class Regimes:
    """Two levels, and at which of them each value is."""

    low: float
    high: float
    is_high: tuple[bool, ...]


def two_regimes(values: Sequence[float]) -> Regimes | None:
    """Returns the two regimes of positive values; None where one distribution without a gap explains them.

    The best cut into two groups, by its share of the squares of the logs (Engelman and Hartigan, Percentage Points of a
    Test for Clusters, 1969), against the highest share that distributions with one mode reach by chance.
    """
    if len(values) < min(_CRITICAL):
        return None
    logs = np.sort(np.log(values))
    least = max(2, math.ceil(logs.size / _LEAST_SHARE))
    cuts = np.arange(least, logs.size - least + 1)
    away = logs - logs.mean()
    between = np.cumsum(away)[cuts - 1] ** 2 * logs.size / (cuts * (logs.size - cuts))
    best, whole = int(cuts[between.argmax()]), float(away @ away)
    low, high = float(logs[:best].mean()), float(logs[best:].mean())
    critical = float(np.interp(logs.size, [*_CRITICAL], [*_CRITICAL.values()]))
    if between.max() <= critical * whole or high - low < math.log1p(_LEAST_APART):
        return None
    middle = float(logs[best - 1] + logs[best]) / 2
    return Regimes(math.exp(low), math.exp(high), tuple(math.log(value) > middle for value in values))


def regime_remarks(runs: Sequence[Run]) -> Iterator[str]:
    """Yields a sentence where runs of a closed loop, or parts of one, are at two levels of the inter-token latency."""
    paces = [_paces(run) for run in runs]
    if all(paces) and (found := two_regimes([statistics.median(of_run) for of_run in paces])):
        at = {
            level: [run.index + 1 for run, high in zip(runs, found.is_high, strict=True) if high is level]
            for level in (False, True)
        }
        yield (
            f"runs jump between two regimes, ITL {found.low:.3g} ms (runs {_listed(at[False])}) and "
            f"{found.high:.3g} ms (runs {_listed(at[True])}): {_CAUSE}"
        )
    for run, of_run in zip(runs, paces, strict=True):
        if len(of_run) >= LEAST and (found := two_regimes(batch_means(np.array(of_run)).tolist())):
            jumps = sum(before is not now for before, now in itertools.pairwise(found.is_high))
            yield (
                f"run {run.index + 1} jumps between two regimes, ITL {found.low:.3g} and {found.high:.3g} ms, "
                f"{counted(jumps, 'time')}: {_CAUSE}"
            )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _paces(run: Run) -> list[float]:
    """Inter-token latency of each measured request in ms, in the order of the trace."""
    found = (TimedRequest(record).inter_token_latency_ms for record in run.measured if record.ok)
    return [pace for pace in found if pace]
