"""A gate's verdict in words and a small picture, for the failure's text, the terminal and JUnit. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.gate.rules import Verdict
from pytest_llmperf.gate.sentences import change
from pytest_llmperf.gate.verdict import MetricVerdict
from pytest_llmperf.runner.outcomes import Outcome

_WIDTH = 44
SIDES = ("baseline", "now")
"""Names of a stored baseline and of this session; the sides of a duet have names of their own."""
_HEADS: dict[Verdict, str] = {
    "FAIL": "worse than {old}",
    "NO BASELINE": "there is no usable baseline to compare with",
    "INCONCLUSIVE": "cannot be told from {old}, nor shown to be as good",
    "IMPROVED": "better than {old}",
    "PASS": "no worse than {old} allows",
    "NOT GATED": "nothing of it is gated",
}
_DUET_HEADS: dict[Verdict, str] = {
    **_HEADS,
    "NO BASELINE": "{old} gave nothing to compare with",
    "PASS": "no worse than {old} by more than the margins",
}
_NEXT: dict[Verdict, str] = {
    "FAIL": "next: look for what changed (notes, server log); if the change is meant, run with --llmperf-accept",
    "NO BASELINE": "next: record one with --llmperf-update-baselines, or replace this one with --llmperf-accept",
    "INCONCLUSIVE": "next: run it again on a quieter machine, or do as the line above says",
    "IMPROVED": "next: run with --llmperf-accept, so that the new level is the one that is kept",
}
_DUET_NEXT: dict[Verdict, str] = {
    "FAIL": "next: look for what {new} does that {old} does not (notes, server logs), or widen a margin if it is meant",
    "NO BASELINE": "next: see in the log and the requests of {old} why it gave no numbers",
    "INCONCLUSIVE": _NEXT["INCONCLUSIVE"],
}


def sla_verdict(outcome: Outcome) -> str:
    """PASS, FAIL, INCONCLUSIVE, INVALID (the numbers are not to be trusted), NOT CHECKED without any limit."""
    if not outcome.sla:
        return "NOT CHECKED"
    if outcome.result is not None and not outcome.result.valid:
        return "INVALID"
    found = {check.verdict for check in outcome.sla}
    return next(verdict for verdict in ("FAIL", "INCONCLUSIVE", "PASS") if verdict in found)


def regression_verdict(outcome: Outcome) -> str:
    """The regression's verdict, or NOT CHECKED where no comparison was made."""
    return outcome.regression.verdict if outcome.regression else "NOT CHECKED"


def failure_text(point_id: str, regression: Regression) -> str:
    """The verdict, what decided it first, and what to do."""
    verdict = regression.verdict
    decisive = [metric for metric in regression.metrics if metric.verdict == verdict]
    others = [metric for metric in regression.metrics if metric.verdict not in (verdict, "NOT GATED")]
    lines = [headline(point_id, regression)]
    sides = regression.duet or SIDES
    for metric in decisive:
        lines += [describe(metric, regression.duet), *picture(metric, sides)]
    lines += [describe(metric, regression.duet) for metric in others]
    lines += [f"note: {note}" for note in regression.notes]
    advice = (_DUET_NEXT if regression.duet else _NEXT).get(verdict, "")
    return "\n  ".join([*lines, *([advice.format(old=sides[0], new=sides[1])] if advice else [])])


def headline(point_id: str, regression: Regression) -> str:
    """The verdict in one line."""
    heads, old = (_DUET_HEADS, regression.duet[0]) if regression.duet else (_HEADS, "its baseline")
    return f"{point_id}: {heads[regression.verdict].format(old=old)} ({regression.verdict})"


def describe(metric: MetricVerdict, duet: tuple[str, str] | None) -> str:
    """One line: metric, now, then, the change with its interval, margin, runs, verdict and why."""
    series, estimate = metric.series, metric.estimate
    name = f"{series.quantity}{' against the anchor' if series.reference == 'anchor' else ''}"
    then, now = level(series.baseline), level(series.candidate)
    if estimate is None or then is None or now is None:
        return f"{name}: {metric.verdict}: {metric.reason}"
    interval = f"{change(estimate.bound(0.05))} to {change(estimate.bound(0.95))}"
    runs = f"{series.runs} runs against {sum(map(len, series.baseline))}"
    shown = series.quantity.shown
    return (
        f"{name}: {shown(now)}, {(duet or SIDES)[0]} {shown(then)}; {change(estimate.log_ratio)} ({interval}), "
        f"margin {series.margin:.0%}, {runs}: {metric.verdict}: {metric.reason}"
    )


def measured_change(metric: MetricVerdict) -> tuple[float, float, float] | None:
    """Change of the metric's own value with its 90 % interval: throughput that got worse is negative.

    None where nothing could be estimated.
    """
    estimate, sign = metric.estimate, 1 if metric.series.quantity.better == "lower" else -1
    if estimate is None:
        return None
    at, *ends = (math.expm1(sign * log) for log in (estimate.log_ratio, estimate.bound(0.05), estimate.bound(0.95)))
    return at, min(ends), max(ends)


def level(runs: Sequence[Sequence[float | None]]) -> float | None:
    """Geometric mean over all runs, None when one has no value: what ratios of logs are about."""
    values = [value for launch in runs for value in launch]
    present = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not present or len(present) < len(values):
        return None
    return math.exp(math.fsum(map(math.log, present)) / len(present))


def picture(metric: MetricVerdict, names: tuple[str, str]) -> Iterator[str]:
    """Lines that show the runs of both sides on one scale; none where there is no number."""
    series = metric.series
    shown = series.quantity.shown
    sides = [[v for launch in side for v in launch if v is not None] for side in (series.baseline, series.candidate)]
    low, high = min(map(min, filter(None, sides)), default=0.0), max(map(max, filter(None, sides)), default=0.0)
    if not all(sides) or not math.isfinite(high - low) or high <= low:
        return
    wide = max(map(len, names))
    for label, values in zip(names, sides, strict=True):
        yield f"  {label:>{wide}} {shown(low)} |{_strip(values, low, high)}| {shown(high)}"


def _strip(values: Sequence[float], low: float, high: float) -> str:
    """One mark per place, a digit where several runs share it."""
    places = [round((value - low) / (high - low) * (_WIDTH - 1)) for value in values]
    counts = [places.count(place) for place in range(_WIDTH)]
    return "".join("·" if not count else "x" if count == 1 else str(min(count, 9)) for count in counts)
