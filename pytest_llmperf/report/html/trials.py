"""The objective of a search in the order of trials. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_llmperf.metrics.summary import rounded
from pytest_llmperf.report.html.charts import Cell, Chart, Trace, figure_of, safe, scatter
from pytest_llmperf.search.result import Ranked, SearchResult


def trials_chart(result: SearchResult) -> Chart | None:
    """The trials, and the best so far as a line, so that one sees how soon it was found; None without a number."""
    by_name = {found.name: found for found in result.ranked}
    measured = [by_name[name] for name in result.tried if by_name[name].objective is not None]
    if not measured:
        return None
    places = {found.name: place for place, found in enumerate(measured, start=1)}
    traces = [
        scatter("best so far", _best_so_far(result, measured), "now", "lines", line={"shape": "hv"}, hoverinfo="skip"),
        _dots("keeps all limits", "now", [found for found in measured if found.ok], places),
        _dots("breaks a limit", "bad", [found for found in measured if not found.ok], places),
    ]
    figure = figure_of([trace for trace in traces if trace["x"]], "trial", result.unit or "objective")
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


def _dots(name: str, role: str, found: Sequence[Ranked], places: dict[str, int]) -> Trace:
    levels = [(places[one.name], one.objective) for one in found if one.objective is not None]
    return scatter(
        name,
        ((place, level.value) for place, level in levels),
        role,
        "markers",
        marker={"symbol": "circle" if role == "now" else "x"},
        error_y={
            "type": "data",
            "array": [rounded(level.high - level.value) for _, level in levels],
            "arrayminus": [rounded(level.value - level.low) for _, level in levels],
        },
        text=[safe(one.name) for one in found],
        hovertemplate="%{text}: %{y:.4g}<extra>" + name + "</extra>",
    )


def _row(place: int, found: Ranked) -> tuple[Cell, ...]:
    level = found.objective
    values: tuple[Cell, ...] = (level.value, level.low, level.high) if level else (None, None, None)
    return (str(place), found.name, *values, "kept" if found.ok else found.why)
