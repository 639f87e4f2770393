"""The comparison of configurations on a terminal: metrics down, configurations across, a star where none is better.

Where they do not fit side by side, configurations go down and metrics across: as many metrics to a block as fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.stats.estimate import Level
from pytest_llmperf.report.views.comparison import NO_WINNER, Comparison, Row

Shown = Callable[[float | None], str]
_CELL = 13
"""Columns of a level with its interval below it, `1115 – 1287`, and of the gap beside it."""
_EDGE = 1
_SHORT = {
    "input_token_throughput": "in tok/s",
    "output_token_throughput": "out tok/s",
    "output_token_throughput_per_gpu": "out tok/s/GPU",
}


def comparison_tables(found: Comparison, number: Shown, width: int) -> Iterator[Text | Table]:
    """A title, then one table, or blocks of one; each cell is the level over the runs with its 90 % interval."""
    # Not the table's own, which would be broken to the width of the table.
    title = f"configurations at {found.load} (with 90 % intervals; *: none is better beyond noise)"
    yield Text(title, style="italic")
    metric = max((len(_metric(row)) for row in found.rows), default=0) + 2
    best = max(len("no winner"), *map(len, found.configurations)) + 2
    if _EDGE + metric + best + sum(max(_CELL, len(name)) + 2 for name in found.configurations) <= width:
        yield _metrics_down(found, number)
        return
    name = max(map(len, found.configurations)) + 1
    per_block = max(1, (width - name) // (_CELL + 4))
    for place in range(0, len(found.rows), per_block):
        yield _configurations_down(found, found.rows[place : place + per_block], number)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _metrics_down(found: Comparison, number: Shown) -> Table:
    table = _table()
    table.add_column("metric", no_wrap=True)
    for name in found.configurations:
        invalid = "\n[bold red]INVALID[/]" if name in found.invalid else ""
        table.add_column(f"{escape(name)}{invalid}", justify="right", no_wrap=True)
    table.add_column("best", overflow="fold")
    for row in found.rows:
        table.add_row(_metric(row), *(_cell(row, place, number) for place in range(len(row.levels))), _best(row, found))
    return table


def _configurations_down(found: Comparison, rows: Sequence[Row], number: Shown) -> Table:
    table = _table()
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(_heading(row.quantity), justify="right", no_wrap=True)
    for place, name in enumerate(found.configurations):
        invalid = "\n[bold red]INVALID[/]" if name in found.invalid else ""
        table.add_row(f"{escape(name)}{invalid}", *(_cell(row, place, number) for row in rows))
    table.add_row("best", *(_best(row, found) for row in rows))
    return table


def _metric(row: Row) -> str:
    return f"{row.quantity} ({row.quantity.unit})"


def _heading(quantity: Quantity) -> str:
    """`TTFT p50` over `ms`."""
    if quantity.stat is None:
        return _SHORT.get(quantity.metric, str(quantity))
    return f"{quantity.metric.upper()} {quantity.stat} {quantity.unit}"


def _best(row: Row, found: Comparison) -> str:
    if row.best is not None:
        return f"[bold green]{escape(found.configurations[row.best])}[/]"
    return "no winner" if row.why == NO_WINNER else "[dim]-[/]"


def _cell(row: Row, place: int, number: Shown) -> str:
    level: Level | None = row.levels[place]
    if level is None:
        return "-"
    value = f"[bold]* {number(level.value)}[/]" if place in row.leaders else number(level.value)
    return f"{value}\n[dim]{number(level.low)} – {number(level.high)}[/]"


def reasons(found: Comparison) -> Iterator[str]:
    """Why metrics have no best configuration, each reason once."""
    whys: dict[str, list[str]] = {}
    for row in found.rows:
        if row.best is None and row.why != NO_WINNER:
            whys.setdefault(row.why, []).append(str(row.quantity))
    for why, quantities in whys.items():
        yield f"no best in {', '.join(quantities)}: {why}"
    if any(row.why == NO_WINNER for row in found.rows):
        yield "no winner: intervals overlap"
