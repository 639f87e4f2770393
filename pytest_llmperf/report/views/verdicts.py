"""A gate's verdict in words and a small picture, for the failure's text, the terminal and JUnit. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import geometric_mean

from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.gate.rules import Verdict
from pytest_llmperf.gate.verdict import MetricVerdict
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.report.text import number
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.units import percent, signed_percent

_WIDTH = 44
SIDES = ("baseline", "now")
"""Names of a stored baseline and of this session; the sides of a duet have names of their own."""
_NEXT: dict[Verdict, str] = {
    "FAIL": "next: look for what changed; if the change is meant, run with --llmperf-accept",
    "NO BASELINE": "next: record one with --llmperf-update-baselines, or replace this one with --llmperf-accept",
    "IMPROVED": "next: run with --llmperf-accept, so that the new level is the one that is kept",
}
_DUET_NEXT: dict[Verdict, str] = {
    "FAIL": "next: look for what {new} does that {old} does not (notes, server logs), or widen a margin if it is meant",
    "NO BASELINE": "next: see in the log and the requests of {old} why it gave no numbers",
}
_NAMED = 2
"""Metrics that a headline names."""


def sla_verdict(outcome: Outcome) -> str:
    """PASS, FAIL, INCONCLUSIVE, INVALID (the numbers are not to be trusted), NOT CHECKED without any limit."""
    if not outcome.sla:
        return "NOT CHECKED"
    if outcome.result is not None and not outcome.result.valid:
        return "INVALID"
    found = {check.verdict for check in outcome.sla}
    return next(verdict for verdict in ("FAIL", "INCONCLUSIVE", "PASS") if verdict in found)


def limit_sentence(check: SlaCheck) -> str:
    """`TTFT p99 is 41 ms; the limit is at most 30 ms`."""
    quantity, limit = check.limit.quantity, check.limit
    if check.value is None:
        searched = quantity.metric in ("capacity", "capacity_concurrency")
        why = "no value: no level of the search holds" if searched else check.reason or "no value"
        return f"{quantity.title} has {why} (limit {quantity.shown(limit.value, 'g')})"
    side = "at most" if limit.op.startswith("<") else "at least"
    doubt = ", which the runs cannot confirm" if check.verdict == "INCONCLUSIVE" else ""
    bound = quantity.shown(limit.value, "g")
    return f"{quantity.title} is {quantity.shown(check.value)}; the limit is {side} {bound}{doubt}"


def limit_brief(check: SlaCheck) -> str:
    """`TTFT p99 41 ms, limit <= 30 ms`."""
    quantity, limit = check.limit.quantity, check.limit
    if check.value is None:
        return limit_sentence(check)
    return f"{quantity.title} {quantity.shown(check.value)}, limit {limit.op} {quantity.shown(limit.value, 'g')}"


def regression_verdict(outcome: Outcome) -> str:
    """The regression's verdict, or NOT CHECKED where no comparison was made."""
    return outcome.regression.verdict if outcome.regression else "NOT CHECKED"


def failure_text(
    point_id: str,
    regression: Regression | None = None,
    checks: Sequence[SlaCheck] = (),
    result: Result | None = None,
    lacking: str | None = None,
) -> str:
    """The findings of the gates that are no PASS: in one line, then in full, with the reference, the facts beside it
    and a cure.

    `lacking` says why there is nothing to compare with.
    """
    open_ = [check for check in checks if check.verdict != "PASS"]
    is_shown = (regression is not None and regression.verdict not in ("NOT GATED", "PASS")) or not open_
    heads = [_limits_headline(open_)] if open_ else []
    heads += [_headline(regression)] if regression and is_shown else []
    lines = [f"{point_id}: {'; '.join(heads)}"]
    lines += [f"{check.verdict} {check.describe()}" for check in open_]
    lines += _compared(regression) if regression and is_shown else []
    lines += [lacking] if lacking else []
    if result is not None:
        lines += [*filter(None, [result.host]), *result.failures]
    advice = _advice(regression) if regression and is_shown else ""
    return "\n  ".join([*lines, *([advice] if advice else [])])


def _compared(regression: Regression) -> Iterator[str]:
    """Every gated metric, those that decided the verdict first, and what they were held against."""
    verdict, sides = regression.verdict, regression.duet or SIDES
    for metric in regression.metrics:
        if metric.verdict == verdict:
            yield f"{verdict} {describe(metric, regression.duet)}"
            yield from picture(metric, sides)
    others = [metric for metric in regression.metrics if metric.verdict not in (verdict, "NOT GATED")]
    yield from (f"{metric.verdict} {describe(metric, regression.duet)}" for metric in others)
    if held := regression.against:
        yield "; ".join(filter(None, [f"against the {held.sentence}", held.provisional]))
    yield from (f"note: {note}" for note in regression.notes)


def _advice(regression: Regression) -> str:
    old, new = regression.duet or SIDES
    advice = (_DUET_NEXT if regression.duet else _NEXT).get(regression.verdict, "").format(old=old, new=new)
    if regression.verdict == "FAIL" and regression.against and regression.against.git_log:
        return advice.replace("look for what changed", f"look for what changed ({regression.against.git_log})")
    return advice


def _limits_headline(open_: Sequence[SlaCheck]) -> str:
    """`TTFT p99 is 41 ms; the limit is at most 30 ms, and 1 more: FAIL against the SLA`."""
    failed = [check for check in open_ if check.verdict == "FAIL"] or open_
    more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"{limit_sentence(failed[0])}{more}: {failed[0].verdict} against the SLA"


