"""Figures of a search: the objective in the order of trials, and latency against throughput. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_llmperf.report.html.charts import Cell, Chart, figure_of, safe, six
from pytest_llmperf.search.result import Front, Ranked, SearchResult, Tradeoff

_KEPT, _BROKEN = "keeps all limits", "breaks a limit"


def search_charts(result: SearchResult) -> Iterator[Chart]:
    """The trials, then the front of each load that has two configurations or more."""
    by_name = {found.name: found for found in result.ranked}
    measured = [by_name[name] for name in result.tried if by_name[name].objective is not None]
    if measured:
        yield _trials_chart(result, measured)
    yield from (_front_chart(result, front) for front in result.pareto if len(front.points) > 1)


def _trials_chart(result: SearchResult, measured: Sequence[Ranked]) -> Chart:
    """With what was the best so far as a line, so that one sees how soon it was found."""
    places = {found.name: place for place, found in enumerate(measured, start=1)}
    groups = (("best so far", "now", _best_so_far(result, measured)),)
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "meta": role,
            "x": [place for place, _ in points],
            "y": [six(value) for _, value in points],
            "line": {"shape": "hv"},
            "hoverinfo": "skip",
        }
        for name, role, points in groups
        if points
    ]
    dots = [
        _dots(name, role, [found for found in measured if found.ok is kept], places)
        for name, role, kept in ((_KEPT, "now", True), (_BROKEN, "bad", False))
    ]
    figure = figure_of([*lines, *(dot for dot in dots if dot["x"])], "trial", result.unit or "objective")
    rows = tuple(_row(places[found.name], found) for found in measured)
    when = f"; the best is trial {places[result.best.name]}" if result.best else "; none keeps all limits"
    says = f"{len(measured)} of {result.configurations} configurations, in the order tried{when}. Bars: 90 % intervals."
    headers = ("trial", "configuration", "objective", "from", "to", "limits")
    return Chart(f"Objective by trial: {result.objective}", says, figure, headers, rows)


def _best_so_far(result: SearchResult, measured: Sequence[Ranked]) -> list[tuple[int, float]]:
    pick = max if result.better == "higher" else min
    line: list[tuple[int, float]] = []
    for place, found in enumerate(measured, start=1):
        if found.ok and found.objective:
            value = found.objective.value
            line.append((place, pick(value, line[-1][1]) if line else value))
    if line and line[-1][0] < len(measured):
        line.append((len(measured), line[-1][1]))
    return line


def _dots(name: str, role: str, found: Sequence[Ranked], places: dict[str, int]) -> dict[str, Any]:
    levels = [one.objective for one in found if one.objective is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "meta": role,
        "marker": {"symbol": "circle" if role == "now" else "x"},
        "x": [places[one.name] for one in found],
        "y": [six(level.value) for level in levels],
        "error_y": {
            "type": "data",
            "array": [six(level.high - level.value) for level in levels],
            "arrayminus": [six(level.value - level.low) for level in levels],
        },
        "text": [safe(one.name) for one in found],
        "hovertemplate": "%{text}: %{y:.4g}<extra>" + name + "</extra>",
    }


def _row(place: int, found: Ranked) -> tuple[Cell, ...]:
    level = found.objective
    values: tuple[Cell, ...] = (level.value, level.low, level.high) if level else (None, None, None)
    return (str(place), found.name, *values, "kept" if found.ok else found.why)


def _front_chart(result: SearchResult, front: Front) -> Chart:
    on = sorted((point for point in front.points if point.on_front), key=lambda point: point.throughput)
    best = [point for point in front.points if result.best and point.name == result.best.name]
    traces = [
        _points("best trade-offs", "now", "lines+markers", on),
        _points("beaten in both", "baseline", "markers", [p for p in front.points if not p.on_front and p.ok]),
        _points(_BROKEN, "bad", "markers", [p for p in front.points if not p.ok], symbol="x"),
        _points("the best by the objective", "now", "markers", best, symbol="star", size=18),
    ]
    name = f"{front.latency.metric.upper()} {front.latency.stat}"
    figure = figure_of([t for t in traces if t["x"]], "output tokens per second", f"{name} in ms")
    ordered = sorted(front.points, key=lambda p: (not p.on_front, p.latency_ms))
    rows = tuple(
        (p.name, p.throughput, p.latency_ms, "yes" if p.on_front else "", "kept" if p.ok else "broken") for p in ordered
    )
    says = f"{len(on)} of {len(front.points)} configurations are beaten by no other in both throughput and latency."
    headers = ("configuration", "output tok/s", f"{front.latency} (ms)", "best trade-off", "limits")
    return Chart(f"{front.load}: latency against throughput (Pareto front)", says, figure, headers, rows)


def _points(
    name: str, role: str, mode: str, points: Sequence[Tradeoff], symbol: str = "circle", size: int = 9
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "meta": role,
        "marker": {"symbol": symbol, "size": size},
        "x": [six(p.throughput) for p in points],
        "y": [six(p.latency_ms) for p in points],
        "text": [safe(p.name) for p in points],
        "cliponaxis": False,
        "hovertemplate": "%{text}: %{x:.4g} tok/s, %{y:.4g} ms<extra></extra>",
    }
