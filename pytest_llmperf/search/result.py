"""The outcome of a search: every configuration with its rank, and the one to take. Pure data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.definitions import METRICS, OUTPUT_RATE, Quantity
from pytest_llmperf.metrics.stats.estimate import Interval
from pytest_llmperf.metrics.stats.pareto import Front, pareto_front
from pytest_llmperf.plan.search import Mode
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.search.candidates import Candidates
from pytest_llmperf.search.strategy.contest import Contest
from pytest_llmperf.search.strategy.goal import Check, Standing
from pytest_llmperf.search.strategy.space import Position
from pytest_llmperf.search.strategy.trial import Trial
from pytest_llmperf.units import counted

PER_GPU = Quantity("output_token_throughput_per_gpu")


@dataclass(frozen=True, slots=True)
class Ranked:
    """One configuration that was tried."""

    rank: int | None
    """Rank from 1, among those that keep all limits; None for all others."""
    tied: bool
    """True if its difference to the best one is within noise."""
    name: str
    config: ServerConfig
    values: Mapping[str, Any]
    """The value of every axis of the search."""
    standing: Standing
    why: str
    """The problem with it; empty when all limits hold."""
    objective: Interval | None
    """Value in the objective's unit (of weights: a ratio to the first configuration tried), with its 90 % interval."""
    checks: tuple[Check, ...]
    runs: int
    """Runs, of one load each; those not to be trusted too."""
    stopped: str | None
    """The reason why it was given no more runs; None where none was given."""
    metrics: Mapping[str, Mapping[str, float | None]]
    """Means over the runs by load and quantity; None where a run has no value."""

    @property
    def ok(self) -> bool:
        return self.standing == "ok"

    @property
    def closest(self) -> str:
        """The limit that is nearest to being broken; empty where none has a share."""
        near = max((check for check in self.checks if check.by), key=lambda check: check.excess, default=None)
        return f"{near.name} {near.shown}, {near.by}" if near else ""


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult:
    """The end of a search, or how far it came."""

    name: str
    mode: Mode
    objective: str
    """The objective as people read it."""
    unit: str
    better: str
    """`higher` or `lower`: of the objective's levels as they are shown."""
    axes: Mapping[str, Sequence[Any]]
    loads: tuple[str, ...]
    limits: tuple[str, ...]
    ranked: tuple[Ranked, ...]
    """The best first."""
    tried: tuple[str, ...]
    """Names, in the order in which they were begun."""
    pareto: tuple[Front, ...]
    configurations: int
    """Configurations in the whole space."""
    runs: int
    """Runs that it took: those of an interrupted search that was continued too."""
    brute_runs: int
    """Runs that `mode: brute` would take before any that doubt adds."""
    environment: Mapping[str, Any]
    snippet: str = ""
    """The best configuration as the `servers:` part of a plan; empty without one."""
    plan: str = ""
    """The plan with it as the only server and the loads of the search; empty without one."""
    command: str = ""
    """The shell line that starts it (its first replica); empty without one."""
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    def __repr__(self) -> str:
        # pytest shows the values of a failed assertion, and forty configurations would bury the answer.
        return f"SearchResult({self.answer!r})"

    @property
    def best(self) -> Ranked | None:
        """The best configuration; None when none keeps all limits."""
        return next((found for found in self.ranked if found.ok), None)

    @property
    def ties(self) -> tuple[Ranked, ...]:
        """Configurations whose difference to the best is within noise."""
        return tuple(found for found in self.ranked if found.tied and found.rank != 1)

    @property
    def answer(self) -> str:
        """One sentence: which configuration to take."""
        if not self.ranked:
            return f"{self.name}: nothing was measured"
        if self.best is None:
            return f"{self.name}: none of {len(self.ranked)} configurations tried keeps all limits"
        level = shown_level(self.best.objective, self.unit)
        return f"{self.name}: {self.best.name} {self.claim}: {self.objective} {level}"

    @property
    def claim(self) -> str:
        """The best one's standing: `is the best`, or `leads` where others are within noise."""
        others = len(self.ties)
        standing = f"leads, {counted(others, 'other')} within noise" if others else "is the best"
        return f"{standing} so far" if self.interrupted else standing

    @property
    def simulated(self) -> bool:
        """True if step times were modelled."""
        return any(found.config.simulated for found in self.ranked)

    @property
    def effort(self) -> str:
        """The number of configurations and runs measured, against measuring all where that was not done."""
        tried = f"{len(self.ranked)} of {self.configurations} configurations tried, {self.runs} runs"
        return tried if len(self.ranked) == self.configurations else f"{tried}; brute force takes {self.brute_runs}"


