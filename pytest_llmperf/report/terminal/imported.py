"""Tables that `llmperf import` prints of another tool's file."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Column, Table

from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint
from pytest_llmperf.report.text import make_table, number, right

_STATS = ("avg", "min", "max", "p99", "p95", "p90", "p50")


def imported_tables(found: Imported, name: str) -> Iterator[Table]:
    """One per load that the file has figures of: a row per metric, under the tool's own names and definitions."""
    model = f", model {found.model}" if found.model else ""
    for point in found.points:
        if point.metrics:
            yield _table(point, f"{name}: by the definitions of {found.source}{model}{_level(point)}")


def _level(point: ImportedPoint) -> str:
    if point.request_rate is not None:
        return f", {point.request_rate:g} req/s"
    return "" if point.concurrency is None else f", concurrency {point.concurrency}"


def _table(point: ImportedPoint, title: str) -> Table:
    table = make_table(title, Column("Metric", overflow="fold"), *right(*_STATS))
    for metric, values in point.metrics.items():
        cells = (values.get(stat) for stat in _STATS)
        shown = (number(float(cell)) if isinstance(cell, int | float) else "" for cell in cells)
        table.add_row(escape(f"{metric} ({values['unit']})"), *shown)
    return table