def headline(point_id: str, regression: Regression) -> str:
    """`a-short: ITL p50 +36.6 %, TTFT p50 +9.1 % and 2 more: FAIL against the baseline`."""
    return f"{point_id}: {_headline(regression)}"


def _headline(regression: Regression) -> str:
    """The metrics that decided the verdict, where anything needs to be said of them, then the verdict."""
    verdict, old = regression.verdict, regression.duet[0] if regression.duet else "the baseline"
    found = [metric for metric in regression.metrics if metric.verdict == verdict]
    if verdict in ("PASS", "NOT GATED") or not found:
        return f"{verdict} against {old}"
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{', '.join(map(short_change, found[:_NAMED]))}{more}: {verdict} against {old}"


def short_change(metric: MetricVerdict) -> str:
    """`ITL p50 +36.6 %`, or why nothing could be estimated."""
    change, title = measured_change(metric), metric.series.quantity.title
    return f"{title}: {metric.reason}" if change is None else f"{title} {signed_percent(change[0])}"


def describe(metric: MetricVerdict, duet: tuple[str, str] | None) -> str:
    """One line: the change of the metric's own value, now, then, the interval, and for some verdicts what follows.

    `ITL p50 +36.6 %: 14.94 ms, baseline 10.93 ms (90 % interval +32.9 % to +40.5 %, tolerated 5 %)`.
    """
    series, change = metric.series, measured_change(metric)
    if change is None:
        return levels(metric, duet)
    _, low, high = change
    interval = f"90 % interval {signed_percent(low)} to {signed_percent(high)}"
    reason = f"; {metric.reason}" if metric.verdict in ("INCONCLUSIVE", "IMPROVED") else ""
    return f"{levels(metric, duet)} ({interval}, tolerated {percent(series.margin)}){reason}"


def levels(metric: MetricVerdict, duet: tuple[str, str] | None) -> str:
    """`ITL p50 +36.6 %: 14.94 ms, baseline 10.93 ms`, or why there is no such change."""
    series = metric.series
    then, now = level(series.baseline), level(series.candidate)
    if metric.estimate is None or then is None or now is None:
        return f"{series.quantity.title}: {metric.reason}"
    anchor = " (anchor)" if series.reference == "anchor" else ""
    shown, old = series.quantity.shown, (duet or SIDES)[0]
    return f"{short_change(metric)}: {shown(now)}, {old}{anchor} {shown(then)}"


def measured_change(metric: MetricVerdict) -> tuple[float, float, float] | None:
    """Change of the metric's own value with its 90 % interval: throughput that got worse is negative.

    None where nothing could be estimated.
    """
    estimate = metric.estimate
    if estimate is None:
        return None
    logs = (estimate.log_ratio, estimate.bound(0.05), estimate.bound(0.95))
    at, *ends = map(metric.series.quantity.change, logs)
    return at, min(ends), max(ends)


def change_row(metric: MetricVerdict) -> tuple[str, ...]:
    """Cells of a table: metric and unit, then, now, the change with its 90 % interval, the margin, the verdict."""
    series, change = metric.series, measured_change(metric)
    at, low, high = ("-", "-", "-") if change is None else map(signed_percent, change)
    sides = (number(level(side)) for side in (series.baseline, series.candidate))
    interval = "-" if change is None else f"{low} to {high}"
    named = f"{series.quantity.title} ({series.quantity.unit})"
    return named, *sides, at, interval, percent(series.margin), metric.verdict


def level(runs: Sequence[Sequence[float | None]]) -> float | None:
    """Geometric mean over all runs, None when one has no value: what ratios of logs are about."""
    values = [value for launch in runs for value in launch]
    present = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not present or len(present) < len(values):
        return None
    return geometric_mean(present)


def detectable_change(metric: MetricVerdict) -> str | None:
    """The smallest change that would have failed, `+8.7 %`; None where nothing could be estimated."""
    if metric.detectable is None:
        return None
    return signed_percent(metric.series.quantity.change(math.log1p(metric.detectable)))


def picture(metric: MetricVerdict, names: tuple[str, str]) -> Iterator[str]:
    """Lines that show the runs of both sides over one axis; none where there is no number."""
    series = metric.series
    shown = series.quantity.shown
    sides = [[v for launch in side for v in launch if v is not None] for side in (series.baseline, series.candidate)]
    low, high = min(map(min, filter(None, sides)), default=0.0), max(map(max, filter(None, sides)), default=0.0)
    if not all(sides) or not math.isfinite(high - low) or high <= low:
        return
    wide = max(map(len, names))
    for label, values in zip(names, sides, strict=True):
        yield f"  {label:>{wide}} |{_strip(values, low, high)}|"
    axis = f"{shown(low)}{shown(high):>{_WIDTH - len(shown(low))}}"
    yield f"  {'':>{wide}}  {axis}  (x: a run, 2: two runs)"


def _strip(values: Sequence[float], low: float, high: float) -> str:
    """One mark per place, a digit where several runs share it."""
    places = [round((value - low) / (high - low) * (_WIDTH - 1)) for value in values]
    counts = [places.count(place) for place in range(_WIDTH)]
    return "".join("·" if not count else "x" if count == 1 else str(min(count, 9)) for count in counts)
