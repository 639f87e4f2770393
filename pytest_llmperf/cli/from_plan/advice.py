"""Derives a plan's length, warm-up, runs and margins from a point's runs on two launches of its server. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from scipy.special import stdtrit

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.gate.regression import candidate
from pytest_llmperf.gate.rules import DEFAULT
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.margins import Prior, fewest_requests, tolerance
from pytest_llmperf.metrics.trust.length import PART_OF_MARGIN, rounded_up, run_errors, typical_errors
from pytest_llmperf.runner.measure.length import MOST_TIMES

_BASELINE = (3, 3, 3, 3, 3)
"""Runs per session of the baseline that recommended runs and margins are for."""
_POWER = 0.8
"""Share of sessions in which an unchanged server is to be decided with the recommended runs."""
_SURE = 2.0
"""Standard deviations of later runs by which every first run is worse only where it is no chance."""
_WARMER = 2.0
"""Factor by which a warm-up is lengthened where first runs were still slower."""


@dataclass(frozen=True, slots=True)
class Advice:
    """Recommendations for one load point, by key of the plan; empty where the plan is as it should be."""

    load: dict[str, str] = field(default_factory=dict)
    """Keys of the load's entry: requests or duration, and warmup, as YAML."""
    runs: int = DEFAULT.first_runs
    """Runs that decide an unchanged server four times in five."""
    margins: dict[Quantity, float] = field(default_factory=dict)
    """Margins that this noise can keep, where the present ones are too narrow for it."""
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    """Expected time of the recommended runs, without starts of the server."""


def advise(result: Result, margins: Mapping[Quantity, float]) -> Advice:
    """Returns what is recommended for a point that was measured on several launches of an unchanged server."""
    errors = run_errors(result.runs, margins)
    own = typical_errors(errors, {quantity: _run_sd(result, quantity) for quantity in margins})
    times, why = _times(own, margins)
    changes = _length(result, times) if times > 1 else {}
    times = times if changes else 1.0  # a length that something else sets stays as it is
    reasons = [f"{', '.join(f'{key} {value}' for key, value in changes.items())}: {why}"] if changes else [why]
    counted = {q: m for q, m in margins.items() if _is_counted(result, q, times)}
    needed = {
        q: _needed(_longer_sd(_run_sd(result, q), own.get(q, 0.0), times), q, margin) for q, margin in counted.items()
    }
    runs = max((count for count, _ in needed.values()), default=DEFAULT.first_runs)
    wide = {quantity: margin for quantity, (_, margin) in needed.items() if margin > margins[quantity]}
    for quantity, margin in wide.items():
        reasons.append(
            f"margin of {quantity} {margin:.0%}: with {margins[quantity]:.0%}, {DEFAULT.most_runs} runs would leave an "
            "unchanged server in doubt more often than one time in five"
        )
    reasons.append(f"{runs} runs decide an unchanged server four times in five, with a baseline of five sessions")
    warmup, reason = _warmup(result, margins)
    seconds = statistics.fmean(run.ended_ns - run.started_ns for run in result.runs) / 1e9 * times
    reasons += [reason, f"cost: {runs} runs of {seconds:.3g} s, {runs * seconds:.3g} s in all"]
    return Advice({**changes, **warmup}, runs, wide, tuple(reasons), runs * seconds)


def _times(own: Mapping[Quantity, float], margins: Mapping[Quantity, float]) -> tuple[float, str]:
    """The factor by which runs should be longer, and the reason."""
    if not own:
        return 1.0, "the length stays: no gated metric tells its own error (40 requests are needed)"
    worst = max(own, key=lambda quantity: own[quantity] / margins[quantity])
    target = margins[worst] * PART_OF_MARGIN
    error = f"within a run {worst} has an error of {own[worst]:.1%} of its own"
    times = (own[worst] / target) ** 2
    if times <= 1:
        return 1.0, f"the length is enough: {error}, and a third of its margin is {target:.1%}"
    if times > MOST_TIMES:
        return MOST_TIMES, f"{error}; a third of its margin, {target:.1%}, would take {times:.0f} times the length"
    return times, f"{error}; a third of its margin is {target:.1%}"


def _is_counted(result: Result, quantity: Quantity, times: float) -> bool:
    """True if runs that are longer by this factor have enough requests for the quantity; it is not gated below."""
    return min(one.n(quantity) for one in result.summaries) * times >= fewest_requests(quantity)


