"""Outcomes to the HTML page: gathers what every section shows, and fills the template. Pure: data in, text out.

Nothing is fetched when it is opened, and the page's own policy forbids it: scripts run by their hash only, so that a
name or an error message that got past the escaping would still be no code.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.definitions import METRICS, PERCENTILES, Quantity, parse_quantity
from pytest_llmperf.gate.histogram import Histogram, histogram
from pytest_llmperf.metrics import latency_samples
from pytest_llmperf.report.comparison import overall
from pytest_llmperf.report.document import Outcome, outcome_comparisons
from pytest_llmperf.report.html.capacity import answers
from pytest_llmperf.report.html.charts import (
    BASELINE,
    NAMES,
    Chart,
    distribution_charts,
    pareto_chart,
    sweep_charts,
)
from pytest_llmperf.report.html.series import SERIES, series_chart
from pytest_llmperf.report.html.standing import MEANINGS, Standing, by_gravity, headline
from pytest_llmperf.report.html.timeline import timeline_chart
from pytest_llmperf.report.server_side import merged_models
from pytest_llmperf.report.sweeps import pareto_groups, sweep_groups
from pytest_llmperf.report.terminal import number
from pytest_llmperf.report.verdicts import describe
from pytest_llmperf.result import Result

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
    outcomes: Sequence[Outcome], started: datetime, notes: Sequence[str] = (), baselines: Baselines | None = None
) -> str:
    """The whole file. ImportError without plotly or jinja2 (the `report` extra)."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    ids = itertools.count(1)
    environment.globals |= {"number": _shown, "describe": describe, "chart_id": lambda: f"chart-{next(ids)}"}
    environment.filters["figure"] = _figure_json
    scripts = [get_plotlyjs(), _asset("page.js")]
    return environment.from_string(_asset("page.html")).render(
        **_content(outcomes, baselines or {}),
        started=f"{started.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        notes=notes,
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _figure_json(figure: Mapping[str, Any]) -> Any:
    """JSON that cannot end the script element it stands in."""
    from markupsafe import Markup

    text = json.dumps(figure, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _shown(value: object) -> str:
    """A cell of a table: numbers to four digits, None as a dash."""
    if value is None or (isinstance(value, float) and not isinstance(value, bool)):
        return number(value)
    return str(value)


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
