"""The levels and numbers of runs at which a verdict is given. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["FAIL", "NO BASELINE", "INCONCLUSIVE", "PASS", "IMPROVED", "NOT GATED"]
NoiseSource = Literal["runs", "sessions"]
"""Source of noise: differences between runs of one server launch, or between launches."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Levels (alpha) are those of one-sided bounds."""

    alpha_fail: float = 0.02
    """Level of each of several looks, stricter than that of a single look: a change just below the margin is looked
    at more than once.
    """
    alpha_early: float = 0.005
    """Level of a FAIL of fewer than `confirmed_runs`: an early look must be surer."""
    alpha_pass: float = 0.05
    alpha_family: float = 0.05
    """Holm's, over all gated metrics of the session."""
    first_runs: int = 3
    """Fewest runs that decide anything."""
    early_runs: int = 4
    """Fewest runs of a FAIL, at `alpha_early`."""
    confirmed_runs: int = 5
    """Fewest runs of an IMPROVED, and of a FAIL at `alpha_fail`."""
    most_runs: int = 12
    """Most runs of a point that is held against a baseline, or in a duet."""
    limit_runs: int = 8
    """Most runs that the limits of a load ask for."""
    baseline_runs: int = 5
    """A baseline with fewer is none."""

    def alpha_of(self, runs: int) -> float:
        """Level at which so many runs FAIL."""
        return self.alpha_fail if runs >= self.confirmed_runs else self.alpha_early


DEFAULT = Rules()
STRICT = Rules(alpha_fail=0.01, alpha_early=0.0025)
DUET = Rules(baseline_runs=3)
