"""Outcomes to the HTML page: gathers what every section shows, and fills the template. Pure: data in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pytest_llmperf.definitions import METRICS, PERCENTILES, Quantity, parse_quantity
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.histogram import Histogram, histogram
from pytest_llmperf.metrics.summary import latency_samples
from pytest_llmperf.report.html.capacity import answers
from pytest_llmperf.report.html.charts import BASELINE, NAMES, Chart, distribution_charts, pareto_chart, sweep_charts
from pytest_llmperf.report.html.search import search_view
from pytest_llmperf.report.html.series import SERIES, series_chart
from pytest_llmperf.report.html.standing import MEANINGS, Standing, by_gravity, headline
from pytest_llmperf.report.html.templating import render_page
from pytest_llmperf.report.html.timeline import timeline_chart
from pytest_llmperf.report.json.document import outcome_comparisons
from pytest_llmperf.report.text import number
from pytest_llmperf.report.views.comparison import overall
from pytest_llmperf.report.views.server_side import merged_models
from pytest_llmperf.report.views.sweeps import pareto_groups, sweep_groups
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.search.result import SearchResult

Baselines = Mapping[str, Mapping[str, Histogram]]
"""By test the baseline's histograms by metric; a test that has none is left out."""

_COLUMNS = tuple(
    (title, parse_quantity(name))
    for title, name in (
        ("TTFT p50 (ms)", "ttft_p50"),
        ("TTFT p99 (ms)", "ttft_p99"),
        ("ITL p50 (ms)", "itl_p50"),
        ("ITL p99 (ms)", "itl_p99"),
        ("E2E p50 (ms)", "e2e_p50"),
        ("req/s", "request_throughput"),
        ("out tok/s", "output_token_throughput"),
    )
)
_STATISTICS = ("mean", "std", "min", *(f"p{p}" for p in PERCENTILES), "max")
_PARETO_LATENCY = Quantity("e2e", "p50")


@dataclass(frozen=True, slots=True)
class Point:
    """One point as its section shows it."""

    anchor: str
    outcome: Outcome
    standing: Standing
    charts: tuple[Chart, ...] = ()
    values: tuple[str, ...] = ()
    """Of the overview's columns."""
    statistics: tuple[tuple[str, ...], ...] = ()
    errors: tuple[tuple[str, int], ...] = ()
    """What failed requests said, and how many of them."""


def html_report(
    outcomes: Sequence[Outcome],
    started: datetime,
    notes: Sequence[str] = (),
    baselines: Baselines | None = None,
    searches: Sequence[SearchResult] = (),
) -> str:
    """The whole file. ImportError without plotly or jinja2 (the `report` extra)."""
    views = [search_view(result) for result in searches]
    content = _content(outcomes, baselines or {})
    verdict = views[0] if views and not outcomes else content["verdict"]
    return render_page("page.html", started, {**content, "verdict": verdict, "searches": views, "notes": notes})


def _content(outcomes: Sequence[Outcome], baselines: Baselines) -> dict[str, Any]:
    points = tuple(_points(outcomes, baselines))
    measured = [(o.test, o.result) for o in outcomes if o.result is not None and o.result.runs]
    results = [result for _, result in measured]
    comparisons = outcome_comparisons(outcomes)
    return {
        "verdict": headline([point.standing for point in points]),
        "points": points,
        "worst": [point for point in points if point.standing.kind in ("bad", "doubt")],
        "columns": [title for title, _ in _COLUMNS],
        "statistics": _STATISTICS,
        "meanings": {word: text for word, text in MEANINGS.items() if word in {p.standing.word for p in points}},
        "comparisons": comparisons,
        "overall": overall(comparisons),
        "capacities": answers(results),
        "sweeps": [(group, sweep_charts(group)) for group in sweep_groups(measured)],
        "fronts": [pareto_chart(group, _PARETO_LATENCY) for group in pareto_groups(measured, _PARETO_LATENCY)],
        "environments": list({result.environment.slug: result.environment for result in results}.values()),
        "metrics": list(METRICS.values()),
        "series": SERIES,
        "merged_models": merged_models,
    }


def _points(outcomes: Sequence[Outcome], baselines: Baselines) -> Iterator[Point]:
    for place, (outcome, held) in enumerate(by_gravity(outcomes), start=1):
        point = Point(f"point-{place}", outcome, held)
        result = outcome.result
        if result is None or not (result.runs or result.imported):
            yield replace(point, values=("-",) * (len(_COLUMNS) + 1))
            continue
        yield replace(
            point,
            charts=tuple(_charts(result, baselines.get(outcome.test, {}))),
            values=tuple(_values(result)),
            statistics=tuple(_statistics(result)),
            errors=tuple(_errors(result)),
        )


def _values(result: Result) -> Iterator[str]:
    yield f"{result.metrics.failed}/{result.metrics.sent}"
    yield from (number(result.metrics.value(quantity)) for _, quantity in _COLUMNS)


def _statistics(result: Result) -> Iterator[tuple[str, ...]]:
    for name, values in result.metrics.distributions.items():
        if values.n:
            unit = METRICS[name].unit
            yield f"{name} ({unit})", *(number(values.stat(stat)) for stat in _STATISTICS), str(values.n)


def _errors(result: Result) -> list[tuple[str, int]]:
    texts = [record.error for run in result.runs for record in run.records if record.error]
    return [(text, texts.count(text)) for text in dict.fromkeys(texts)]


def _charts(result: Result, baseline: Mapping[str, Histogram]) -> Iterator[Chart]:
    if not result.runs:
        return
    old = result.reference
    then = baseline if old is None else {name: histogram(values) for name, values in _pooled(old).items() if values}
    labels = BASELINE if old is None else (result.server.name, old.server.name)
    for pair in distribution_charts(_pooled(result), then, labels):
        yield from pair
    last = result.runs[-1]
    yield from (chart for chart in (timeline_chart(last), series_chart(last)) if chart is not None)


def _pooled(result: Result) -> dict[str, list[float]]:
    """Latencies of all runs, by name; none of those that an import leaves out, though it has requests all the same."""
    runs = [latency_samples(run) for run in result.runs]
    known = [name for name in NAMES if result.metrics.distributions[name].n]
    return {name: [value for samples in runs for value in samples[name]] if name in known else [] for name in NAMES}
