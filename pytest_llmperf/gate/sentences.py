"""A verdict in one sentence, for someone who was woken up by it: what changed, how sure that is, what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_llmperf.gate.rules import Level, Rules, Verdict
from pytest_llmperf.metrics.stats.estimate import Estimate

_CURES: dict[Level, str] = {
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
    real: bool
    """Holm's correction rejects "no change"."""
    undecided: bool
    too_noisy: Level | None
    stored: bool = True
    """Whether the reference is a stored baseline; else a server beside this one."""


def explain(verdict: Verdict, finding: Finding) -> str:
    """For the verdicts that rest on an estimate; the others bring their own reason."""
    match verdict:
        case "FAIL":
            return f"{_worse(finding)}, and the margin is {finding.margin:.0%}"
        case "IMPROVED":
            stale = ": the baseline is stale, accept the new level with --llmperf-accept"
            return f"{_better(finding)}{stale if finding.stored else ''}"
        case "PASS":
            return _passed(finding)
        case _:
            return _inconclusive(finding)


def change(log_ratio: float) -> str:
    """`10.2 % worse`, `3.4 % better`."""
    share = math.expm1(log_ratio)
    return f"{abs(share):.1%} {'worse' if share >= 0 else 'better'}"


def _lower(finding: Finding) -> float:
    return finding.estimate.bound(finding.rules.alpha_fail)


def _upper(finding: Finding) -> float:
    return finding.estimate.bound(1 - finding.rules.alpha_pass)


def _worse(finding: Finding) -> str:
    confidence = 1 - finding.rules.alpha_fail
    return f"{change(finding.estimate.log_ratio)}, with {confidence:.0%} confidence at least {change(_lower(finding))}"


def _better(finding: Finding) -> str:
    confidence = 1 - finding.rules.alpha_pass
    return f"{change(finding.estimate.log_ratio)}, with {confidence:.0%} confidence at least {change(_upper(finding))}"


def _passed(finding: Finding) -> str:
    if finding.undecided:
        return f"{_better(finding)}, which {_missing(finding)} will confirm"
    upper, confidence = _upper(finding), 1 - finding.rules.alpha_pass
    shown = f"at {'most' if upper >= 0 else 'least'} {change(upper)}"
    seen = finding.estimate.detectable(finding.margin, finding.rules.alpha_fail)
    return (
        f"{change(finding.estimate.log_ratio)}, with {confidence:.0%} confidence {shown}, margin {finding.margin:.0%}; "
        f"{seen:.1%} worse would have failed four times in five"
    )


def _inconclusive(finding: Finding) -> str:
    if finding.runs < finding.rules.first_runs:
        decide = "decides" if finding.runs == 1 else "decide"
        return f"{_runs(finding.runs)} {decide} nothing: {finding.rules.first_runs} are needed"
    if _lower(finding) > math.log1p(finding.margin):
        return _suspected(finding)
    between = f"between {change(_lower(finding))} and {change(_upper(finding))}"
    text = f"{between}, so on either side of the margin of {finding.margin:.0%} after {_runs(finding.runs)}"
    if finding.undecided:
        return f"{text}; another run may tell"
    return f"{text}{_noise(finding)}"


def _suspected(finding: Finding) -> str:
    if finding.runs < finding.rules.confirmed_runs:
        return f"{_worse(finding)}, which {_missing(finding)} must confirm"
    return f"{_worse(finding)}, but among all metrics gated in this session such a difference may be chance"


def _missing(finding: Finding) -> str:
    return f"{_runs(finding.rules.confirmed_runs - finding.runs)} more"


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
