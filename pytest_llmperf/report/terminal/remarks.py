"""Lines below the tables: what was not measured, and what a reader must know of each point. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.report.views.verdicts import describe
from pytest_llmperf.runner.describe import counted
from pytest_llmperf.runner.outcomes import Outcome


def remark_lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Points that were skipped, resumed or interrupted, then each point's remarks."""
    yield from _skipped(outcomes)
    yield from _resumed(outcomes)
    if any(outcome.passed is None and outcome.error == "interrupted" for outcome in outcomes):
        yield "interrupted: --llmperf-resume goes on, and measures again only what was not complete"
    yield from _remarks(outcomes)


def _skipped(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Pytest itself tells the reasons only with -rs, and a suite that measured nothing would look green."""
    points_of: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.passed is None and outcome.error and outcome.error.startswith("skipped: "):
            points_of.setdefault(outcome.error, []).append(outcome.point_id)
    for reason, points in points_of.items():
        yield f"{reason} ({', '.join(points)})"


def _resumed(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """One line for all: a suite may have resumed hundreds."""
    taken = [(outcome.taken_from.astimezone(), outcome.point_id) for outcome in outcomes if outcome.taken_from]
    if taken:
        names = ", ".join(name for _, name in taken)
        yield f"not measured again, resumed from {min(taken)[0]:%Y-%m-%d %H:%M:%S}: {names}"


def _remarks(outcomes: Iterable[Outcome]) -> Iterator[str]:
    points_of: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.result is None:
            continue
        if outcome.passed is None and outcome.error and outcome.result.runs:
            yield f"{outcome.point_id}: {outcome.error} after {counted(len(outcome.result.runs), 'run')}"
        for remark in outcome.result.remarks:
            yield f"{outcome.point_id}: {remark}"
        for reason in outcome.result.incomparable if outcome.result.runs else ():
            yield f"INVALID {outcome.point_id}: {reason}"
        if outcome.reruns:
            runs = counted(len(outcome.reruns), "more run")
            yield f"{outcome.point_id}: {runs}, the last because of {outcome.reruns[-1]}"
        if outcome.regression:
            yield from _gate_remarks(outcome.point_id, outcome.regression)
            since = "from {} to {}".format(*duet) if (duet := outcome.regression.duet) else "since the baseline"
            for note in outcome.regression.notes:
                points_of.setdefault(f"{since}, {note}", []).append(outcome.point_id)
    for note, points in points_of.items():
        yield f"note: {note} ({', '.join(points)})"


def _gate_remarks(point_id: str, regression: Regression) -> Iterator[str]:
    """Lines on a verdict other than FAIL, which has its text in the test's failure."""
    if regression.verdict in ("IMPROVED", "INCONCLUSIVE"):
        for metric in regression.metrics:
            if metric.verdict == regression.verdict:
                yield f"{metric.verdict} {point_id}: {describe(metric, regression.duet)}"
    seen = [metric for metric in regression.metrics if metric.verdict == "PASS" and metric.detectable is not None]
    if regression.verdict == "PASS" and seen:
        caught = ", ".join(f"{m.series.quantity} {m.detectable:+.1%}" for m in seen if m.series.reference != "anchor")
        yield f"{point_id}: PASS; four times in five this would have failed: {caught}"