def _length(result: Result, times: float) -> dict[str, str]:
    """The load's measure, so many times as long, rounded up to two digits; none where something else sets it."""
    load = result.load
    if load.length:
        return {}
    if load.duration is not None:
        return {"duration": f"{rounded_up(load.duration * times)} s"}
    return {"requests": str(rounded_up(load.requests * times))} if load.requests and load.trace is None else {}


def _run_sd(result: Result, quantity: Quantity, after: int = 0) -> float:
    """Standard deviation between the runs of a launch (in logs), without the first `after`, shrunk as in the gate."""
    prior = tolerance(quantity).prior
    logs = [[math.log(v) for v in launch if v and v > 0] for launch in candidate(result, quantity)]
    logs = [runs[after:] for runs in logs]
    within = [runs for runs in logs if runs]
    squares = math.fsum(statistics.pvariance(runs) * len(runs) for runs in within)
    df = prior.weight + sum(len(runs) - 1 for runs in within)
    return math.sqrt((prior.weight * prior.run_sd**2 + squares) / df)


def _longer_sd(run_sd: float, own: float, times: float) -> float:
    """Standard deviation between longer runs: their own error shrinks, the unexplained rest stays."""
    return math.sqrt(run_sd**2 - own**2 + own**2 / times)


def _needed(run_sd: float, quantity: Quantity, margin: float) -> tuple[int, float]:
    """The least number of runs with which an unchanged server passes four times in five, and the margin for that."""
    prior = tolerance(quantity).prior
    for runs in range(DEFAULT.first_runs, DEFAULT.most_runs + 1):
        if _reach(run_sd, prior, runs) <= margin:
            return runs, margin
    return DEFAULT.most_runs, math.ceil(_reach(run_sd, prior, DEFAULT.most_runs) * 100) / 100


def _reach(run_sd: float, prior: Prior, runs: int) -> float:
    """The narrowest margin with which an unchanged server passes four times in five with so many runs."""
    variance = run_sd**2 * (1 / sum(_BASELINE) + 1 / runs) + prior.session_sd**2 * (1 / len(_BASELINE) + 1)
    df = prior.weight + sum(count - 1 for count in (*_BASELINE, runs))
    quantiles = float(stdtrit(df, 1 - DEFAULT.alpha_pass)) + float(stdtrit(df, _POWER))
    return math.expm1(quantiles * math.sqrt(variance))


def _warmup(result: Result, margins: Mapping[Quantity, float]) -> tuple[dict[str, str], str]:
    """A longer warm-up where every launch's first run was worse than later ones: by more than a third of a margin, and
    by more than later runs differ by.
    """
    slower = {q: worse for q in margins if (worse := _first_worse(result, q)) is not None}
    late = {
        q: worse
        for q, worse in slower.items()
        if worse > max(margins[q] * PART_OF_MARGIN, _SURE * _run_sd(result, q, after=1))
    }
    warmed = [run.warmup for run in result.runs if run.warmup]
    sent = max((one.requests for one in warmed), default=result.load.warmup_requests)
    before = f"{sent} requests before the first run"
    if not late or not result.server.is_started:
        return {}, f"the warm-up is enough: after {before}, it is no slower than later ones"
    worst = max(late, key=lambda quantity: late[quantity] / margins[quantity])
    count = rounded_up(max(sent, len(result.runs[0].measured)) * _WARMER)
    reason = f"after {before}, {worst} was {late[worst]:.1%} worse in it than in later ones, on every launch"
    return {"warmup": f"{{requests: {count}}}"}, f"warmup {{requests: {count}}}: {reason}"


def _first_worse(result: Result, quantity: Quantity) -> float | None:
    """The least share by which the first run of a launch was worse than the mean of its later ones; None if unknown."""
    sign = -1.0 if quantity.better == "higher" else 1.0
    launches: Sequence[Sequence[float | None]] = candidate(result, quantity)
    if any(not value or value <= 0 for value in chain(*launches)) or min(map(len, launches), default=0) < 2:
        return None
    logs = [[sign * math.log(value) for value in launch if value] for launch in launches]
    return math.expm1(min(runs[0] - statistics.fmean(runs[1:]) for runs in logs))
