"""Every point: the tables of all of them, and each one with its verdicts, distributions and statistics."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Column, Table

from pytest_llmperf.definitions import HEADLINE, METRICS, PERCENTILES, Quantity
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.histogram import Histogram, histogram
from pytest_llmperf.metrics.summary import metric_values
from pytest_llmperf.report.html.charts import NAMES, Chart
from pytest_llmperf.report.html.distributions import BASELINE, distribution_charts
from pytest_llmperf.report.html.series import series_chart
from pytest_llmperf.report.html.timeline import timeline_chart
from pytest_llmperf.report.json.point import point_document
from pytest_llmperf.report.sections.section import ReportContent, Section, Shown
from pytest_llmperf.report.sections.server_side import merged_models
from pytest_llmperf.report.text import (
    Name,
    heading,
    left,
    make_table,
    number,
    right,
    simulated_label,
    styled,
    two_lines,
)
from pytest_llmperf.report.views.comparison import output_args
from pytest_llmperf.report.views.standing import WORDS, Standing, standing
from pytest_llmperf.report.views.verdicts import change_row, short_change
from pytest_llmperf.runner.outcomes import Outcome

_WIDE = 110
"""Columns of a terminal from which everything has room; below, tables leave out what matters least."""
_ONLY_WIDE = (Quantity("e2e", "p50"), Quantity("request_throughput"))
_ROWS = 16
"""Points of a terminal's tables without -v: more of them are in the report, and those in trouble come first."""
_STATISTICS = ("mean", "std", "min", *(f"p{p}" for p in PERCENTILES), "max")
_TERMINAL_STATISTICS = ("mean", "min", "max", *(f"p{p}" for p in reversed(PERCENTILES) if p >= 50))
_FEW_STATISTICS = ("mean", "max", "p99", "p90", "p50")
_DISTRIBUTIONS = {
    "ttft": "Time to first token (ms)",
    "ttst": "Time to second token (ms)",
    "itl": "Inter-token latency (ms)",
    "e2e": "Request latency (ms)",
    "output_tokens": "Output sequence length",
    "input_tokens": "Input sequence length",
}
_SCALARS = {
    "output_token_throughput": "Output token throughput (tok/s)",
    "request_throughput": "Request throughput (req/s)",
    "goodput": "Goodput (req/s)",
    "error_rate": "Error rate",
}


class Point(NamedTuple):
    """One point with what is said about it."""

    anchor: str
    outcome: Outcome
    standing: Standing
    dialect: str | None
    baseline: Mapping[str, Histogram]
    """The baseline's histograms by metric; empty where it has none."""

    @property
    def result(self) -> Result | None:
        """The result, where there is anything to show of it: runs, or another tool's statistics."""
        found = self.outcome.result
        return found if found is not None and (found.runs or found.imported) else None


def _view(content: ReportContent) -> tuple[Point, ...]:
    return tuple(
        Point(f"point-{place}", one, standing(one), content.dialect, content.baselines.get(one.test, {}))
        for place, one in enumerate(content.outcomes, start=1)
    )


def by_gravity(points: Iterable[Point]) -> list[Point]:
    """Points that failed first, else in the order of the plan."""
    return sorted(points, key=lambda point: point.standing.gravity)


# Overview


def _tables(view: Sequence[Point], width: int) -> Iterator[Shown]:
    """The tables, with the gravest points alone where there are many."""
    measured = [point for point in view if point.outcome.result and point.outcome.result.runs]
    yield from _all_tables(by_gravity(measured)[:_ROWS] if len(measured) > _ROWS else measured, width)
    if len(measured) > _ROWS:
        yield f"and {len(measured) - _ROWS} more points (-v shows them)"


def overview_tables(outcomes: Iterable[Outcome], width: int) -> Iterator[Shown]:
    """A line per point, in a table of all whose numbers may stand side by side."""
    return _all_tables([Point("", one, standing(one), None, {}) for one in outcomes], width)


def _all_tables(view: Sequence[Point], width: int) -> Iterator[Shown]:
    """One table for all points whose numbers may stand side by side."""
    measured = [(one, one.outcome.result) for one in view if one.outcome.result and one.outcome.result.runs]
    title_of = {point.anchor: _group_title(result) for point, result in measured}
    ordered = sorted(measured, key=lambda pair: title_of[pair[0].anchor])
    for title, group in itertools.groupby(ordered, key=lambda pair: title_of[pair[0].anchor]):
        yield _table(title, list(group), width)


def _group_title(result: Result) -> str:
    """Environment and output-changing arguments, which must be the same."""
    facts, locked = result.environment, output_args(result)
    return f"{'SIMULATED step times, ' * facts.simulated}{facts.slug}{f' ({locked})' * bool(locked)}"


def _table(title: str, measured: Sequence[tuple[Point, Result]], width: int) -> Table:
    quantities = [quantity for quantity in HEADLINE if width >= _WIDE or quantity not in _ONLY_WIDE]
    sides = [side for _, result in measured for side in (result, result.reference) if side is not None]
    with_failed = width >= _WIDE or any(side.metrics.failed for side in sides)
    table = make_table(
        title,
        Column("\npoint", min_width=12),
        *right(*["failed\n/sent"] * with_failed, *(two_lines(heading(quantity)) for quantity in quantities)),
        *left("\nverdict"),
    )
    for point, result in measured:
        values = tuple(_values(result, quantities))[not with_failed :]
        table.add_row(Name(point.outcome.point_id), *values, styled(point.standing.word))
        if (old := result.reference) is not None:
            # The old server of a duet is not judged.
            name = Name(f"  against {old.server.name}")
            values = tuple(_values(old, quantities))[not with_failed :]
            table.add_row(name, *values, "" if old.valid else styled("INVALID"))
    return table


