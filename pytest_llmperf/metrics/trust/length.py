"""Judges the length of runs: the error that each run's numbers have by themselves, and the change within a run. Pure.

A number moves with every request by its influence: of a mean the value's distance from it, of a percentile whether the
value lies above it, over the density there (Bahadur, A Note on Quantiles in Large Samples, 1966). Every run sends the
same trace, so what a request's own length adds to that is no noise: the mean over runs is taken off.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_llmperf.definitions import METRICS, OUTPUT_RATE, Quantity
from pytest_llmperf.formulas.request import TimedRequest
from pytest_llmperf.metrics.stats.within import LEAST, drift, own_error
from pytest_llmperf.records import Run

PART_OF_MARGIN = 1 / 3
"""Share of what is tolerated that a run's own error may reach: three runs then decide, as far as it is up to them."""
_SURE = 5.0
"""Standard errors from which a drift is reported: of 3,000 series of 60 values without drift two reach them at a lag-1
correlation of 0.6, none without correlation."""


@dataclass(frozen=True, slots=True)
class RunError:
    """A quantity of one run: its standard error, and its change within the run; shares of the value."""

    error: float
    """Standard error that follows from the run's own requests."""
    drift: float
    """Change from the run's first third to its last, less the median of all runs' changes: 0.1 is 10 % more."""
    drift_error: float

    def drifts(self, margin: float) -> bool:
        """True if it changed within the run by more than `margin`, surely."""
        return abs(self.drift) > max(margin, _SURE * self.drift_error)


RunErrors = Mapping[Quantity, RunError]


def run_errors(runs: Sequence[Run], quantities: Iterable[Quantity]) -> list[RunErrors]:
    """Returns the errors of each run by quantity.

    Missing are quantities that are no mean or percentile of one value per request, rates other than the output
    tokens', and those with fewer than 40 values.
    """
    asked = list(quantities)
    requests = [[TimedRequest(record) for record in run.measured if record.ok] for run in runs]
    found: list[dict[Quantity, RunError]] = [{} for _ in runs]
    # The mean over all runs, which is subtracted, holds a part of each run's own noise.
    widened = math.sqrt(len(runs) / (len(runs) - 1)) if len(runs) > 1 else 1.0
    for quantity in asked:
        moved = [_influence(quantity, of_run) for of_run in requests]
        common = sorted(set.intersection(*map(set, moved))) if moved else []
        series = np.array([[of_run[index] for index in common] for of_run in moved])
        if len(common) < LEAST:
            continue
        noise = series - series.mean(axis=0) if len(runs) > 1 else series
        changes = [drift(of_run).change for of_run in series]
        usual = statistics.median(changes) if len(runs) > 1 else 0.0
        for errors, of_run, change in zip(found, noise, changes, strict=True):
            errors[quantity] = RunError(widened * own_error(of_run), change - usual, drift(of_run).error)
    return [*found]


def typical_error(errors: Sequence[RunErrors], quantity: Quantity) -> float | None:
    """Returns the root mean square of the runs' own errors; None where no run has one."""
    held = [of_run[quantity].error for of_run in errors if quantity in of_run]
    return math.sqrt(math.fsum(error**2 for error in held) / len(held)) if held else None


def typical_errors(errors: Sequence[RunErrors], run_sds: Mapping[Quantity, float]) -> dict[Quantity, float]:
    """Returns the runs' typical own error by quantity, as far as it is known, and no more than runs differ by at all.

    `run_sds` are the estimated sds between runs: a percentile between two modes seems less certain than it is.
    """
    own_errors = {quantity: typical_error(errors, quantity) for quantity in run_sds}
    return {quantity: min(error, run_sds[quantity]) for quantity, error in own_errors.items() if error}


def _influence(quantity: Quantity, requests: Sequence[TimedRequest]) -> dict[int, float]:
    """Share by which a request moves the run's number, by request (its place in the trace)."""
    if quantity == OUTPUT_RATE:
        return _of_rate(requests)
    metric = METRICS[quantity.metric]
    values = {request.record.index: metric.values([request]) for request in requests}
    if quantity.stat is None or any(len(of_one) > 1 for of_one in values.values()):
        return {}
    held = {index: of_one[0] for index, of_one in values.items() if of_one and of_one[0] > 0}
    if quantity.stat == "mean" and held:
        mean = math.fsum(held.values()) / len(held)
        return {index: value / mean - 1 for index, value in held.items()}
    return _of_percentile(int(quantity.stat[1:]) / 100, held) if quantity.stat[1:].isdigit() else {}


def _of_percentile(share: float, values: Mapping[int, float]) -> dict[int, float]:
    """The density is that between the order statistics two standard errors to either side."""
    if not values:
        return {}
    width = 2 * math.sqrt(share * (1 - share) / len(values))
    low, high = max(share - width, 0.0), min(share + width, 1.0)
    below, at, above = map(float, np.quantile(np.fromiter(values.values(), dtype=float), (low, share, high)))
    step = math.log(above / below) / (high - low)
    return {index: step * (share - (value <= at)) for index, value in values.items()}


def _of_rate(requests: Sequence[TimedRequest]) -> dict[int, float]:
    """Slots that are always busy give as many tokens per second as their requests have per second of their time."""
    busy = {
        r.record.index: (r.record.output_tokens, r.record.end_ns - r.record.sent_ns)
        for r in requests
        if r.record.output_tokens and r.record.sent_ns is not None
    }
    tokens, times_ns = (math.fsum(part) / len(busy) for part in zip(*busy.values(), strict=True)) if busy else (0, 0)
    return {index: count / tokens - time_ns / times_ns for index, (count, time_ns) in busy.items()}


def length_remarks(
    runs: Sequence[Run], own_errors: Mapping[Quantity, float], margins: Mapping[Quantity, float]
) -> Iterator[str]:
    """Yields a sentence where runs are too short for what is tolerated, with the length that would do.

    `own_errors` are the typical errors of a run by itself. The sentence is about the quantity that needs the longest
    runs, and does not say that no other noise is in the way.
    """
    times = {quantity: (error / (margins[quantity] * PART_OF_MARGIN)) ** 2 for quantity, error in own_errors.items()}
    worst = max(times, key=lambda quantity: times[quantity], default=None)
    if worst is None or times[worst] <= 1:
        return
    seconds = math.fsum(run.ended_ns - run.started_ns for run in runs) / len(runs) / 1e9
    requests = max(len(run.measured) for run in runs)
    enough = f"{rounded_up(seconds * times[worst]):,} s ({rounded_up(requests * times[worst]):,} requests)"
    yield (
        f"runs of {seconds:.2g} s are short: within a run {worst} has an error of {own_errors[worst]:.1%} of its own, "
        f"and {margins[worst]:.0%} are tolerated; {enough} would make that {margins[worst] * PART_OF_MARGIN:.1%}, with "
        "which 3 runs decide if nothing else differs"
    )


def drift_remarks(errors: Sequence[RunErrors], margins: Mapping[Quantity, float]) -> Iterator[str]:
    """Yields a sentence per run that changed within itself by more than is tolerated, beside the other runs."""
    for number, of_run in enumerate(errors, start=1):
        drifting = {q: found.drift for q, found in of_run.items() if q in margins and found.drifts(margins[q])}
        if drifting:
            changes = ", ".join(f"{quantity} {change:+.0%}" for quantity, change in drifting.items())
            yield f"run {number} drifted, from its first third to its last, as the other runs did not: {changes}"


def rounded_up(number: float) -> int:
    """Returns the next whole number of two digits and zeros."""
    unit = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return int(math.ceil(number / unit) * unit)
