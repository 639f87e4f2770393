"""Figures as Plotly's JSON, each with a table that says the same. Pure: no plotly is imported to make one.

Colours are left to the page, which knows whether it is dark: a trace names its role in `meta`, and page.js paints it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.metrics.summary import rounded

Trace = dict[str, Any]
Cell = str | float | None
NAMES = {"ttft": "Time to first token", "itl": "Inter-token latency", "e2e": "Request latency"}


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure, and its text alternative."""

    title: str
    says: str
    """One sentence for who cannot see the figure, and for who can: what it shows."""
    figure: Mapping[str, Any]
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    wide: bool = False
    """Takes the page's whole width: charts over time, which stand under one another."""


def safe(text: str) -> str:
    """Plotly reads <b> and <a> in labels as markup; names are text."""
    return html.escape(text, quote=False)


def figure_of(traces: Iterable[Trace], x: str, y: str, **layout: Any) -> dict[str, Any]:
    """Plotly's JSON with titled axes; `layout` may add to `xaxis` and `yaxis`."""
    axes = {"xaxis": {"title": {"text": x}, **layout.pop("xaxis", {})}, "yaxis": {"title": {"text": y}}}
    axes["yaxis"] |= layout.pop("yaxis", {})
    return {"data": list(traces), "layout": {**axes, **layout}}


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis marked 10, 20, 50, 100: Plotly itself writes 2 and 5 at 20 and 50."""
    known = [value for value in values if value > 0]
    if len(set(known)) == 1:
        return {"type": "log", "tickvals": known[:1], "ticktext": [f"{known[0]:,g}"]}
    if not known or max(known) < 4 * min(known):
        return {"type": "log"}
    decades = range(math.floor(math.log10(min(known))), math.floor(math.log10(max(known))) + 1)
    marks = [rounded(step * 10.0**decade) for decade in decades for step in (1, 2, 5)]
    return {"type": "log", "tickvals": marks, "ticktext": [f"{mark:,g}" for mark in marks]}


def scatter(name: str, points: Iterable[tuple[float, float]], role: str | int, mode: str, **more: Any) -> Trace:
    """A trace of (x, y); `role` says to the page in which colour."""
    known = list(points)
    return {
        "type": "scatter",
        "mode": mode,
        "name": safe(name),
        "x": [rounded(x) for x, _ in known],
        "y": [rounded(y) for _, y in known],
        "meta": role,
        **more,
    }


def limit_line(value: float, label: str, *, log: bool = False) -> dict[str, Any]:
    """Layout with a dashed line at a limit, and its name; `log` for a logarithmic axis."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": {"dash": "dash"}}
    if log and value <= 0:
        return {"shapes": [line], "annotations": []}
    # Plotly wants an annotation's place on a logarithmic axis as the logarithm, unlike a shape's.
    note = {"xref": "paper", "x": 0.01, "xanchor": "left", "y": math.log10(value) if log else value}
    note |= {"yanchor": "bottom", "text": safe(label), "showarrow": False}
    return {"shapes": [line], "annotations": [note]}
