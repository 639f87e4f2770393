"""Figures as Plotly's JSON, each with a table that says the same. Pure: no plotly is imported to make one.

Colours are left to the page, which knows whether it is dark: a trace names its role in `meta`, and page.js paints it.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_llmperf.definitions import METRICS, Quantity
from pytest_llmperf.metrics.stats.histogram import Histogram, histogram, lower_edge
from pytest_llmperf.report.views.sweeps import LATENCIES, THROUGHPUT, ParetoGroup, Sweep, SweepGroup, Tradeoff

Trace = dict[str, Any]
Cell = str | float | None
NAMES = {"ttft": "Time to first token", "itl": "Inter-token latency", "e2e": "Request latency"}
_BARS = 48
_NAME_ROOM = 0.2
"""Share of a chart's width that the name of a point takes."""
_TAIL = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
"""Percentiles of the text alternative, and the marks of the axis."""


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
    marks = [six(step * 10.0**decade) for decade in decades for step in (1, 2, 5)]
    return {"type": "log", "tickvals": marks, "ticktext": [f"{mark:,g}" for mark in marks]}


# Distributions


Labels = tuple[str, str]
"""What is called what is judged, and what it is held against."""
BASELINE: Labels = ("this session", "baseline")


def distribution_charts(
    samples: Mapping[str, Sequence[float]], baseline: Mapping[str, Histogram], labels: Labels = BASELINE
) -> tuple[tuple[Chart, Chart], ...]:
    """Of every latency in NAMES its histogram and its percentile curve; of those without a value none.

    `baseline` is what it is held against, stored or, in a duet, the old server's; `labels` say which.
    """
    return tuple(
        (
            _histogram_chart(name, samples[name], baseline.get(name, {}), labels),
            _curve_chart(name, samples[name], baseline.get(name, {}), labels),
        )
        for name in NAMES
        if samples.get(name)
    )


def _histogram_chart(name: str, values: Sequence[float], then: Histogram, labels: Labels) -> Chart:
    now = histogram(values)
    edges = _edges([*now, *then])
    sides = dict(zip(labels, [now, then] if then else [now], strict=False))
    shares = {label: _shares(held, edges) for label, held in sides.items()}
    traces = [_step(label, edges, share, role) for (label, share), role in zip(shares.items(), _ROLES, strict=False)]
    rows = tuple(
        (f"{_ms(low)} – {_ms(high)}", *(f"{share[place]:.1f} %" for share in shares.values()))
        for place, (low, high) in enumerate(itertools.pairwise(edges))
        if any(share[place] for share in shares.values())
    )
    figure = figure_of(traces, f"{name.upper()} in ms (log scale)", "requests in %", xaxis={"type": "log"})
    says = f"How {NAMES[name].lower()} was spread over {len(values)} requests{_beside(then, labels)}."
    return Chart(f"{NAMES[name]}: histogram", says, figure, ("ms", *shares), rows)


def _beside(then: Histogram, labels: Labels) -> str:
    old = "the baseline's" if labels == BASELINE else f"those of {labels[1]}:"
    return f", beside {old} {sum(then.values())}" if then else ""


_ROLES = ("now", "baseline")


def _edges(bins: Sequence[int]) -> list[float]:
    """Bars of equal width on a log axis that cover all of these bins of gate.histogram."""
    first, last = min(bins), max(bins) + 1
    per_bar = max(1, math.ceil((last - first) / _BARS))
    return [lower_edge(first + per_bar * place) for place in range(math.ceil((last - first) / per_bar) + 1)]


def _shares(held: Histogram, edges: Sequence[float]) -> list[float]:
    """Percent of the counts between each pair of edges."""
    total = sum(held.values()) or 1
    middles = [lower_edge(number) * 1.002 for number in held]
    counts, _ = np.histogram(middles, bins=edges, weights=list(held.values()))
    return [100 * float(count) / total for count in counts]


