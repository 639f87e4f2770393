"""Points of a history or a report as one table: experiments, metrics, configurations. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.history.analysis import valid_values
from pytest_llmperf.history.database import FoundPoint
from pytest_llmperf.metrics.stats.estimate import Interval, interval_of
from pytest_llmperf.metrics.stats.margins import tolerance
from pytest_llmperf.report.views.comparison import leaders

QUANTITIES = (
    Quantity("ttft", "mean"),
    Quantity("e2e", "mean"),
    Quantity("tpot", "mean"),
    Quantity("input_token_throughput"),
    Quantity("output_token_throughput"),
)


@dataclass(frozen=True, slots=True)
class ExperimentMetric:
    """One metric of one experiment."""

    experiment: str
    quantity: Quantity
    levels: tuple[Interval | None, ...]
    """Levels by configuration, over the valid runs; None where there is no value."""
    best: frozenset[int]
    """Positions of all that no other is better than beyond noise; empty without two to compare."""


@dataclass(frozen=True, slots=True)
class Experiments:
    """The table."""

    configurations: tuple[str, ...]
    rows: tuple[ExperimentMetric, ...]


def experiments(points: Iterable[FoundPoint], quantities: Sequence[Quantity] = QUANTITIES) -> Experiments:
    """Returns the table of these points; of two of one experiment and configuration, each has a column."""
    found = [one for one in points if one.point.runs]
    labels = _labels(found)
    configurations = tuple(dict.fromkeys(labels))
    cells = {(_experiment(one), label): one for one, label in zip(found, labels, strict=True)}
    rows = tuple(
        row
        for name in dict.fromkeys(map(_experiment, found))
        for quantity in quantities
        if (row := _row(name, quantity, [cells.get((name, label)) for label in configurations])) and any(row.levels)
    )
    return Experiments(configurations, rows)


def _experiment(one: FoundPoint) -> str:
    given = one.point.parameters
    return given.get("name") or given.get("load.name") or one.point.name


def _labels(found: Sequence[FoundPoint]) -> list[str]:
    """Names of the points' configurations, with the session's start where that alone tells one from others."""
    plain = [one.point.parameters.get("description") or one.point.parameters.get("server.name", "-") for one in found]
    twice = {
        label for (_, label), count in Counter(zip(map(_experiment, found), plain, strict=True)).items() if count > 1
    }
    return [
        f"{label} ({one.started:%Y-%m-%d %H:%M:%S})" if label in twice else label
        for one, label in zip(found, plain, strict=True)
    ]


def _row(experiment: str, quantity: Quantity, points: Sequence[FoundPoint | None]) -> ExperimentMetric:
    levels = tuple(_level(one, quantity) for one in points)
    best = frozenset(leaders(quantity, levels)) if quantity.better != "neither" else frozenset()
    return ExperimentMetric(experiment, quantity, levels, best)


def _level(one: FoundPoint | None, quantity: Quantity) -> Interval | None:
    values = [value for value in valid_values(one.point.runs, quantity) if value > 0] if one else []
    return interval_of([values], tolerance(quantity).prior) if values else None
