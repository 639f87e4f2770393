"""Configurations side by side: on a terminal metrics down, configurations across, a star where none is better.

Where they do not fit side by side, configurations go down and metrics across: as many metrics to a block as fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from pytest_llmperf.report.json.plain import plain
from pytest_llmperf.report.sections.section import Section, Shown
from pytest_llmperf.report.text import few, heading, left, make_table, number, right
from pytest_llmperf.report.views.comparison import NO_WINNER, Comparison, ComparisonRow, comparisons, overall

_CELL = 13
"""Columns of a level with its interval below it, `1115 – 1287`, and of the gap beside it."""
_EDGE = 1
_FEW = 4
"""Comparisons of which each has its sentence; more are summed up by configuration."""


def _answers(view: Sequence[Comparison], width: int) -> Iterator[Shown]:
    answers = [found.answer for found in view] if len(view) <= _FEW else list(overall(view))
    yield from few(answers, _FEW, "answers")


def _tables(view: Sequence[Comparison], width: int) -> Iterator[Shown]:
    for found in view:
        yield from comparison_tables(found, width)
        yield from (*_reasons(found), *(f"note: {note}" for note in found.notes))


def comparison_tables(found: Comparison, width: int) -> Iterator[Text | Table]:
    """A title, then one table, or blocks of one; each cell is the level over the runs with its 90 % interval."""
    # A line of its own: a table's title would be broken to the width of the table.
    title = f"configurations at {found.load} (with 90 % intervals; *: none is better beyond noise)"
    yield Text(title, style="italic")
    metric = max((len(_metric(row)) for row in found.rows), default=0) + 2
    best = max(len("no winner"), *map(len, found.configurations)) + 2
    if _EDGE + metric + best + sum(max(_CELL, len(name)) + 2 for name in found.configurations) <= width:
        yield _metrics_down(found)
        return
    name = max(map(len, found.configurations)) + 1
    per_block = max(1, (width - name) // (_CELL + 4))
    for place in range(0, len(found.rows), per_block):
        yield _configurations_down(found, found.rows[place : place + per_block])


def _metrics_down(found: Comparison) -> Table:
    names = (f"{escape(name)}{_invalid(found, name)}" for name in found.configurations)
    table = make_table("", *left("metric"), *right(*names), Column("best", overflow="fold"))
    for row in found.rows:
        table.add_row(_metric(row), *(_cell(row, place) for place in range(len(row.levels))), _best(row, found))
    return table


def _configurations_down(found: Comparison, rows: Sequence[ComparisonRow]) -> Table:
    table = make_table("", *left(""), *right(*(heading(row.quantity) for row in rows)))
    for place, name in enumerate(found.configurations):
        table.add_row(f"{escape(name)}{_invalid(found, name)}", *(_cell(row, place) for row in rows))
    table.add_row("best", *(_best(row, found) for row in rows))
    return table


def _invalid(found: Comparison, name: str) -> str:
    return "\n[bold red]INVALID[/]" if name in found.invalid else ""


def _metric(row: ComparisonRow) -> str:
    return f"{row.quantity} ({row.quantity.unit})"


def _best(row: ComparisonRow, found: Comparison) -> str:
    if row.best is not None:
        return f"[bold green]{escape(found.configurations[row.best])}[/]"
    return "no winner" if row.why == NO_WINNER else "[dim]-[/]"


def _cell(row: ComparisonRow, place: int) -> str:
    level = row.levels[place]
    if level is None:
        return "-"
    value = f"[bold]* {number(level.value)}[/]" if place in row.leaders else number(level.value)
    return f"{value}\n[dim]{number(level.low)} – {number(level.high)}[/]"


def _reasons(found: Comparison) -> Iterator[str]:
    """Reasons why metrics have no best configuration, each once."""
    whys: dict[str, list[str]] = {}
    for row in found.rows:
        if row.best is None and row.why != NO_WINNER:
            whys.setdefault(row.why, []).append(str(row.quantity))
    for why, quantities in whys.items():
        yield f"no best in {', '.join(quantities)}: {why}"
    if any(row.why == NO_WINNER for row in found.rows):
        yield "no winner: intervals overlap"


def _comparison_dict(found: Comparison) -> dict[str, Any]:
    """Levels are geometric means over the runs, with their 90 % interval."""
    rows = [
        {
            "quantity": str(row.quantity),
            "unit": row.quantity.unit,
            "best": None if row.best is None else found.configurations[row.best],
            "why": row.why,
            "values": {
                name: level and plain(level) for name, level in zip(found.configurations, row.levels, strict=True)
            },
        }
        for row in found.rows
    ]
    return {**asdict(found), "answer": found.answer, "rows": rows}


COMPARISON = Section(
    key="comparison",
    title="Configurations side by side",
    view=lambda content: comparisons(content.measured),
    terminal=_answers,
    json=lambda view: {"comparisons": [_comparison_dict(found) for found in view]},
    html='{% include "comparison.html" %}',
    answers=lambda view: [("comparison", "Configurations", f": {line}") for line in overall(view)],
)
# On a terminal of those who ask for it; the page has it all in one section.
TABLES = Section(
    key="comparison-tables",
    title="Configurations side by side",
    view=lambda content: comparisons(content.measured),
    terminal=_tables,
    verbosity=1,
)