def _values(result: Result, quantities: Iterable[Quantity] = HEADLINE) -> Iterator[str]:
    yield f"{result.metrics.failed}/{result.metrics.sent}"
    yield from (number(result.metrics.value(quantity)) for quantity in quantities)


def _change(outcome: Outcome) -> str:
    """`ITL p50 +36.6 %`: the first metric of the verdict against the baseline or the old server; empty without one."""
    held = outcome.regression
    found = [metric for metric in held.metrics if metric.verdict == held.verdict and metric.estimate] if held else []
    return short_change(found[0]) if found else ""


def _overview_page(view: Sequence[Point]) -> dict[str, Any]:
    words = {point.standing.word for point in view}
    nothing = ("-",) * (len(HEADLINE) + 1)
    changes = {point.anchor: _change(point.outcome) for point in view}
    return {
        "changes": changes if any(changes.values()) else {},
        "points": [(point, tuple(_values(point.result)) if point.result else nothing) for point in by_gravity(view)],
        "columns": ["failed/sent", *map(heading, HEADLINE)],
        "meanings": {word: meaning for word, (_, meaning) in WORDS.items() if word in words},
    }


# Each point


def _statistics_tables(view: Sequence[Point], width: int) -> Iterator[Shown]:
    if len(view) > _ROWS:
        yield from _all_tables(view, width)
    for point in view:
        result = point.outcome.result
        if result is None or not result.runs:
            continue
        yield metrics_table(result, width)
        yield from (f"limit {check.describe()}: {check.verdict}" for check in point.outcome.sla or ())
        if result.reference is not None:
            yield metrics_table(result.reference, width)
        if point.dialect:
            yield dialect_table(result, point.dialect, width)


def metrics_table(result: Result, width: int = _WIDE) -> Table:
    """The statistics of one point, in the field's usual layout; fewer of them on a narrow terminal."""
    stats = _TERMINAL_STATISTICS if width >= _WIDE else _FEW_STATISTICS
    title = f"{result.point_id}{simulated_label(result.environment.simulated)}"
    table = make_table(title, *left("Statistic"), *right(*stats, "n"))
    for name, header in _DISTRIBUTIONS.items():
        values = result.metrics.distributions[name]
        table.add_row(header, *(number(values.stat(stat)) for stat in stats), str(values.n))
    for name, header in _SCALARS.items():
        if name != "goodput" or result.load.slo:
            table.add_row(header, number(result.metrics.value(Quantity(name))))
    return table


def dialect_table(result: Result, dialect: str, width: int = _WIDE) -> Table:
    """The same point as another tool would report it, under that tool's names."""
    stats = _TERMINAL_STATISTICS if width >= _WIDE else _FEW_STATISTICS
    title = f"{result.point_id} by the definitions of {dialect}"
    table = make_table(title, Column("Metric", overflow="fold"), *right("", *stats))
    for name, values in dialect_metrics(dialect, result.runs).items():
        single = number(values["value"]) if "value" in values else ""
        table.add_row(f"{name} ({values['unit']})", single, *(number(values[stat]) for stat in stats if not single))
    return table


def _statistics(result: Result) -> Iterator[tuple[str, ...]]:
    for name, values in result.metrics.distributions.items():
        if values.n:
            unit = METRICS[name].unit
            yield f"{name} ({unit})", *(number(values.stat(stat)) for stat in _STATISTICS), str(values.n)


def _errors(result: Result) -> list[tuple[str, int]]:
    """Texts of failed requests, and how many had each."""
    return list(Counter(record.error for run in result.runs for record in run.records if record.error).items())


def _charts(result: Result, baseline: Mapping[str, Histogram]) -> list[Chart]:
    """Distributions of all runs, then the last run over time."""
    if not result.runs:
        return []
    old, last = result.reference, result.runs[-1]
    then = baseline if old is None else {name: histogram(values) for name, values in _pooled(old).items() if values}
    labels = BASELINE if old is None else (result.server.name, old.server.name)
    over_time = filter(None, (timeline_chart(last), series_chart(last)))
    return [*distribution_charts(_pooled(result), then, labels), *over_time]


def _pooled(result: Result) -> dict[str, list[float]]:
    """Latencies of all runs, by name; none of those that an import leaves out, though it has requests all the same."""
    known = [name for name in NAMES if result.metrics.distributions[name].n]
    runs = [metric_values(run, known) for run in result.runs]
    return {name: [value for samples in runs for value in samples[name]] if name in known else [] for name in NAMES}


OVERVIEW = Section(
    key="overview",
    title="Overview",
    view=_view,
    terminal=_tables,
    json=lambda view: {"points": [point_document(point.outcome, point.dialect) for point in view]},
    html='{% include "overview.html" %}',
    page=_overview_page,
)
POINTS = Section(
    key="points",
    title="Points",
    view=_view,
    terminal=_statistics_tables,
    verbosity=1,
    html='{% include "points.html" %}',
    page=lambda view: {
        "points": by_gravity(view),
        "charts_of": _charts,
        "statistics": _STATISTICS,
        "statistics_of": _statistics,
        "errors_of": _errors,
        "models_of": merged_models,
        "change_row": change_row,
    },
)
