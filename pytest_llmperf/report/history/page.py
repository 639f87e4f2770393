"""Trends of a history as one page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pytest_llmperf.history.analysis import Trend
from pytest_llmperf.report.history.tables import step_lines
from pytest_llmperf.report.html.charts import Chart, figure_of, safe
from pytest_llmperf.report.html.templating import render_page

_TEMPLATE = """
<p class="says">{{ says }}</p>
<div class="grid">{% for one in charts %}{{ chart(one) }}{% endfor %}</div>
"""


class _Place(NamedTuple):
    slug: str = "all sessions"
    simulated: bool = False


class _Headline(NamedTuple):
    word: str
    kind: str
    reasons: tuple[str, ...]


def history_page(trends: Sequence[Trend], made: datetime) -> str:
    """The whole file: a section per test and environment, a chart per metric. ImportError without the report extra."""
    groups: dict[tuple[str, str | None], list[Trend]] = {}
    for trend in trends:
        groups.setdefault((trend.test, trend.environment), []).append(trend)
    changed = sum(bool(trend.steps) for trend in trends)
    head = _Headline(
        "TRENDS", "none", (f"{len(groups)} points, {changed} of {len(trends)} metrics changed their level",)
    )
    sections = [
        (f"p{number}", same[-1].name, _TEMPLATE, {"says": _says(same), "charts": [_chart(trend) for trend in same]})
        for number, same in enumerate(groups.values())
    ]
    return render_page(sections, made, verdict=head, worst=(), environments=(_Place(),), answers=(), notes=())


def _says(same: Sequence[Trend]) -> str:
    trend = same[-1]
    return f"{trend.test}, {trend.environment or 'environment unknown'}, {len(trend.levels)} sessions"


def _chart(trend: Trend) -> Chart:
    """Every run as a dot, the sessions' means as a line, a dashed line where the level changed."""
    unit, levels = trend.quantity.unit, trend.levels
    runs = {
        "type": "scatter",
        "mode": "markers",
        "name": "runs",
        "x": [level.measured.isoformat() for level in levels for _ in level.values],
        "y": [value for level in levels for value in level.values],
        "meta": 1,
        "marker": {"size": 4},
    }
    means = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "mean of a session",
        "x": [level.measured.isoformat() for level in levels],
        "y": [level.mean for level in levels],
        "text": [safe(f"point {level.number}, {(level.commit or 'commit unknown')[:9]}") for level in levels],
        "meta": 0,
    }
    lines = [
        {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": at, "x1": at, "line": {"dash": "dash"}}
        for at in (step.after.measured.isoformat() for step in trend.steps)
    ]
    figure = figure_of(
        (runs, means), "measured", f"{trend.quantity} in {unit}", shapes=lines, yaxis={"rangemode": "tozero"}
    )
    rows = tuple(
        (f"{level.measured:%Y-%m-%d %H:%M}", (level.commit or "")[:9], level.mean, level.verdict) for level in levels
    )
    headers = ("measured", "commit", f"mean {unit}", "verdict")
    return Chart(f"{trend.quantity} in {unit}", "; ".join(step_lines(trend)), figure, headers, rows, wide=True)
