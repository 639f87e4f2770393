"""Latencies of all requests as histogram and as percentile curve, beside those they are held against. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pytest_llmperf.metrics.stats.histogram import Histogram, histogram, lower_edge
from pytest_llmperf.report.html.charts import NAMES, Chart, Trace, figure_of, safe, scatter

_BARS = 48
_TAIL = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
"""Percentiles of the text alternative, and the marks of the axis."""
_ROLES = ("now", "baseline")
Labels = tuple[str, str]
"""Names of the side that is judged, and of the one it is held against."""
BASELINE: Labels = ("this session", "baseline")


def distribution_charts(
    samples: Mapping[str, Sequence[float]], baseline: Mapping[str, Histogram], labels: Labels = BASELINE
) -> Iterator[Chart]:
    """Histogram and percentile curve of every latency in NAMES that has a value.

    `baseline` is what it is held against, stored or, in a duet, the old server's; `labels` say which.
    """
    for name in NAMES:
        if values := samples.get(name):
            yield _histogram_chart(name, values, baseline.get(name, {}), labels)
            yield _curve_chart(name, values, baseline.get(name, {}), labels)


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
    hover = "%{y:.1f} % of the requests from %{x:.4g} ms<extra>" + safe(label) + "</extra>"
    fill = "tozeroy" if role == "now" else None
    points = zip(edges, [*share, 0], strict=True)
    return scatter(label, points, role, "lines", line={"shape": "hv"}, fill=fill, hovertemplate=hover)


def _curve_chart(name: str, values: Sequence[float], then: Histogram, labels: Labels) -> Chart:
    curves = [_percentiles(values), *([_histogram_percentiles(then)] if then else [])]
    sides = dict(zip(labels, curves, strict=False))
    traces = [
        scatter(
            label,
            ((_nines(p), value) for p, value in curve),
            role,
            "lines",
            customdata=[f"{p:.4g}" for p, _ in curve],
            hovertemplate="p%{customdata}: %{y:.4g} ms<extra>" + safe(label) + "</extra>",
        )
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
    """The curve as far as the sample reaches: 100 requests say nothing beyond p99."""
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
    """Value of the curve at a percentile; None beyond its end."""
    if percentile > curve[-1][0] + 1e-9:
        return None
    return float(np.interp(percentile, [p for p, _ in curve], [value for _, value in curve]))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
