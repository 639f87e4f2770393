"""A duet for people: every gated metric of both servers side by side."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.gate.verdict import MetricVerdict
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.report.text import left, make_table, number, right, simulated_label, styled
from pytest_llmperf.report.views.verdicts import level, measured_change
from pytest_llmperf.units import percent, signed_percent


def duet_table(result: Result, regression: Regression) -> Table:
    """All gated metrics: both servers, the change with its 90 % interval, the margin, the verdict."""
    old, new = regression.duet or ("old", "new")
    title = f"{result.point_id}, {len(result.runs)} runs of each{simulated_label(result.environment.simulated)}"
    headers = (escape(old), escape(new), "change", "90 % interval", "margin")
    table = make_table(title, *left("metric"), *right(*headers), *left("verdict"))
    for metric in regression.metrics:
        table.add_row(*_row(metric))
    return table


def _row(metric: MetricVerdict) -> Iterator[str]:
    series = metric.series
    yield f"{series.quantity.title} ({series.quantity.unit})"
    yield from (number(level(side)) for side in (series.baseline, series.candidate))
    if change := measured_change(metric):
        at, low, high = change
        yield from (signed_percent(at), f"{signed_percent(low)} to {signed_percent(high)}")
    else:
        yield from ("-", "-")
    yield percent(series.margin)
    yield styled(metric.verdict)