def _step(label: str, edges: Sequence[float], share: Sequence[float], role: str) -> Trace:
    """An outline, because two sets of bars on one another hide one of them."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": safe(label),
        "x": [six(edge) for edge in edges],
        "y": [*(six(value) for value in share), 0],
        "line": {"shape": "hv"},
        "fill": "tozeroy" if role == "now" else None,
        "meta": role,
        "hovertemplate": "%{y:.1f} % of the requests from %{x:.4g} ms<extra>" + safe(label) + "</extra>",
    }


def _curve_chart(name: str, values: Sequence[float], then: Histogram, labels: Labels) -> Chart:
    curves = [_percentiles(values), *([_histogram_percentiles(then)] if then else [])]
    sides = dict(zip(labels, curves, strict=False))
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": safe(label),
            "x": [_nines(p) for p, _ in curve],
            "y": [six(value) for _, value in curve],
            "customdata": [f"{p:.4g}" for p, _ in curve],
            "meta": role,
            "hovertemplate": "p%{customdata}: %{y:.4g} ms<extra>" + safe(label) + "</extra>",
        }
        for (label, curve), role in zip(sides.items(), _ROLES, strict=False)
    ]
    marks = [0.0, *_TAIL]
    axis = {"tickvals": [_nines(p) for p in marks], "ticktext": [f"p{p:g}" for p in marks]}
    figure = figure_of(traces, "share of requests that are faster", f"{name.upper()} in ms", xaxis=axis)
    rows = tuple((f"p{p:g}", *(_ms(_at(curve, p)) for curve in sides.values())) for p in _TAIL)
    says = f"{NAMES[name]} that the given share of requests does not exceed; the right end is the tail."
    return Chart(f"{NAMES[name]}: percentiles", says, figure, ("percentile", *(f"{s} (ms)" for s in sides)), rows)


def _nines(percentile: float) -> float:
    """p90 at 1, p99 at 2: the tail gets the room that users feel it in."""
    return round(-math.log10(1 - min(percentile, 99.9999) / 100), 4)


Curve = Sequence[tuple[float, float]]


def _percentiles(values: Sequence[float]) -> Curve:
    """As far as the sample reaches: of 100 requests nothing is known beyond p99."""
    grid = _grid(len(values))
    return list(zip(grid, map(float, np.percentile(np.asarray(values), grid)), strict=True))


def _histogram_percentiles(held: Histogram) -> Curve:
    values = np.array([lower_edge(number) * 1.002 for number in sorted(held)])
    reached = np.cumsum([held[number] for number in sorted(held)])
    grid = _grid(int(reached[-1]))
    places = np.searchsorted(reached, [p / 100 * reached[-1] for p in grid])
    return [(p, float(values[min(int(place), len(values) - 1)])) for p, place in zip(grid, places, strict=True)]


def _grid(n: int) -> list[float]:
    nines = [100 * (1 - 10**-step) for step in np.linspace(0, math.log10(max(n, 2)), 120)]
    return [float(p) for p in nines]


def _at(curve: Curve, percentile: float) -> float | None:
    """None beyond the curve's end."""
    if percentile > curve[-1][0] + 1e-9:
        return None
    return float(np.interp(percentile, [p for p, _ in curve], [value for _, value in curve]))


# Sweeps


def sweep_charts(group: SweepGroup) -> tuple[Chart, ...]:
    """Latency against throughput, one chart per latency, one line per server."""
    return tuple(chart for quantity in LATENCIES if (chart := _sweep_chart(group, quantity)))


def _sweep_chart(group: SweepGroup, quantity: Quantity) -> Chart | None:
    traces = [_sweep_trace(sweep, quantity, group.axis, place) for place, sweep in enumerate(group.sweeps)]
    if not any(trace["x"] for trace in traces):
        return None
    limit = group.limit(quantity)
    name = f"{NAMES[quantity.metric]} {quantity.stat}"
    layout = limit_line(limit.value, f"SLA {limit.op} {limit.value:g} ms") if limit else {}
    traces += [_knee_trace(sweep, quantity, place) for place, sweep in enumerate(group.sweeps)]
    figure = figure_of((t for t in traces if t["x"]), "output tokens per second", f"{name} in ms", **layout)
    rows = tuple(row for sweep in group.sweeps for row in _sweep_rows(sweep, quantity))
    knees = [f"{s.server} at {group.axis} {s.levels[s.knee].label}" for s in group.sweeps if s.knee is not None]
    says = f"Every mark is one {group.axis}. " + (
        f"Knee (most throughput per latency): {', '.join(knees)}." * bool(knees)
    )
    headers = ("server", group.axis, "output tok/s", f"{quantity} (ms)", "")
    return Chart(f"{group.load}: {name} against throughput", says.strip(), figure, headers, rows)


