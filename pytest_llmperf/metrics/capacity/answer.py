"""All searches of a point together: the capacity, how sure it is, and what must be said beside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import geometric_mean

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.formulas.pace import complete
from pytest_llmperf.metrics.capacity.bracket import LevelSearch, LevelTrial
from pytest_llmperf.metrics.stats.estimate import Interval, interval_of
from pytest_llmperf.metrics.stats.margins import Prior, tolerance
from pytest_llmperf.plan.load.capacity import CapacitySpec


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest level that meets the limits of `asked`; one search per run."""

    asked: CapacitySpec
    searches: tuple[LevelSearch, ...]
    random_arrivals: bool = False

    @property
    def quantity(self) -> Quantity:
        return self.asked.quantity

    @property
    def value(self) -> float | None:
        """Geometric mean of the searches' estimates; None when one found no level that holds.

        Under random arrivals the low end of its interval: no answer exceeds the server because its bursts were few.
        """
        found = complete(search.estimate for search in self.searches)
        if not found:
            return None
        interval = self.interval if self.random_arrivals else None
        return geometric_mean(found) if interval is None else interval.low

    @property
    def holds(self) -> float | None:
        """The highest level that held in every search; None when one found none."""
        return min(complete(search.holds for search in self.searches), default=None)

    @property
    def breaks(self) -> float | None:
        """The lowest level that failed, of the search that got highest; None when one met none."""
        return max(complete(search.breaks for search in self.searches), default=None)

    @property
    def is_bound(self) -> bool:
        """True if the value is only a lower bound: a search met no level that fails."""
        found = complete(search.estimate for search in self.searches)
        return bool(found) and any(search.is_bound for search in self.searches)

    @property
    def resolution(self) -> float:
        """Distance, as a share, of the two levels between which the answer lies; 0 where the limit was interpolated."""
        return max((_width(search) for search in self.searches), default=0.0)

    @property
    def interval(self) -> Interval | None:
        """The value with its 90 % interval, as another session would see it; None for a bound, and without a value."""
        found = complete(search.estimate for search in self.searches)
        if not found or self.is_bound:
            return None
        return interval_of([found], coarsened(tolerance(self.quantity).prior, self.resolution))

    @property
    def trials(self) -> tuple[LevelTrial, ...]:
        return tuple(trial for search in self.searches for trial in search.trials)

    @property
    def sentence(self) -> str:
        """The answer."""
        shown = self._shown
        if not self.searches:
            return "no level was measured"
        if self.value is None:
            search = next(search for search in self.searches if search.estimate is None)
            return f"no capacity: {self._no_level(search)}"
        if self.is_bound:
            search = next(search for search in self.searches if search.is_bound)
            return f"capacity is at least {shown(self.value)}: {self._why_bound(search)}"
        return f"capacity {shown(self.value)} {self._between()}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks that a reader must know beside the answer."""
        return tuple(dict.fromkeys((*self._ends(), *self._contradictions(), *self._doubts())))

    def _shown(self, level: float) -> str:
        count = f"{level:.4g} request{'' if level == 1 else 's'} in flight"
        return f"{level:.4g} req/s" if self.asked.request_rate else count

    def _no_level(self, search: LevelSearch) -> str:
        if not search.trials:
            return "the search was interrupted before a level was measured"
        lowest = min(search.trials, key=lambda trial: trial.level)
        return f"even {self._shown(lowest.level)} {_does_not(lowest)} ({lowest.reason})"

    def _why_bound(self, search: LevelSearch) -> str:
        if search.stopped_by is not None:
            return f"the client could not offer {self._shown(search.stopped_by.level)} ({search.stopped_by.reason})"
        return "the search was interrupted" if search.ended == "interrupted" else "the end of the range still holds"

    def _between(self) -> str:
        assert self.holds is not None, "the value rests on levels that hold"
        interval, count = self.interval, len(self.searches)
        low = ", of which random arrivals allow the low end" if self.random_arrivals else ""
        sure = "" if interval is None else f"90 % interval {interval.low:.4g} to {interval.high:.4g}{low}; "
        above = f", {self.breaks:.4g} does not" if self.breaks else ""
        return f"({sure}{self.holds:.4g} holds{above}; {count} search{'es' if count > 1 else ''})"

    def _ends(self) -> Iterator[str]:
        for search in self.searches:
            if (last := search.stopped_by) is not None and last.verdict == "DIED":
                yield f"the server gave out at {self._shown(last.level)}: {last.reason}"
            elif last is not None and search.breaks is not None:
                yield f"INVALID at {self._shown(last.level)}, where the search had to stop: {last.reason}"
            if search.ended == "interrupted":
                yield f"a search was interrupted after {len(search.trials)} levels"

    def _contradictions(self) -> Iterator[str]:
        tried = [(trial, number) for number, search in enumerate(self.searches, 1) for trial in search.trials]
        held = [(trial.level, number) for trial, number in tried if trial.verdict == "HOLDS"]
        failed = [(trial.level, number) for trial, number in tried if trial.verdict == "FAILS"]
        pairs = [(high, low, a, b) for high, a in held for low, b in failed if high >= low]
        if pairs:
            high, low, a, b = max(pairs, key=lambda pair: pair[0] / pair[1])
            yield (
                f"searches disagree: {self._shown(high)} held in search {a}, {low:.4g} did not in search {b}; the "
                "interval has that noise in it"
            )

    def _doubts(self) -> Iterator[str]:
        open_ = dict.fromkeys(f"{trial.level:.4g}" for trial in self.trials if not trial.sure and trial.repeats > 1)
        if open_:
            yield f"in doubt after all repeats, taken by the mean: {', '.join(open_)}"


def _does_not(trial: LevelTrial) -> str:
    return {"DIED": "ended the server", "INVALID": "could not be offered"}.get(trial.verdict, "does not hold")


def _width(search: LevelSearch) -> float:
    if search.interpolated or search.holds is None or search.breaks is None:
        return 0.0
    return search.breaks / search.holds - 1


def coarsened(prior: Prior, resolution: float) -> Prior:
    """The prior with the error of an answer that is only known to lie between two levels.

    It is spread evenly over that width (variance: its square / 12, in logarithms) and is the same in every search of a
    session that ends at the same two levels, so it counts as the session's.
    """
    return replace(prior, session_sd=math.hypot(prior.session_sd, math.log1p(resolution) / math.sqrt(12)))
