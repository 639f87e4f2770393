"""The level to offer next, and the answer of those so far: doubling, then bisection. Pure.

Within a search the level asked for always lies between the highest that holds and the lowest that does not (or beyond
an end that is not known yet), so one search never contradicts itself; several of them may: see `Capacity.notes`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.plan.load.capacity import CapacitySpec
from pytest_llmperf.units import OPERATORS

Verdict = Literal["HOLDS", "FAILS", "INVALID", "DIED"]
"""INVALID: the client could not offer the level. DIED: the server did not survive it."""
Ended = Literal["found", "range", "none", "invalid", "died", "interrupted"]
"""End of a search: bracketed as finely as asked; the highest level holds; the lowest does not; see Verdict."""
ENDS = ("INVALID", "DIED")
"""Verdicts after which nothing more is offered."""
Values = tuple[tuple[Limit, float | None], ...]


@dataclass(frozen=True, slots=True)
class LevelTrial:
    """One level in one search."""

    level: float
    """Req/s, or requests in flight."""
    verdict: Verdict
    sure: bool
    """False where the level was still in doubt after its last repeat: the verdict is then what the mean says."""
    reason: str
    """The limit that decided: broken, or nearest to it."""
    values: Values = ()
    """Every limit of the criterion, and what was measured: geometric mean over repeats, None where one had none."""
    repeats: int = 1
    """Executions of the level."""
    sent: int = 0
    failed: int = 0
    figures: Mapping[str, float | None] | None = None
    """Metrics for the reader, by the names of quantities; None where nothing was measured."""
    achieved_rate: float | None = None
    """Rate at which requests were really sent, in req/s; None in a closed loop."""
    done_rate: float | None = None
    """Rate at which requests ended while others were sent, in req/s; None in a closed loop."""
    saturated: bool = False
    """True if latency grew for as long as the level lasted: the server took `done_rate` and no more."""


@dataclass(frozen=True, slots=True)
class BracketStart:
    """The levels between which a later search begins, because an earlier one found the answer there."""

    low: float
    high: float | None
    """None where the first search met no level that failed."""


@dataclass(frozen=True, slots=True)
class LevelSearch:
    """One whole search, in the order in which levels were tried."""

    trials: tuple[LevelTrial, ...]
    ended: Ended
    holds: float | None
    """The highest level that holds; None when none does."""
    breaks: float | None
    """The lowest level that does not hold; None when none was met."""
    estimate: float | None
    """Level at which the limit is met: between the two, interpolated; `holds` where it cannot be. None when none
    holds.
    """
    interpolated: bool = False
    stopped_by: LevelTrial | None = None
    """The level beyond which nothing was offered, in this search or an earlier one: INVALID or DIED."""

    @property
    def is_bound(self) -> bool:
        """True if the estimate is only a lower bound, as nothing that fails was found."""
        return self.estimate is not None and self.breaks is None


def next_level(
    asked: CapacitySpec, trials: Sequence[LevelTrial], start: BracketStart | None = None, ceiling: float = math.inf
) -> float | None:
    """The level to offer next; None when there is no more to learn.

    Levels at `ceiling` and above were the end of the server, or more than the client can offer, in an earlier search:
    they are never offered again.
    """
    low, high = asked.span
    if trials and trials[-1].verdict in ENDS:
        return None
    holds, breaks = _bounds(trials)
    if holds is None and breaks is None:
        return float(low) if start is None else start.low
    if holds is not None and breaks is not None:
        return _between(asked, holds, breaks)
    if holds is None:
        assert breaks is not None, "a level that was tried holds or does not"
        return None if breaks <= low else _below(asked, breaks, _stride(asked, trials, start))
    if holds >= high or (start is not None and start.high is None and holds >= start.low):
        return None
    above = _above(asked, trials, start, holds)
    return None if above >= ceiling else above


def _bounds(trials: Sequence[LevelTrial]) -> tuple[float | None, float | None]:
    """The highest level that holds and the lowest that does not."""
    holds = max((trial.level for trial in trials if trial.verdict == "HOLDS"), default=None)
    return holds, min((trial.level for trial in trials if trial.verdict in ("FAILS", "DIED")), default=None)


def _above(asked: CapacitySpec, trials: Sequence[LevelTrial], start: BracketStart | None, holds: float) -> float:
    """The next level upwards: twice as much; a later search takes the level that failed before, then widens its
    steps.
    """
    if start is not None and start.high is not None and holds < start.high:
        return start.high
    level = _readable(asked, holds * _stride(asked, trials, start))
    return float(min(asked.span[1], max(level, holds + 1) if asked.concurrency else level))


def _below(asked: CapacitySpec, breaks: float, stride: float) -> float:
    level = _readable(asked, breaks / stride)
    return float(max(asked.span[0], min(level, breaks - 1) if asked.concurrency else level))


def _stride(asked: CapacitySpec, trials: Sequence[LevelTrial], start: BracketStart | None) -> float:
    """Factor to the next level: 2, or of a later search its first width, squared with every step."""
    if start is None:
        return 2.0
    width = max(start.high / start.low if start.high else 1.0, 1 + asked.within)
    return float(min(2.0, width ** (2.0 ** (len(trials) - 1))))


def _between(asked: CapacitySpec, holds: float, breaks: float) -> float | None:
    """The geometric middle; None when the two are as near as asked for, or neighbours."""
    if breaks / holds <= (1 + asked.within) * (1 + 1e-9):
        return None
    middle = math.sqrt(holds * breaks)
    if asked.concurrency is None:
        return _readable(asked, middle)
    return None if breaks - holds <= 1 else float(min(max(round(middle), holds + 1), breaks - 1))


def _readable(asked: CapacitySpec, level: float) -> float:
    """A concurrency is a whole number; a rate has digits that a person can read."""
    return float(round(level)) if asked.concurrency else float(f"{level:.4g}")


def most_levels(asked: CapacitySpec) -> int:
    """Levels that a search may take: doublings from the lowest to the highest, then halvings of the last step."""
    low, high = asked.span
    doublings = math.ceil(math.log2(high / low) - 1e-9)
    step = min(2.0, high / low)
    halvings = math.ceil(math.log2(math.log(step) / math.log1p(asked.within))) if step > 1 + asked.within else 0
    return 1 + doublings + max(0, halvings)


def levels_upwards(asked: CapacitySpec) -> tuple[float, ...]:
    """Levels that the first search tries as long as every one holds."""
    low, high = asked.span
    doubled = itertools.takewhile(lambda level: level < high, (low * 2.0**step for step in itertools.count()))
    return (*doubled, high)


def concluded(
    trials: Sequence[LevelTrial], asked: CapacitySpec, ceiling: LevelTrial | None = None, *, interrupted: bool = False
) -> LevelSearch:
    """The search of these trials, which has ended; `ceiling` is the earlier trial above which nothing is offered."""
    holds, breaks = _bounds(trials)
    own = trials[-1] if trials and trials[-1].verdict in ENDS else None
    stopped_by = own or (ceiling if holds is not None and breaks is None and holds < asked.span[1] else None)
    if stopped_by is not None and stopped_by.verdict == "DIED":
        breaks = min(breaks or math.inf, stopped_by.level)
    ended = "interrupted" if interrupted else _why_ended(bool(trials), stopped_by, holds, breaks)
    below, above = (_last(trials, level) for level in (holds, breaks))
    crossing = _met(below, above) if ended == "found" and below and above else None
    estimate = _taken(crossing or holds, below, above)
    return LevelSearch(tuple(trials), ended, holds, breaks, estimate, crossing is not None, stopped_by)


def _why_ended(is_begun: bool, stopped_by: LevelTrial | None, holds: float | None, breaks: float | None) -> Ended:
    if stopped_by is not None:
        return "invalid" if stopped_by.verdict == "INVALID" else "died"
    if holds is None:
        return "none" if is_begun else "interrupted"
    return "range" if breaks is None else "found"


def _last(trials: Sequence[LevelTrial], level: float | None) -> LevelTrial | None:
    return next((trial for trial in reversed(trials) if trial.level == level), None)


def _met(below: LevelTrial, above: LevelTrial) -> float | None:
    """Level at which the first limit is met between two levels, by a straight line between logarithms; None without
    one.

    A level that is over-saturated before it breaks a limit shows by its rate of answers the most that the server takes.
    One that fails for another reason (requests that failed) has no such level.
    """
    shares = list(_shares(dict(below.values), dict(above.values)))
    if shares:
        return float(below.level * (above.level / below.level) ** min(shares))
    if not above.saturated or above.done_rate is None:
        return None
    return min(max(above.done_rate, below.level), above.level)


def _taken(estimate: float | None, below: LevelTrial | None, above: LevelTrial | None) -> float | None:
    """The estimate, or what the server was seen to take where that is less: a queue grows slowly just above it.

    It ended requests at least as fast at the level that held as the answer may be, should it get slower beyond.
    """
    if estimate is None or below is None or below.done_rate is None:
        return estimate
    held = min(below.level, below.done_rate)
    if above is None or not above.saturated or above.done_rate is None:
        return estimate
    return max(min(estimate, above.done_rate), held)


def _shares(below: Mapping[Limit, float | None], above: Mapping[Limit, float | None]) -> Iterator[float]:
    """Share of the way up (0 to 1) at which each limit that is broken above is met."""
    for limit, value in above.items():
        before, met = below.get(limit), OPERATORS[limit.op]
        if not value or not before or limit.value <= 0 or met(value, limit.value) or not met(before, limit.value):
            continue
        yield math.log(limit.value / before) / math.log(value / before)
