"""The objective of a search, and the certainty with which one configuration meets it better than another. Pure.

The score of a run is the weighted geometric mean of the objective's metrics over all loads, each turned so that more is
better: exp(sum of w x (+-)ln v / sum of w). Only ratios of scores mean anything, so metrics need no normalising and the
ranking depends on no reference. Noise is estimated by metrics.stats.estimate, with the gate's prior of each metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.stats.compliance import (
    NO_RATIO,
    Compliance,
    LimitRun,
    SlaCheck,
    by_values,
    excess,
    judge_limit,
)
from pytest_llmperf.metrics.stats.estimate import Interval, compare, interval_of
from pytest_llmperf.metrics.stats.margins import Prior, tolerance
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.plan.search import MemoryLimit
from pytest_llmperf.search.strategy.trial import RunFacts, Trial

Standing = Literal["ok", "broken", "invalid", "failed", "skipped"]
"""All limits hold, one does not, the numbers are not to be trusted, the server failed, this machine cannot run it."""
_ORDER: Sequence[Standing] = ("ok", "broken", "invalid", "failed", "skipped")
_SAME_EXCESS = 0.02
"""Configurations that break their limits by this little more or less are equally far off."""
_CONFIDENCE = 0.05


@dataclass(frozen=True, slots=True)
class Check:
    """One limit of one load."""

    load: str
    name: str
    """Name of the quantity."""
    limit: str
    """The limit as people read it: `<= 500 ms`."""
    value: float | None
    """Value over all runs, as the gate judges it."""
    shown: str
    """The value with its unit."""
    verdict: Compliance
    excess: float
    """Log of value / limit, turned so that above 0 is broken: 0.1 is 10 % too much (or too little)."""
    clear: bool
    """True if more runs are not expected to change `ok`."""
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict != "FAIL"

    @property
    def share(self) -> float | None:
        """The value's distance beyond the limit, as a share of it (below 0: to spare); None where there is none."""
        return None if abs(self.excess) >= NO_RATIO else math.expm1(self.excess)

    @property
    def by(self) -> str:
        """Distance to the limit, as `12 % beyond`; empty where it is no share."""
        if self.share is None:
            return ""
        return f"{abs(self.share):.0%}".replace("%", " %") + (" beyond" if self.share > 0 else " to spare")

    def describe(self) -> str:
        """`ttft_p99 612 ms at short, limit <= 500 ms (22 % beyond)`."""
        # A percentile can be broken by the share of requests beyond it though the mean of the runs' values is not.
        note = self.reason if not self.ok and self.excess <= 0 else self.by
        return f"{self.name} {self.shown} at {self.load}, limit {self.limit}{f' ({note})' if note else ''}"


@dataclass(frozen=True, slots=True)
class Assessment:
    """A trial held against the goal."""

    standing: Standing
    checks: tuple[Check, ...]
    scores: tuple[float, ...]
    """Scores of its runs; empty where a load or a value is missing."""
    level: Interval | None
    """The level of the scores, with its 90 % interval."""
    why: str = ""
    """The problem with it; empty when there is none."""

    @property
    def excess(self) -> float:
        """Sum of the excesses of all broken limits."""
        return sum(max(0.0, check.excess) for check in self.checks if not check.ok)

    @property
    def clear(self) -> bool:
        """True if more runs would change nothing about the standing."""
        if self.standing == "broken":
            return any(check.clear for check in self.checks if not check.ok)
        return self.standing != "ok" or all(check.clear for check in self.checks)


