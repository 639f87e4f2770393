"""Numbers, verdicts, headers and tables as reports write them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.errors import MarkupError
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from pytest_llmperf.boundary.text import visible
from pytest_llmperf.definitions import Quantity
from pytest_llmperf.units import counted

STYLES = {
    "PASS": "green",
    "IMPROVED": "green",
    "INCONCLUSIVE": "yellow",
    "FAIL": "bold red",
    "INVALID": "bold red",
    "ERROR": "bold red",
    "INTERRUPTED": "yellow",
    "SKIPPED": "yellow",
    "NO BASELINE": "bold red",
    "NOT GATED": "yellow",
}
_SHORT = {
    "request_throughput": "req/s",
    "input_token_throughput": "in tok/s",
    "output_token_throughput": "out tok/s",
    "output_token_throughput_per_gpu": "out tok/s/GPU",
    "output_token_throughput_per_user": "decode tok/s/user",
    "prefill_throughput_per_user": "prefill tok/s",
}


_WORDS = re.compile(r"[^-._/: ]+[-._/: ]*|[-._/: ]+")
"""Words of a name, each with the signs behind it."""


class Screen(Console):
    """A console on which the texts of others do nothing: control characters, names of emoji and stray brackets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        try:
            return super().render_str(visible(text), **options)
        except MarkupError:
            return Text(visible(text))


class Name:
    """The name of a point or server in a table, broken between its words where its column is too narrow for it.

    It is broken inside of a word only where the word alone is wider than the column.
    """

    def __init__(self, text: str) -> None:
        self._text = visible(text)
        self._words = _WORDS.findall(self._text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """The width of its longest word, and that of all of it."""
        return Measurement(max(map(cell_len, self._words), default=0), cell_len(self._text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for word in self._words:
            if cell_len(lines[-1] + word) > options.max_width and lines[-1]:
                lines.append("")
            lines[-1] += word
        yield Text("\n".join(lines), overflow="fold")


def few(lines: Sequence[str], most: int, what: str) -> Iterator[str]:
    """The first lines, and how many more there are: `and 4 more sweeps`."""
    yield from lines[:most]
    if len(lines) > most:
        yield f"and {len(lines) - most} more {what}"


def fitting(lines: Sequence[str], rows: int, width: int) -> Iterator[str]:
    """The lines that so many rows of a terminal have room for, and how many are left."""
    for place, line in enumerate(lines):
        rows -= -(-len(line) // width)
        if rows < 0:
            yield f"and {counted(len(lines) - place, 'more remark')} (-v shows all)"
            return
        yield line


def number(value: float | None) -> str:
    """Four significant digits without an exponent; a dash for None."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if not value:
        return "0"
    return f"{value:#.4g}" if abs(value) >= 0.001 else f"{value:.2e}"


def styled(verdict: str) -> str:
    """The verdict as rich markup in its colour."""
    return f"[{style}]{verdict}[/]" if (style := STYLES.get(verdict)) else verdict


def heading(quantity: Quantity) -> str:
    """The quantity with its unit over a column: `TTFT p50 ms`, `out tok/s`."""
    if quantity.stat is None:
        return _SHORT.get(quantity.metric, str(quantity))
    return f"{quantity.metric.upper()} {quantity.stat} {quantity.unit}"


def two_lines(header: str) -> str:
    """The header broken after its first word; a single word stands in the lower line."""
    first, space, rest = header.partition(" ")
    return f"{first}\n{rest}" if space else f"\n{first}"


def simulated_label(simulated: bool) -> str:
    """Text behind the name of what has modelled step times; else empty."""
    return " (SIMULATED step times)" if simulated else ""


def make_table(title: str, *columns: Column | str) -> Table:
    """An empty table in the style of all reports; without a title where that is empty."""
    shown = escape(title) or None
    return Table(*columns, title=shown, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def left(*headers: str) -> list[Column]:
    """Columns of text that is never broken."""
    return [Column(header, no_wrap=True) for header in headers]


def right(*headers: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(header, justify="right", no_wrap=True) for header in headers]
