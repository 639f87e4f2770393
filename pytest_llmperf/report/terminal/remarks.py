"""Lines below the tables: what was not measured, and what a reader must know of the points; the answer last. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from pytest_llmperf.report.sections.points import Point, by_gravity
from pytest_llmperf.report.views.standing import headline
from pytest_llmperf.report.views.verdicts import describe, detectable_change
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.units import counted

_ANSWERS = 16
"""Points in trouble that the answer lists."""
_NUMBER = re.compile(r"(?<![\w.])(?<!\w-)(?<!HTTP )\d+(\.\d+)?((, | to )\d+(\.\d+)?)*(?!\w)")
"""A number, a range or a list of them, none of a name (p99, HTTP 503): remarks that differ by these alone are one."""
_NAMED = 3
"""Points that a remark on many of them names."""


def remark_lines(outcomes: Sequence[Outcome], verbosity: int) -> Iterator[str]:
    """Points that were skipped, resumed or interrupted, then remarks, each once with the points that it is on.

    With -v no point is left out, and each says what it would have caught.
    """
    every = verbosity > 0
    yield from _skipped(outcomes)
    yield from _resumed(outcomes)
    if any(outcome.passed is None and outcome.error == "interrupted" for outcome in outcomes):
        yield "interrupted: --llmperf-resume goes on, and measures again only what was not complete"
    points_of: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        for remark in dict.fromkeys(_remarks(outcome, every=every)):
            alike = remark if every else _NUMBER.sub("0", remark)
            if outcome.point_id in points_of.get(alike, {}):
                alike = remark  # a second one, of another GPU for instance, is not the first
            points_of.setdefault(alike, {}).setdefault(outcome.point_id, remark)
    for shown in points_of.values():
        remark, *others = shown.values()
        whose = f" (the numbers are those of {next(iter(shown))})" if set(others) - {remark} else ""
        yield f"{_names(list(shown), every=every)}: {remark}{whose}"
    if verbosity == 0:
        yield from _caught(outcomes)


def _names(points: Sequence[str], *, every: bool) -> str:
    if every or len(points) <= _NAMED + 1:
        return ", ".join(points)
    return f"{', '.join(points[:_NAMED])} and {len(points) - _NAMED} more"


def _skipped(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Pytest itself tells the reasons only with -rs, and a suite that measured nothing would look green."""
    points_of: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.passed is None and outcome.error and outcome.error.startswith("skipped: "):
            points_of.setdefault(outcome.error, []).append(outcome.point_id)
    for reason, points in points_of.items():
        yield f"{reason} ({_names(points, every=False)})"


def _resumed(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """One line for all: a suite may have resumed hundreds."""
    taken = [(outcome.taken_from.astimezone(), outcome.point_id) for outcome in outcomes if outcome.taken_from]
    if taken:
        names = _names([name for _, name in taken], every=False)
        yield f"not measured again, resumed from {min(taken)[0]:%Y-%m-%d %H:%M:%S}: {names}"


def _remarks(outcome: Outcome, *, every: bool) -> Iterator[str]:
    result, regression = outcome.result, outcome.regression
    if result is None:
        return
    if outcome.passed is None and outcome.error and result.runs:
        yield f"{outcome.error} after {counted(len(result.runs), 'run')}"
    yield from (f"INVALID: {reason}" for reason in (result.incomparable if result.runs else ()))
    yield from result.remarks
    if outcome.reruns:
        why = f", the last because of {outcome.reruns[-1]}" if every else ""
        yield f"{counted(len(outcome.reruns), 'more run')}{why}"
    unsure = [check.limit.quantity.title for check in outcome.sla or () if check.is_unverified and check.ok]
    if unsure:
        yield f"unverified, as the requests are too few to certify it: {', '.join(unsure)} within its limit"
    if regression:
        since = "from {} to {}".format(*duet) if (duet := regression.duet) else "since the baseline"
        yield from (f"{since}, {note}" for note in regression.notes)
        if regression.against and regression.against.provisional:
            yield regression.against.provisional
        if every and regression.verdict != "FAIL":  # which has its text in the test's failure
            yield from (f"{m.verdict} {describe(m, duet)}" for m in regression.metrics if m.verdict != "NOT GATED")
            yield from (f"smallest change that would have failed: {seen}" for seen in _smallest([outcome]))


def _caught(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines on the smallest changes that would have failed, which belong beside every PASS."""
    passed = [one for one in outcomes if one.regression and one.regression.verdict == "PASS"]
    seen = ", ".join(_smallest(passed))
    if seen:
        yield f"smallest changes that would have failed in {counted(len(passed), 'point')} that PASS: {seen}"


def _smallest(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """`ITL p50 +8.7 %`, of several points the range."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        for metric in outcome.regression.metrics if outcome.regression else ():
            seen = detectable_change(metric) if metric.series.reference != "anchor" else None
            if metric.verdict == "PASS" and seen:
                found.setdefault(metric.series.quantity.title, []).append(seen)
    for title, changes in found.items():
        ends = sorted(changes, key=lambda change: abs(float(change.removesuffix(" %"))))
        yield f"{title} {ends[0]}" if ends[0] == ends[-1] else f"{title} {ends[0]} to {ends[-1]}"


def answer_lines(points: Sequence[Point], width: int) -> Iterator[tuple[str, str]]:
    """The end of the session: verdicts by count, then a line per point that got worse, is in doubt or improved.

    Yields each line's verdict (empty: none) and text.
    """
    if not points:
        return
    shown = [point for point in by_gravity(points) if point.standing.word in _SHOWN]
    yield "", headline([point.standing for point in points]).reasons[0]
    wide = max((len(point.standing.word) for point in shown), default=0)
    for point in shown[:_ANSWERS]:
        reasons, brief = point.standing.reasons, point.standing.brief
        more = f" (+{len(reasons) - 1})" if len(reasons) > 1 else ""
        text = f"{point.outcome.point_id}{': ' if brief else ''}{brief}"
        room = width - wide - 1 - len(more)
        yield point.standing.word, f"{textwrap.shorten(text, room, placeholder=' …')}{more}"
    if len(shown) > _ANSWERS:
        yield "", f"and {len(shown) - _ANSWERS} more"
    if any(point.standing.word == "IMPROVED" and not _is_duet(point) for point in shown):
        yield "", "IMPROVED makes a baseline stale: accept the new level with --llmperf-accept"


_SHOWN = ("FAIL", "INVALID", "ERROR", "INTERRUPTED", "INCONCLUSIVE", "IMPROVED")


def _is_duet(point: Point) -> bool:
    return point.outcome.regression is not None and point.outcome.regression.duet is not None
