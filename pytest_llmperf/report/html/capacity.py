"""Capacity searches as charts: every level against the limit that ends the search. Pure."""

from __future__ import annotations

from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import LevelTrial
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.report.html.charts import Chart, Trace, figure_of, limit_line, log_axis, safe, scatter

_SHAPES = {"HOLDS": "circle", "FAILS": "x", "INVALID": "square-open", "DIED": "cross"}
"""Shapes of the markers, so that verdicts differ not by colour alone."""
_ROLES = {"HOLDS": "now", "FAILS": "bad", "INVALID": "queue", "DIED": "bad"}


def trial_label(trial: LevelTrial) -> str:
    """The verdict, with a question mark where it is not sure, and what no limit says: that the server was behind."""
    verdict = trial.verdict if trial.sure else f"{trial.verdict}?"
    return f"{verdict}, over-saturated" if trial.saturated else verdict


def capacity_charts(point_id: str, capacity: Capacity) -> tuple[Chart, ...]:
    """One per limit that has values to show; that of failed requests only when some failed."""
    if not capacity.trials:
        return ()
    limits = [limit for limit in capacity.asked.sla if any(_shown(trial, limit) for trial in capacity.trials)]
    return tuple(_chart(point_id, capacity, limit) for limit in limits or capacity.asked.sla[:1])


def _shown(trial: LevelTrial, limit: Limit) -> bool:
    return bool(dict(trial.values).get(limit))


def _chart(point_id: str, capacity: Capacity, limit: Limit) -> Chart:
    unit = "req/s" if capacity.asked.request_rate else "requests in flight"
    quantity = limit.quantity
    name = f"{quantity} in {quantity.unit}" if quantity.unit != "ratio" else str(quantity)
    words = dict.fromkeys(trial.verdict for trial in capacity.trials)
    traces = [_line(capacity, limit), *(_marks(capacity, limit, word) for word in words)]
    values = [value for trial in capacity.trials if (value := dict(trial.values).get(limit))]
    scale = log_axis([*values, limit.value]) if quantity.unit != "ratio" else {}
    figure = figure_of(
        traces,
        f"{unit} (log scale)",
        f"{name}{' (log scale)' if scale else ''}",
        xaxis=log_axis([trial.level for trial in capacity.trials]),
        yaxis=scale,
        **limit_line(limit.value, f"limit {limit.op} {quantity.shown(limit.value, 'g')}", log=bool(scale)),
    )
    rows = tuple(
        (f"{trial.level:.4g}", place, trial_label(trial), dict(trial.values).get(limit), trial.reason)
        for place, search in enumerate(capacity.searches, start=1)
        for trial in search.trials
    )
    says = f"Every mark is a level of the search, the dashed line its limit. {capacity.sentence[:1].upper()}"
    headers = (unit, "search", "verdict", name, "what decided")
    return Chart(f"{point_id}: {quantity} by level", f"{says}{capacity.sentence[1:]}.", figure, headers, rows)


def _line(capacity: Capacity, limit: Limit) -> Trace:
    """A line through all levels from low to high, so that the eye sees the curve."""
    known = sorted((trial.level, value) for trial in capacity.trials if (value := dict(trial.values).get(limit)))
    return scatter("", known, "queue", "lines", showlegend=False, hoverinfo="skip")


def _marks(capacity: Capacity, limit: Limit, verdict: str) -> Trace:
    chosen = [(t, value) for t in capacity.trials if t.verdict == verdict and (value := dict(t.values).get(limit))]
    return scatter(
        verdict.lower(),
        ((trial.level, value) for trial, value in chosen),
        _ROLES[verdict],
        "markers",
        text=[safe(trial.reason) for trial, _ in chosen],
        marker={"symbol": _SHAPES[verdict], "size": 11},
        cliponaxis=False,
        hovertemplate="%{x:.4g}: %{text}<extra>" + verdict + "</extra>",
    )
