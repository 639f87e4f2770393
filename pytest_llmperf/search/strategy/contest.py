"""Configurations against each other: who is measured, who is measured again, who is better. Pure but for `run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pytest_llmperf.search.strategy.goal import Assessment, Goal
from pytest_llmperf.search.strategy.modes import OutOfTrials
from pytest_llmperf.search.strategy.space import Position
from pytest_llmperf.search.strategy.trial import Trial

PruneReason = Callable[[Trial], str | None]
Run = Callable[[Trial, int, PruneReason], Trial]
"""Gives the trial with so many runs of every load in all; fewer as soon as it is pruned, or fails."""
_FINALISTS = 3


@dataclass(slots=True)
class Contest:
    """Measures what a mode of `modes` asks for, keeps it, and compares; grows while a search goes on."""

    goal: Goal
    run: Run
    runs: int
    """Runs of every configuration before it is compared."""
    trials: int | None = None
    """Configurations that may be measured at most, beside those that this machine cannot run."""
    held: dict[Position, Trial] = field(default_factory=dict)
    """Trials in the order in which they were begun."""
    _found: dict[Position, Assessment] = field(default_factory=dict)
    _best: Position | None = None

    def measure(self, position: Position) -> None:
        """Measures a configuration, unless it was measured before. Raises OutOfTrials when no more may be."""
        if position in self.held:
            return
        counted = sum(trial.skipped is None for trial in self.held.values())
        if self.trials is not None and counted >= self.trials:
            raise OutOfTrials
        self._run(Trial(position), self.runs)

    def beats(self, one: Position, other: Position) -> bool | None:
        """True if `one` is better; both are run again while that is in doubt, up to the goal's `most_runs`."""
        self.measure(one)
        self.measure(other)
        while (better := self.goal.beats(self._found[one], self._found[other])) is None:
            if not self._rerun((one, other)):
                return self.goal.stands_above(self._found[one], self._found[other]) or None
        return better

    def measured(self) -> tuple[Position, ...]:
        """All so far."""
        return tuple(self.held)

    def final(self) -> None:
        """The best ones against each other, and the winner again while a limit of it is in doubt."""
        for _ in range(_FINALISTS):
            first, *others = self.ranked()[:_FINALISTS]
            for other in others:
                if self._found[other].standing == "ok":
                    self.beats(first, other)
            while self._found[first].standing == "ok" and not self._found[first].clear and self._rerun((first,)):
                pass
            if self.ranked()[0] == first:
                return

    def ranked(self) -> list[Position]:
        """All, the best first."""
        return sorted(self.held, key=lambda position: self.goal.order(self._found[position]))

    def assessment(self, position: Position) -> Assessment:
        return self._found[position]

    def _rerun(self, positions: Sequence[Position]) -> bool:
        """One more run of each that can still change; False when none can."""
        wanted = [self.held[position] for position in positions if self._open(self.held[position])]
        for trial in wanted:
            self._run(trial, trial.rounds(self.goal.loads) + 1)
        return bool(wanted)

    def _open(self, trial: Trial) -> bool:
        lost = trial.error or trial.skipped or trial.stopped
        invalid = self._found[trial.position].standing == "invalid"
        return not (lost or invalid) and trial.rounds(self.goal.loads) < self.goal.most_runs

    def _run(self, trial: Trial, rounds: int) -> None:
        best = self._found.get(self._best) if self._best is not None and self._best != trial.position else None
        done = self.run(trial, rounds, lambda so_far: self.goal.prune_reason(so_far, best))
        found = self.goal.assess(done)
        self.held[trial.position], self._found[trial.position] = done, found
        if found.standing == "ok":
            self._best = next(iter(self.ranked()))
