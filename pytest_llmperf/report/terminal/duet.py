"""A duet for people: every gated metric of both servers side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.gate.verdict import MetricVerdict
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.report.text import STYLES, number
from pytest_llmperf.report.views.verdicts import level


def duet_table(result: Result, regression: Regression) -> Table:
    """What was gated: both servers, the change with its 90 % interval, the margin, the verdict."""
    old, new = regression.duet or ("old", "new")
    label = " (SIMULATED step times)" if result.environment.simulated else ""
    runs = f"{len(result.runs)} runs of each"
    table = Table(title=escape(f"{result.point_id}, {runs}{label}"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for header in (old, new, "change", "90 % interval", "margin"):
        table.add_column(escape(header), justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for metric in regression.metrics:
        table.add_row(*_row(metric))
    return table


def _row(metric: MetricVerdict) -> Iterator[str]:
    series, estimate = metric.series, metric.estimate
    yield f"{series.quantity} {series.quantity.unit}"
    yield from (number(level(side)) for side in (series.baseline, series.candidate))
    if estimate is None:
        yield from ("-", "-")
    else:
        low, high = _as_measured(metric, estimate.bound(0.05)), _as_measured(metric, estimate.bound(0.95))
        yield f"{_as_measured(metric, estimate.log_ratio):+.1%}"
        yield "{:+.1%} to {:+.1%}".format(*sorted((low, high)))
    yield f"{series.margin:.0%}"
    style = STYLES.get(metric.verdict)
    yield f"[{style}]{metric.verdict}[/]" if style else metric.verdict


def _as_measured(metric: MetricVerdict, log_ratio: float) -> float:
    """The change as the metric itself moved: throughput that got worse is negative."""
    return math.expm1(-log_ratio if metric.series.quantity.better == "higher" else log_ratio)
