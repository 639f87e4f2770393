"""A verdict in one sentence, for someone who was woken up by it: what changed, how sure that is, what would decide it.

A change is that of the metric's own value, with its sign: latency that got worse rises, throughput falls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.gate.rules import NoiseSource, Rules, Verdict
from pytest_llmperf.metrics.stats.estimate import Estimate, projected
from pytest_llmperf.metrics.stats.margins import Prior
from pytest_llmperf.units import counted, percent, signed_percent

_MOST_SESSIONS = 10
"""More sessions of a baseline than this are no advice."""
_RECORDED = 3
"""Runs that a session adds to a baseline."""
_TIMES_REQUESTS = (2, 4, 8)
_LEAST_SHARE = 0.05
"""Share of an interval's variance below which a source of noise is left out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The figures that a sentence is made from."""

    quantity: Quantity
    estimate: Estimate
    margin: float
    prior: Prior
    baseline: tuple[int, ...]
    """Runs of each session (server launch) of the reference."""
    candidate: tuple[int, ...]
    rules: Rules
    undecided: bool
    too_noisy: NoiseSource | None
    stored: bool = True
    """True if the reference is a stored baseline; else it is a server beside this one."""

    @property
    def runs(self) -> int:
        return sum(self.candidate)

    @property
    def lower(self) -> float:
        """Log ratio of at least which the change is, as surely as a FAIL must be."""
        return self.estimate.bound(self.rules.alpha_fail)

    def worse(self, alpha: float) -> str:
        return f"{self.change}, with {percent(1 - alpha)} confidence beyond {self.shown(self.estimate.bound(alpha))}"

    @property
    def better(self) -> str:
        sure = percent(1 - self.rules.alpha_pass)
        return (
            f"{self.change}, with {sure} confidence beyond {self.shown(self.estimate.bound(1 - self.rules.alpha_pass))}"
        )

    @property
    def change(self) -> str:
        return self.shown(self.estimate.log_ratio)

    @property
    def tolerated(self) -> str:
        return f"{percent(self.margin)} tolerated"

    @property
    def missing(self) -> str:
        """Number of runs that it takes to confirm the finding, as text."""
        return f"{counted(self.rules.confirmed_runs - self.runs, 'run')} more"

    def shown(self, log_worse: float) -> str:
        return signed_percent(self.quantity.change(log_worse))


def explain(verdict: Verdict, finding: Finding) -> str:
    """The sentence of a verdict that rests on an estimate; the others bring their own reason."""
    match verdict:
        case "FAIL":
            return f"{finding.worse(finding.rules.alpha_of(finding.runs))}, {finding.tolerated}"
        case "IMPROVED":
            stale = ": the baseline is stale, accept the new level with --llmperf-accept"
            return f"{finding.better}{stale if finding.stored else ''}"
        case "PASS":
            return _passed(finding)
        case _:
            return _inconclusive(finding)


def _passed(finding: Finding) -> str:
    if finding.undecided:
        return f"{finding.better}, which {finding.missing} will confirm"
    most = finding.shown(finding.estimate.bound(1 - finding.rules.alpha_pass))
    sure = percent(1 - finding.rules.alpha_pass)
    return f"{finding.change}, with {sure} confidence not beyond {most}, {finding.tolerated}; {_seen(finding)}"


def _seen(finding: Finding) -> str:
    seen = finding.estimate.detectable(finding.margin, finding.rules.alpha_fail)
    return f"the smallest change that would have failed is {finding.shown(math.log1p(seen))}"


def _inconclusive(finding: Finding) -> str:
    if finding.runs < finding.rules.first_runs:
        decide = "decides" if finding.runs == 1 else "decide"
        return f"{counted(finding.runs, 'run')} {decide} nothing: {finding.rules.first_runs} are needed"
    if finding.lower > math.log1p(finding.margin):
        worse = finding.worse(finding.rules.alpha_fail)
        if finding.runs < finding.rules.confirmed_runs:
            return f"{worse}, which {finding.missing} must confirm"
        return f"{worse}, but among all metrics gated in this session such a difference may be chance"
    ends = sorted(map(finding.quantity.change, (finding.lower, finding.estimate.bound(1 - finding.rules.alpha_pass))))
    between = " and ".join(map(signed_percent, ends))
    text = f"between {between} as surely as a verdict asks for, {finding.tolerated}, {counted(finding.runs, 'run')}"
    if finding.undecided:
        return f"{text}; another run may tell"
    noisy = f"; {_seen(finding)}" if finding.too_noisy else ""
    return f"{text}{noisy}. The interval is {_made_of(finding)}. {_cure(finding)}"