@dataclass(frozen=True, slots=True)
class Goal:
    """Objective and limits, by load."""

    aims: Mapping[Quantity, float]
    """Weights."""
    limits: Mapping[str, tuple[Limit, ...]]
    """Limits of every load, in the order in which they are measured."""
    memory: MemoryLimit | None = None
    most_runs: int = 3

    @property
    def loads(self) -> tuple[str, ...]:
        return tuple(self.limits)

    @property
    def prior(self) -> Prior:
        """Noise of a score, as if all its metrics were disturbed alike: never less than what there is."""
        total = sum(self.aims.values())
        held = [(weight / total, tolerance(quantity).prior) for quantity, weight in self.aims.items()]
        return Prior(
            run_sd=math.fsum(weight * prior.run_sd for weight, prior in held),
            session_sd=math.fsum(weight * prior.session_sd for weight, prior in held),
            weight=held[0][1].weight,
        )

    def assess(self, trial: Trial) -> Assessment:
        """Standing and score of a trial, from its runs so far."""
        checks = tuple(self._checks(trial))
        scores = tuple(self._scores(trial))
        level = interval_of([scores], self.prior) if scores else None
        found = Assessment("ok", checks, scores, level)
        if trial.skipped is not None:
            return replace(found, standing="skipped", why=trial.skipped)
        if trial.error is not None:
            return replace(found, standing="failed", why=trial.error)
        if trial.spoiled and not scores:
            return replace(found, standing="invalid", why=trial.spoiled[0])
        if broken := [check.describe() for check in checks if not check.ok]:
            return replace(found, standing="broken", why="; ".join(broken))
        if not scores:
            missing = (
                f"no value of {quantity} at {load}"
                for load in self.loads
                for quantity in self.aims
                if not all(trial.values(load, quantity)) or not trial.of(load)
            )
            return replace(found, standing="failed", why=next(missing, "nothing was measured"))
        return found

    def prune_reason(self, trial: Trial, best: Assessment | None) -> str | None:
        """The reason why no more runs of it are worth their time; None while they may be."""
        found = self.assess(trial)
        if clear := next((check for check in found.checks if not check.ok and check.clear), None):
            return f"breaks {clear.describe()}"
        if best and found.scores and self.beats(best, found):
            return "is worse than the best so far, beyond noise"
        return None

    def beats(self, one: Assessment, other: Assessment) -> bool | None:
        """True if `one` is better; None where noise, or a limit in doubt, leaves that open."""
        if one.standing != other.standing:
            broken = next((found for found in (one, other) if found.standing == "broken"), None)
            open_ = broken is not None and not broken.clear and "ok" in (one.standing, other.standing)
            return None if open_ else self.stands_above(one, other)
        if one.standing == "broken" and abs(one.excess - other.excess) > _SAME_EXCESS:
            return one.excess < other.excess
        if one.standing != "ok":
            return None
        ratio = compare([other.scores], [one.scores], self.prior, "higher")
        if ratio.bound(1 - _CONFIDENCE) < 0:
            return True
        return False if ratio.bound(_CONFIDENCE) > 0 else None

    def stands_above(self, one: Assessment, other: Assessment) -> bool:
        """True if `one` is above by its limits as they were measured, whatever the score."""
        return _ORDER.index(one.standing) < _ORDER.index(other.standing)

    def order(self, found: Assessment) -> tuple[float, ...]:
        """Sorts the best first: by standing, then what is measured as it stands."""
        score = found.level.value if found.level else 0.0
        return (_ORDER.index(found.standing), found.excess, -score)

    def _scores(self, trial: Trial) -> Iterator[float]:
        """One per round, a run of every load; none where a value is missing.

        Runs of all launches count as those of one: their spread then holds that of the launches, which are too few to
        tell the two apart.
        """
        rounds = range(trial.rounds(self.loads))
        scores = [self._score([trial.of(load)[number] for load in self.loads]) for number in rounds]
        if None not in scores:
            yield from (score for score in scores if score is not None)

    def _score(self, runs: Sequence[RunFacts]) -> float | None:
        logs = []
        for quantity, weight in self.aims.items():
            sign = 1.0 if quantity.better == "higher" else -1.0
            for run in runs:
                value = run.values.get(str(quantity))
                if value is None or value <= 0:
                    return None
                logs.append(sign * weight * math.log(value))
        return math.exp(math.fsum(logs) / (sum(self.aims.values()) * len(runs)))

    def _checks(self, trial: Trial) -> Iterator[Check]:
        for load, limits in self.limits.items():
            runs = trial.of(load)
            for limit in limits if runs else ():
                yield self._check(load, limit, [run.limits[str(limit)] for run in runs])
            if self.memory and runs:
                yield _memory_check(load, self.memory, [run.gpu_memory_gb for run in runs])

    def _check(self, load: str, limit: Limit, runs: Sequence[LimitRun]) -> Check:
        found = judge_limit(limit, runs, self.most_runs)
        value = found.value
        return Check(
            load=load,
            name=str(limit.quantity),
            limit=f"{limit.op} {limit.quantity.shown(limit.value, 'g')}",
            value=value,
            shown="without a value" if value is None else limit.quantity.shown(value),
            verdict=found.verdict,
            excess=excess(limit, value),
            clear=_clear(found, runs),
            reason=found.reason,
        )


def _clear(found: SlaCheck, runs: Sequence[LimitRun]) -> bool:
    """True if the interval of the value lies on one side of the limit, also for a single run."""
    if found.verified and not found.undecided:
        return True
    judged = by_values(found.limit, runs)
    return judged is None or judged[0] != "INCONCLUSIVE"


def _memory_check(load: str, limit: MemoryLimit, runs: Sequence[float | None]) -> Check:
    """The check of GPU memory, by the fullest run; memory is no matter of chance."""
    known = [value for value in runs if value is not None]
    value = max(known) if len(known) == len(runs) else None
    excess = NO_RATIO if value is None else math.log(max(value, 1e-9) / limit.gpu_memory_gb)
    shown = "without a value" if value is None else f"{value:.4g} GB"
    verdict: Compliance = "FAIL" if excess > 0 else "PASS"
    return Check(load, "gpu_memory", f"<= {limit.gpu_memory_gb:g} GB", value, shown, verdict, excess, True)