def _sweep_trace(sweep: Sweep, quantity: Quantity, axis: str, place: int) -> Trace:
    known = [(level, x, y) for level, x, y in _sweep_values(sweep, quantity) if x is not None and y is not None]
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": safe(sweep.server),
        "x": [six(x) for _, x, _ in known],
        "y": [six(y) for _, _, y in known],
        "text": [level.label for level, _, _ in known],
        "textposition": "top left",
        "cliponaxis": False,
        "meta": place,
        "hovertemplate": axis + " %{text}: %{x:.4g} tok/s, %{y:.4g} ms<extra>" + safe(sweep.server) + "</extra>",
    }


def _sweep_values(sweep: Sweep, quantity: Quantity) -> list[tuple[Any, float | None, float | None]]:
    return [(lv, lv.result.metrics.value(THROUGHPUT), lv.result.metrics.value(quantity)) for lv in sweep.levels]


def _knee_trace(sweep: Sweep, quantity: Quantity, place: int) -> Trace:
    _, x, y = _sweep_values(sweep, quantity)[sweep.knee] if sweep.knee is not None else (None, None, None)
    shown = x is not None and y is not None
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"knee of {safe(sweep.server)}",
        "x": [x] if shown else [],
        "y": [y] if shown else [],
        "marker": {"symbol": "diamond-open", "size": 18, "line": {"width": 3}},
        "meta": place,
        "hoverinfo": "name",
    }


def _sweep_rows(sweep: Sweep, quantity: Quantity) -> Iterable[tuple[Cell, ...]]:
    for place, (level, x, y) in enumerate(_sweep_values(sweep, quantity)):
        mark = "INVALID" if not level.result.valid else "knee" if place == sweep.knee else ""
        yield sweep.server, level.label, x, y, mark


def limit_line(value: float, label: str) -> dict[str, Any]:
    """Layout with a dashed line at a limit, and its name."""
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": {"dash": "dash"}}
    note = {"xref": "paper", "x": 0.01, "y": value, "text": safe(label), "showarrow": False, "yanchor": "bottom"}
    return {"shapes": [line], "annotations": [{**note, "xanchor": "left"}]}


def pareto_chart(group: ParetoGroup, latency: Quantity) -> Chart:
    """All points of a load, those that nothing beats joined by a line."""
    front = sorted((p for p in group.points if p.on_front), key=lambda p: p.throughput)
    rest = [p for p in group.points if not p.on_front]
    crowded = _crowded(front, group.points)
    reached = [p.throughput for p in group.points]
    middle = (min(reached) + max(reached)) / 2
    traces = [
        {
            "type": "scatter",
            "mode": mode,
            "name": name,
            "x": [six(p.throughput) for p in points],
            "y": [six(p.latency_ms) for p in points],
            "text": ["" if p.point_id in crowded else safe(p.point_id) for p in points],
            "customdata": [safe(p.point_id) for p in points],
            # Names stand on the side where there is room for them.
            "textposition": ["top left" if p.throughput > middle else "top right" for p in points],
            "cliponaxis": False,
            "meta": role,
            "hovertemplate": "%{customdata}: %{x:.4g} tok/s, %{y:.4g} ms<extra></extra>",
        }
        for name, role, mode, points in (
            ("best trade-offs", "now", "lines+markers+text", front),
            ("beaten in both", "baseline", "markers", rest),
        )
        if points
    ]
    name = f"{METRICS[latency.metric].name.upper()} {latency.stat}"
    figure = figure_of(traces, "output tokens per second", f"{name} in ms")
    ordered = sorted(group.points, key=lambda p: (not p.on_front, p.latency_ms))
    rows = tuple((p.point_id, p.throughput, p.latency_ms, "yes" if p.on_front else "") for p in ordered)
    says = f"{len(front)} of {len(group.points)} points are beaten by no other in both throughput and latency."
    return Chart(
        f"{group.load}: latency against throughput (Pareto front)",
        says,
        figure,
        ("point", "output tok/s", f"{latency} (ms)", "best trade-off"),
        rows,
    )


def _crowded(front: Sequence[Tradeoff], points: Sequence[Tradeoff]) -> set[str]:
    """Those of the front, in order of throughput, whose name would be written over that of one with more throughput."""
    reached = [p.throughput for p in points]
    room = _NAME_ROOM * (max(reached) - min(reached))
    crowded: set[str] = set()
    last = math.inf
    for p in reversed(front):
        if last - p.throughput < room:
            crowded.add(p.point_id)
        else:
            last = p.throughput
    return crowded


def six(value: float) -> float:
    """To six significant digits."""
    return float(f"{value:.6g}")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
