"""A duet for people: every gated metric of both servers side by side."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.report.text import left, make_table, right, simulated_label, styled
from pytest_llmperf.report.views.verdicts import change_row


def duet_table(result: Result, regression: Regression) -> Table:
    """All gated metrics: both servers, the change with its 90 % interval, the margin, the verdict."""
    old, new = regression.duet or ("old", "new")
    title = f"{result.point_id}, {len(result.runs)} runs of each{simulated_label(result.environment.simulated)}"
    headers = (escape(old), escape(new), "change", "90 % interval", "margin")
    table = make_table(title, *left("metric"), *right(*headers), *left("verdict"))
    for metric in regression.metrics:
        *cells, verdict = change_row(metric)
        table.add_row(*cells, styled(verdict))
    return table
