"""The levels and numbers of runs at which a verdict is given. Nothing here is computed."""

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
    at up to four times.
    """
    alpha_pass: float = 0.05
    alpha_family: float = 0.05
    """Holm's, over all gated metrics of the session."""
    first_runs: int = 3
    """Fewest runs that decide anything."""
    confirmed_runs: int = 5
    """Fewest runs of a FAIL or an IMPROVED."""
    most_runs: int = 8
    baseline_runs: int = 5
    """A baseline with fewer is none."""


DEFAULT = Rules()
STRICT = Rules(alpha_fail=0.01)
DUET = Rules(baseline_runs=3)
