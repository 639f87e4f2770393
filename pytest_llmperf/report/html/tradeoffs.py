"""Latency against throughput: sweeps with their knee, and Pareto fronts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.stats.pareto import Front, Tradeoff
from pytest_llmperf.report.html.charts import NAMES, Cell, Chart, Trace, figure_of, limit_line, safe, scatter
from pytest_llmperf.report.views.sweeps import LATENCIES, Level, Sweep, SweepGroup

_NAME_ROOM = 0.2
"""Share of a chart's width that the name of a point takes."""


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
    return scatter(
        sweep.server,
        ((x, y) for _, x, y in known),
        place,
        "lines+markers+text",
        text=[level.label for level, _, _ in known],
        textposition="top left",
        cliponaxis=False,
        hovertemplate=axis + " %{text}: %{x:.4g} tok/s, %{y:.4g} ms<extra>" + safe(sweep.server) + "</extra>",
    )


def _sweep_values(sweep: Sweep, quantity: Quantity) -> list[tuple[Level, float | None, float | None]]:
    return [(level, level.throughput, level.result.metrics.value(quantity)) for level in sweep.levels]


def _knee_trace(sweep: Sweep, quantity: Quantity, place: int) -> Trace:
    at = [] if sweep.knee is None else [_sweep_values(sweep, quantity)[sweep.knee]]
    points = [(x, y) for _, x, y in at if x is not None and y is not None]
    marker = {"symbol": "diamond-open", "size": 18, "line": {"width": 3}}
    return scatter(f"knee of {sweep.server}", points, place, "markers", marker=marker, hoverinfo="name")


def _sweep_rows(sweep: Sweep, quantity: Quantity) -> Iterable[tuple[Cell, ...]]:
    for place, (level, x, y) in enumerate(_sweep_values(sweep, quantity)):
        mark = "INVALID" if not level.result.valid else "knee" if place == sweep.knee else ""
        yield sweep.server, level.label, x, y, mark


def front_chart(front: Front, noun: str, best: str | None = None) -> Chart:
    """All points of a load, those that nothing beats joined by a line; `best` is marked too.

    `noun` is what a point is. Where limits were asked about, points that break one have their own mark and a column.
    """
    points = front.points
    leading = sorted((point for point in points if point.on_front), key=lambda point: point.throughput)
    rest = [point for point in points if not point.on_front and point.ok is not False]
    traces = [
        _front_trace("best trade-offs", "now", leading, points, mode="lines+markers+text"),
        _front_trace("beaten in both", "baseline", rest, points),
        _front_trace("breaks a limit", "bad", [p for p in points if p.ok is False], points, symbol="x"),
        _front_trace("the best by the objective", "now", [p for p in points if p.name == best], points, symbol="star"),
    ]
    latency = front.latency
    shown = [trace for trace in traces if trace["x"]]
    figure = figure_of(shown, "output tokens per second", f"{latency.metric.upper()} {latency.stat} in ms")
    says = f"{len(leading)} of {len(points)} {noun}s are beaten by no other in both throughput and latency."
    headers = (noun, "output tok/s", f"{latency} (ms)", "best trade-off")
    judged = any(point.ok is not None for point in points)
    ordered = sorted(points, key=lambda point: (not point.on_front, point.latency_ms))
    return Chart(
        f"{front.load}: latency against throughput (Pareto front)",
        says,
        figure,
        (*headers, "limits") if judged else headers,
        tuple(_front_row(point, judged) for point in ordered),
    )


def _front_row(point: Tradeoff, judged: bool) -> tuple[Cell, ...]:
    kept = ["kept" if point.ok else "broken"] if judged else []
    return point.name, point.throughput, point.latency_ms, "yes" if point.on_front else "", *kept


def _front_trace(
    name: str,
    role: str,
    shown: Sequence[Tradeoff],
    points: Sequence[Tradeoff],
    mode: str = "markers",
    symbol: str = "circle",
) -> Trace:
    crowded = _crowded(shown, points)
    reached = [point.throughput for point in points]
    middle = (min(reached) + max(reached)) / 2
    return scatter(
        name,
        ((point.throughput, point.latency_ms) for point in shown),
        role,
        mode,
        text=["" if point.name in crowded else safe(point.name) for point in shown],
        customdata=[safe(point.name) for point in shown],
        # Names stand on the side where there is room for them.
        textposition=["top left" if point.throughput > middle else "top right" for point in shown],
        marker={"symbol": symbol, "size": 18 if symbol == "star" else 9},
        cliponaxis=False,
        hovertemplate="%{customdata}: %{x:.4g} tok/s, %{y:.4g} ms<extra></extra>",
    )


def _crowded(front: Sequence[Tradeoff], points: Sequence[Tradeoff]) -> set[str]:
    """Names that would be written over that of a point with more throughput; `front` is in order of throughput."""
    reached = [p.throughput for p in points]
    room = _NAME_ROOM * (max(reached) - min(reached))
    crowded: set[str] = set()
    last = math.inf
    for p in reversed(front):
        if last - p.throughput < room:
            crowded.add(p.name)
        else:
            last = p.throughput
    return crowded