def shown_level(level: Interval | None, unit: str) -> str:
    """`412 tok/s (398 to 427)`, a dash for None."""
    if level is None:
        return "-"
    return f"{level.value:.4g}{f' {unit}' if unit else ''} ({level.low:.4g} to {level.high:.4g})"


def make_result(
    found: Candidates, contest: Contest, environment: Mapping[str, Any], *, interrupted: bool, notes: Sequence[str]
) -> SearchResult:
    """Everything that follows from the trials."""
    order = contest.ranked()
    scale = _Scale(found, contest)
    ok = [at for at in order if contest.assessment(at).standing == "ok"]
    ranked = tuple(_ranked(found, contest, at, scale, ok) for at in order)
    limits = [str(limit) for point in found.points for limit in point.sla]
    limits += [str(found.spec.memory_limit)] if found.spec.memory_limit else []
    return SearchResult(
        name=found.name,
        mode=found.spec.mode,
        objective=scale.title,
        unit=scale.unit,
        better=scale.better,
        axes={axis.name: axis.values for axis in found.server.axes},
        loads=tuple(point.name for point in found.points),
        limits=tuple(dict.fromkeys(limits)),
        ranked=ranked,
        tried=tuple(found.configs[at].name for at in contest.held),
        pareto=tuple(_fronts(found, ranked)),
        configurations=len(found.space),
        runs=sum(one.runs for one in ranked),
        brute_runs=len(found.space) * found.spec.runs * len(found.points),
        environment=environment,
        notes=tuple(notes),
        interrupted=interrupted,
    )


class _Scale:
    """Converts scores to the shown values: the metric itself, or a ratio to the first configuration tried."""

    def __init__(self, found: Candidates, contest: Contest) -> None:
        aims = found.spec.aims
        if len(aims) == 1:
            (quantity,) = aims
            self.title, self.unit, self.better = str(quantity), quantity.unit, quantity.better
            self._reference = 1.0
            return
        self.title = " + ".join(f"{weight:g} x {quantity}" for quantity, weight in aims.items())
        self.unit, self.better = "x", "higher"
        levels = (contest.assessment(position).level for position in contest.held)
        self._reference = next((level.value for level in levels if level is not None), 1.0)

    def level(self, level: Interval | None) -> Interval | None:
        if level is None:
            return None
        if self.better == "lower":
            return Interval(1 / level.value, 1 / level.high, 1 / level.low)
        return Interval(*(value / self._reference for value in (level.value, level.low, level.high)))


def _ranked(found: Candidates, contest: Contest, at: Position, scale: _Scale, ok: Sequence[Position]) -> Ranked:
    """`ok`: those that keep all limits, the best first."""
    trial, assessed = contest.held[at], contest.assessment(at)
    tied = at in ok and (at == ok[0] or not contest.goal.beats(contest.assessment(ok[0]), assessed))
    return Ranked(
        rank=ok.index(at) + 1 if at in ok else None,
        tied=tied,
        name=found.configs[at].name,
        config=found.configs[at],
        values=found.values(at),
        standing=assessed.standing,
        why=assessed.why,
        objective=scale.level(assessed.level),
        checks=assessed.checks,
        runs=len(trial.runs),
        stopped=trial.stopped,
        metrics=_metrics(found, trial),
    )


def _metrics(found: Candidates, trial: Trial) -> dict[str, dict[str, float | None]]:
    means: dict[str, dict[str, float | None]] = {}
    for point in found.points:
        runs = trial.of(point.name)
        names = dict.fromkeys(name for run in runs for name in run.values)
        means[point.name] = {name: _mean([run.values.get(name) for run in runs]) for name in names}
        if any(run.gpu_memory_gb is not None for run in runs):
            means[point.name]["gpu_memory_gb"] = max(run.gpu_memory_gb or 0.0 for run in runs)
    return means


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def latency_of(found: Candidates) -> Quantity:
    """The latency that the search cares for: its objective's, its limits' first, else the median request latency."""
    limits = [limit.quantity for point in found.points for limit in point.sla]
    times = [quantity for quantity in (*found.spec.aims, *limits) if METRICS[quantity.metric].unit == "ms"]
    return times[0] if times else Quantity("e2e", "p50")


def _fronts(found: Candidates, ranked: Sequence[Ranked]) -> Iterator[Front]:
    latency = latency_of(found)
    for point in found.points:
        placed = (
            (one.name, one.metrics[point.name].get(str(OUTPUT_RATE)), one.metrics[point.name].get(str(latency)), one.ok)
            for one in ranked
            if one.standing in ("ok", "broken")
        )
        yield pareto_front(point.name, latency, placed)
