"""What `llmperf import` prints of another tool's file."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.interchange.imports import Imported

_STATS = ("avg", "min", "max", "p99", "p95", "p90", "p50")


def imported_table(found: Imported, name: str, number: Callable[[float | None], str]) -> Table:
    """One row per metric, under the tool's own names and definitions."""
    model = f", model {found.model}" if found.model else ""
    title = f"{name}: by the definitions of {found.tool}{model}"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Metric", overflow="fold")
    for stat in _STATS:
        table.add_column(stat, justify="right", no_wrap=True)
    for metric, values in found.metrics.items():
        cells = (values.get(stat) for stat in _STATS)
        shown = (number(float(cell)) if isinstance(cell, int | float) else "" for cell in cells)
        table.add_row(escape(f"{metric} ({values['unit']})"), *shown)
    return table
