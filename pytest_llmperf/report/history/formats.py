"""The table of experiments as text for a terminal, as Markdown, CSV and HTML. Pure."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.markup import escape

from pytest_llmperf.boundary.text import cell, visible
from pytest_llmperf.report.history.experiments import ExperimentMetric, Experiments
from pytest_llmperf.report.text import Name, left, make_table, number, right

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Experiments</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem max(1rem, 2vw); color-scheme: light dark }}
.scroll {{ overflow-x: auto }} table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: right }}
th:first-child, td:first-child, td:nth-child(2), th:nth-child(2) {{ text-align: left }} small {{ opacity: .75 }}
</style></head><body><h1>Experiments</h1>
<p>Means over the runs with their 90 % interval. Bold: no other configuration is better beyond noise.</p>
<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div></body></html>
"""


def _name(row: ExperimentMetric) -> str:
    return f"{row.quantity} ({row.quantity.unit})"


def _first_of_experiment(table: Experiments) -> Iterator[tuple[str, ExperimentMetric]]:
    """Yields each row with its experiment's name, which is empty where the row above has the same."""
    before = None
    for row in table.rows:
        yield "" if row.experiment == before else visible(row.experiment), row
        before = row.experiment


def _cells(row: ExperimentMetric, bold: Callable[[str], str], interval: str) -> Iterator[str]:
    for place, level in enumerate(row.levels):
        if level is None:
            yield "-"
        else:
            value = number(level.value)
            shown = bold(value) if place in row.best else value
            yield shown + interval.format(low=number(level.low), high=number(level.high))


def terminal(table: Experiments) -> str:
    """A table for people."""
    buffer = io.StringIO()
    names = (escape(visible(name)) for name in table.configurations)
    shown = make_table("experiments", "experiment", *left("metric"), *right(*names))
    for experiment, row in _first_of_experiment(table):
        if experiment and shown.row_count:
            shown.add_section()
        cells = _cells(row, lambda value: f"[bold green]{value}[/]", "\n[dim]{low} – {high}[/]")
        shown.add_row(Name(experiment), _name(row), *cells)
    Console(file=buffer, width=160, highlight=False).print(shown)
    return (
        f"{buffer.getvalue()}bold or *: no other is better beyond noise; below: 90 % interval of the mean over runs\n"
    )


def markdown(table: Experiments) -> str:
    """A pipe table, as GitHub renders it."""

    def line(cells: Iterator[str] | list[str]) -> str:
        escaped = (re.sub(r"([\\|`<\[])", r"\\\1", " ".join(one.splitlines())) for one in cells)
        return f"| {' | '.join(escaped)} |"

    head = ["experiment", "metric", *map(visible, table.configurations)]
    rules = ["---", "---", *("---:" for _ in table.configurations)]
    rows = (
        [experiment, _name(row), *_cells(row, lambda value: f"**{value}**", " ({low} – {high})")]
        for experiment, row in _first_of_experiment(table)
    )
    return "\n".join(map(line, [head, rules, *rows])) + "\n"


def csv_table(table: Experiments) -> str:
    """A line per experiment, metric and configuration, for programs."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(("experiment", "metric", "unit", "configuration", "value", "low", "high", "best"))
    for row in table.rows:
        for place, (name, level) in enumerate(zip(table.configurations, row.levels, strict=True)):
            facts = (row.experiment, str(row.quantity), row.quantity.unit, name)
            numbers = (level.value, level.low, level.high) if level else ("", "", "")
            lines.writerow((*map(cell, facts), *numbers, int(place in row.best)))
    return file.getvalue()


def page(table: Experiments) -> str:
    """One HTML file without scripts."""
    names = ("experiment", "metric", *map(visible, table.configurations))
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = "\n".join(
        "<tr>"
        + "".join(f"<td>{cell}</td>" for cell in (html.escape(experiment), html.escape(_name(row))))
        + "".join(
            f"<td>{cell}</td>"
            for cell in _cells(row, "<strong>{}</strong>".format, "<br><small>{low} – {high}</small>")
        )
        + "</tr>"
        for experiment, row in _first_of_experiment(table)
    )
    return _PAGE.format(head=head, body=body)


FORMATS: Mapping[str, Callable[[Experiments], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "csv": csv_table,
    "html": page,
}