def _made_of(finding: Finding) -> str:
    """Sources of noise by their share of the interval's variance, each with its size."""
    estimate = finding.estimate
    whole = estimate.run_variance + estimate.session_variance
    launches = counted(len(finding.candidate), "launch")
    between = percent(estimate.session_sd)
    held = f"the {counted(len(finding.baseline), 'session')} of the baseline"
    assumed = f"assumed to differ by {between}" if estimate.is_session_assumed else f"which differ by {between}"
    sources = (
        (estimate.run_variance, f"noise between runs (which differ by {percent(estimate.run_sd)})"),
        (estimate.session_variance - estimate.launch_variance, f"{held} (sessions are {assumed})"),
        (estimate.launch_variance, f"this session's {launches} of the server"),
    )
    shares = [f"{variance / whole:.0%} {source}" for variance, source in sources if variance > _LEAST_SHARE * whole]
    return ", ".join(shares).replace("% ", " % ").replace("are which differ", "differ")


def _cure(finding: Finding) -> str:
    cures = list(_cures(finding))
    if not cures:
        sessions = f"{_MOST_SESSIONS} more sessions nor " if finding.stored else ""
        tried = f"{'Neither' if sessions else 'Not even'} {sessions}{_TIMES_REQUESTS[-1]} times the requests per run"
        return f"{tried} would decide it: the change is too near to what is tolerated for this noise"
    return f"What would decide it, if noise stays as it is: {'; or '.join(cures)}"


def _cures(finding: Finding) -> Iterator[str]:
    """Ways to an interval that lies on one side of what is tolerated, with their number."""
    then, now = finding.baseline, finding.candidate
    found = list(_of_sessions(finding)) if finding.stored else []
    yield from found
    for times in _TIMES_REQUESTS:
        if _decides(finding, then, now, run_sd=finding.estimate.run_sd / math.sqrt(times)):
            yield f"{times} times the requests per run, or a quieter machine"
            return
    if finding.stored and not found:
        yield from _together(finding)


def _of_sessions(finding: Finding) -> Iterator[str]:
    """Ways to less noise between sessions."""
    then, now, runs = finding.baseline, finding.candidate, finding.runs
    enough = range(1, _MOST_SESSIONS + 1)
    more = next((n for n in enough if _decides(finding, (*then, *[_RECORDED] * n), now)), None)
    if more:
        yield f"{counted(more, 'more session')} of the old state in the baseline (--llmperf-update-baselines)"
    if len(now) < runs and _decides(finding, then, (1,) * runs):
        yield f"a launch of the server for each of the {runs} runs (--llmperf-relaunch=always)"
    if _decides(finding, (runs,), (runs,), session_sd=0.0):
        yield f"a duet of both servers, {runs} runs of each"


def _together(finding: Finding) -> Iterator[str]:
    """The least combination of more requests and more sessions, where neither is enough alone."""
    for times, more in itertools.product(_TIMES_REQUESTS, range(1, _MOST_SESSIONS + 1)):
        then, run_sd = (*finding.baseline, *[_RECORDED] * more), finding.estimate.run_sd / math.sqrt(times)
        if _decides(finding, then, finding.candidate, run_sd=run_sd):
            sessions = counted(more, "more session")
            yield f"{times} times the requests per run (or a quieter machine) with {sessions} in the baseline"
            return


def _decides(
    finding: Finding,
    then: tuple[int, ...],
    now: tuple[int, ...],
    run_sd: float | None = None,
    session_sd: float | None = None,
) -> bool:
    found = projected(finding.estimate, finding.prior, then, now, run_sd=run_sd, session_sd=session_sd)
    threshold = math.log1p(finding.margin)
    return found.bound(finding.rules.alpha_fail) > threshold or found.bound(1 - finding.rules.alpha_pass) < threshold
