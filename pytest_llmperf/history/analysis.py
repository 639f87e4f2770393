"""A point's metric over the sessions of a history, and the differences between two points. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean, geometric_mean
from typing import Literal

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.gate.baselines.trend import change_points
from pytest_llmperf.history.database import FoundPoint
from pytest_llmperf.history.session import HistoryRun
from pytest_llmperf.metrics.stats.estimate import Estimate, compare
from pytest_llmperf.metrics.stats.margins import tolerance


@dataclass(frozen=True, slots=True)
class SessionLevel:
    """A metric at one session."""

    number: int
    """The point's in the history."""
    measured: datetime
    commit: str | None
    verdict: str
    values: tuple[float, ...]
    """One per valid run, in the quantity's unit; at least one, all positive but for ratios, which may be 0."""

    @property
    def mean(self) -> float:
        """Geometric mean of the runs; the arithmetic one where a ratio is 0."""
        return geometric_mean(self.values) if min(self.values) > 0 else fmean(self.values)


@dataclass(frozen=True, slots=True)
class LevelStep:
    """A change of level that lasts."""

    before: SessionLevel
    """The last one of the old level."""
    after: SessionLevel
    """The first one of the new level."""
    change: float
    """Change of the value, as a share: 0.08 is 8 % more."""
    worse: bool
    p_value: float

    @property
    def commits(self) -> str:
        """The range to look into, as `git log` takes it; empty where a commit is unknown or did not change."""
        then, now = self.before.commit, self.after.commit
        return f"{then[:9]}..{now[:9]}" if then and now and then != now else ""


@dataclass(frozen=True, slots=True)
class Trend:
    """One metric of one test in one environment."""

    test: str
    name: str
    environment: str | None
    quantity: Quantity
    levels: tuple[SessionLevel, ...]
    """The oldest first."""
    steps: tuple[LevelStep, ...]
    """Steps by the statistic of gate.baselines.trend: none in fewer than 12 sessions."""


def trends(points: Iterable[FoundPoint], quantities: Sequence[Quantity]) -> Iterator[Trend]:
    """Yields a trend for each quantity, test and environment among `points`, which have their runs, the oldest first.

    Of each point the levels alone are kept.
    """
    names: dict[tuple[str, str | None], str] = {}
    found_levels: dict[tuple[Quantity, str, str | None], list[SessionLevel]] = defaultdict(list)
    for found in points:
        key = found.point.test, found.point.environment
        names[key] = found.point.name
        for quantity in quantities:
            if level := _level(found, quantity):
                found_levels[(quantity, *key)].append(level)
    for quantity in quantities:
        for key in sorted(names, key=lambda key: (key[0], key[1] or "")):
            if levels := tuple(found_levels[(quantity, *key)]):
                yield Trend(key[0], names[key], key[1], quantity, levels, tuple(_steps(levels, quantity)))


def _level(found: FoundPoint, quantity: Quantity) -> SessionLevel | None:
    values = valid_values(found.point.runs, quantity)
    if not values or found.point.measured is None:
        return None
    return SessionLevel(found.number, found.point.measured, found.commit, found.point.verdict, values)


def valid_values(runs: Sequence[HistoryRun], quantity: Quantity) -> tuple[float, ...]:
    """Values of the valid runs; only ratios may be 0, of which others have no level."""
    found = (run.values.get(str(quantity)) for run in runs if run.valid)
    return tuple(value for value in found if value is not None and (value > 0 or quantity.unit == "ratio"))


def _steps(levels: Sequence[SessionLevel], quantity: Quantity) -> Iterator[LevelStep]:
    if quantity.better == "neither" or any(min(level.values) <= 0 for level in levels):
        return  # of 0 there is no ratio
    sign = 1 if quantity.better == "lower" else -1
    for cut in change_points([level.values for level in levels], tolerance(quantity).margin, quantity.better):
        change = math.exp(sign * cut.log_step) - 1
        yield LevelStep(levels[cut.first - 1], levels[cut.first], change, cut.log_step > 0, cut.p_value)


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two points."""

    quantity: Quantity
    before: float
    """Geometric mean of the runs, in the quantity's unit."""
    after: float
    change: float
    """Change of the value, as a share: 0.08 is 8 % more."""
    interval: tuple[float, float]
    """90 % interval of `change`."""
    verdict: str
    """better, worse or same, as the interval lies to the gate's default margin; unclear where it lies across; more or
    less of what has no good direction."""


def differences(before: FoundPoint, after: FoundPoint, quantities: Iterable[Quantity]) -> Iterator[Difference]:
    """Yields the difference of each quantity that both points have, by the gate's statistic and default margins."""
    for quantity in quantities:
        then, now = valid_values(before.point.runs, quantity), valid_values(after.point.runs, quantity)
        if then and now and min(*then, *now) > 0:
            better: Literal["higher", "lower"] = "higher" if quantity.better == "higher" else "lower"
            yield _difference(quantity, then, now, compare([then], [now], tolerance(quantity).prior, better))


def _difference(quantity: Quantity, then: Sequence[float], now: Sequence[float], estimate: Estimate) -> Difference:
    sign = -1 if quantity.better == "higher" else 1
    low, high = sorted(math.expm1(sign * estimate.bound(level)) for level in (0.05, 0.95))
    return Difference(
        quantity=quantity,
        before=geometric_mean(then),
        after=geometric_mean(now),
        change=math.expm1(sign * estimate.log_ratio),
        interval=(low, high),
        verdict=_verdict(quantity, estimate),
    )


def _verdict(quantity: Quantity, estimate: Estimate) -> str:
    margin, best, worst = math.log1p(tolerance(quantity).margin), estimate.bound(0.05), estimate.bound(0.95)
    if best > margin:
        return "more" if quantity.better == "neither" else "worse"
    if worst < -margin:
        return "less" if quantity.better == "neither" else "better"
    return "same" if -margin < best and worst < margin else "unclear"
