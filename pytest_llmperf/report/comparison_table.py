"""The comparison of configurations on a terminal, the best one bold.

Metrics down and configurations across; of more configurations than stand side by side, as in a sweep over servers'
arguments, the other way round.
"""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.gate.statistic import Level
from pytest_llmperf.report.comparison import Comparison, Row

Shown = Callable[[float | None], str]


_SIDE_BY_SIDE = 4
_NARROW = 110
"""Columns of a terminal below which a p99 has no room beside its p50."""


def comparison_table(found: Comparison, number: Shown, width: int = _NARROW) -> Table:
    """Each cell is the level over the runs with its 90 % interval."""
    if len(found.configurations) > _SIDE_BY_SIDE:
        return _rows_of_configurations(found, number, width)
    title = f"configurations at {found.load} (90 % intervals; bold: better than all others beyond noise)"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    for name in found.configurations:
        invalid = "\n[bold red]INVALID[/]" if name in found.invalid else ""
        table.add_column(f"{escape(name)}{invalid}", justify="right", overflow="fold")
    table.add_column("best", overflow="fold")
    for row in found.rows:
        table.add_row(*_cells(row, found, number))
    return table


def _rows_of_configurations(found: Comparison, number: Shown, width: int) -> Table:
    """Bold is what no other is better than beyond noise, for among many there is seldom a single winner."""
    title = f"configurations at {found.load} (90 % intervals; bold: no other is better beyond noise)"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nconfiguration", overflow="fold", min_width=12)
    rows = [row for row in found.rows if width >= _NARROW or row.quantity.stat != "p99"]
    for row in rows:
        table.add_column(_header(row), justify="right", no_wrap=True)
    for place, name in enumerate(found.configurations):
        invalid = " [bold red]INVALID[/]" if name in found.invalid else ""
        table.add_row(f"{escape(name)}{invalid}", *(_short_cell(row, place, number) for row in rows))
    return table


def _header(row: Row) -> str:
    """`output_token_throughput` has no room over a number."""
    short = {"input_token_throughput": "in", "output_token_throughput": "out"}
    name = str(row.quantity).replace("output_token_throughput_per_gpu", "out/GPU")
    return f"{short.get(name, name)}\n{row.quantity.unit}"


def _short_cell(row: Row, place: int, number: Shown) -> str:
    """The level and how far the interval reaches from it, on the wider side."""
    level = row.levels[place]
    if level is None:
        return "-"
    reach = max(level.high / level.value - 1, 1 - level.low / level.value)
    value = f"[bold]{number(level.value)}[/]" if place in row.leaders else number(level.value)
    return f"{value} [dim]±{reach:.0%}[/]"


def _cells(row: Row, found: Comparison, number: Shown) -> list[str]:
    cells = [_cell(level, place == row.best, number) for place, level in enumerate(row.levels)]
    best = escape(row.why) if row.best is None else f"[bold green]{escape(found.configurations[row.best])}[/]"
    return [f"{row.quantity} ({row.quantity.unit})", *cells, best]


def _cell(level: Level | None, best: bool, number: Shown) -> str:
    if level is None:
        return "-"
    value = f"[bold]{number(level.value)}[/]" if best else number(level.value)
    return f"{value}\n[dim]{number(level.low)} – {number(level.high)}[/]"
