"""The comparison of configurations on a terminal: metrics down, configurations across, the best one bold."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.gate.statistic import Level
from pytest_llmperf.report.comparison import Comparison, Row

Shown = Callable[[float | None], str]


def comparison_table(found: Comparison, number: Shown) -> Table:
    """Each cell is the level over the runs with its 90 % interval."""
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


def _cells(row: Row, found: Comparison, number: Shown) -> list[str]:
    cells = [_cell(level, place == row.best, number) for place, level in enumerate(row.levels)]
    best = escape(row.why) if row.best is None else f"[bold green]{escape(found.configurations[row.best])}[/]"
    return [f"{row.quantity} ({row.quantity.unit})", *cells, best]


def _cell(level: Level | None, best: bool, number: Shown) -> str:
    if level is None:
        return "-"
    value = f"[bold]{number(level.value)}[/]" if best else number(level.value)
    return f"{value}\n[dim]{number(level.low)} – {number(level.high)}[/]"
