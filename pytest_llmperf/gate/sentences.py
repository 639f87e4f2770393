"""A verdict in one sentence, for someone who was woken up by it: what changed, how sure that is, what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_llmperf.gate.rules import NoiseSource, Rules, Verdict
from pytest_llmperf.metrics.stats.estimate import Estimate

_CURES: dict[NoiseSource, str] = {
    "runs": "take more requests per run, clear the machine of neighbours, or widen the margin",
    "sessions": "let every rerun launch the server anew, record more baseline sessions, or widen the margin",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a sentence is made from."""

    estimate: Estimate
    margin: float
    runs: int
    rules: Rules
    undecided: bool
    too_noisy: NoiseSource | None
    stored: bool = True
    """Whether the reference is a stored baseline; else a server beside this one."""

    @property
    def lower(self) -> float:
        """Log ratio of at least which the change is, as surely as a FAIL must be."""
        return self.estimate.bound(self.rules.alpha_fail)

    @property
    def upper(self) -> float:
        """Log ratio of at most which the change is, as surely as a PASS must be."""
        return self.estimate.bound(1 - self.rules.alpha_pass)

    @property
    def worse(self) -> str:
        return f"{self.change}, with {1 - self.rules.alpha_fail:.0%} confidence at least {change(self.lower)}"

    @property
    def better(self) -> str:
        return f"{self.change}, with {1 - self.rules.alpha_pass:.0%} confidence at least {change(self.upper)}"

    @property
    def change(self) -> str:
        return change(self.estimate.log_ratio)

    @property
    def missing(self) -> str:
        """How many runs it takes to confirm it."""
        return f"{_runs(self.rules.confirmed_runs - self.runs)} more"


def explain(verdict: Verdict, finding: Finding) -> str:
    """For the verdicts that rest on an estimate; the others bring their own reason."""
    match verdict:
        case "FAIL":
            return f"{finding.worse}, and the margin is {finding.margin:.0%}"
        case "IMPROVED":
            stale = ": the baseline is stale, accept the new level with --llmperf-accept"
            return f"{finding.better}{stale if finding.stored else ''}"
        case "PASS":
            return _passed(finding)
        case _:
            return _inconclusive(finding)


def change(log_ratio: float) -> str:
    """`10.2 % worse`, `3.4 % better`."""
    share = math.expm1(log_ratio)
    return f"{abs(share):.1%} {'worse' if share >= 0 else 'better'}"


def _passed(finding: Finding) -> str:
    if finding.undecided:
        return f"{finding.better}, which {finding.missing} will confirm"
    shown = f"at {'most' if finding.upper >= 0 else 'least'} {change(finding.upper)}"
    seen = finding.estimate.detectable(finding.margin, finding.rules.alpha_fail)
    return (
        f"{finding.change}, with {1 - finding.rules.alpha_pass:.0%} confidence {shown}, margin {finding.margin:.0%}; "
        f"{seen:.1%} worse would have failed four times in five"
    )


def _inconclusive(finding: Finding) -> str:
    if finding.runs < finding.rules.first_runs:
        decide = "decides" if finding.runs == 1 else "decide"
        return f"{_runs(finding.runs)} {decide} nothing: {finding.rules.first_runs} are needed"
    if finding.lower > math.log1p(finding.margin):
        if finding.runs < finding.rules.confirmed_runs:
            return f"{finding.worse}, which {finding.missing} must confirm"
        return f"{finding.worse}, but among all metrics gated in this session such a difference may be chance"
    between = f"between {change(finding.lower)} and {change(finding.upper)}"
    text = f"{between}, so on either side of the margin of {finding.margin:.0%} after {_runs(finding.runs)}"
    return f"{text}; another run may tell" if finding.undecided else f"{text}{_noise(finding)}"


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _noise(finding: Finding) -> str:
    if finding.too_noisy is None:
        return "; the change is about as large as the margin"
    between = f"runs differ by {finding.estimate.run_sd:.1%}"
    if finding.too_noisy == "sessions":
        between = f"server launches differ by {finding.estimate.session_sd:.1%}"
    seen = finding.estimate.detectable(finding.margin, finding.rules.alpha_fail)
    return f"; TOO NOISY to tell less than {seen:.0%}, since {between}: {_CURES[finding.too_noisy]}"
