"""Capacity searches: the levels in order with what decided each, and the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from pytest_llmperf.definitions import HEADLINE, Quantity
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import LevelTrial
from pytest_llmperf.report.html.capacity import capacity_charts, trial_label
from pytest_llmperf.report.sections.section import ReportContent, Section, Shown
from pytest_llmperf.report.text import Screen, heading, left, make_table, number, right, two_lines

_STYLES = {"HOLDS": "green", "FAILS": "red", "INVALID": "bold red", "DIED": "bold red"}
Searched = list[tuple[str, Capacity]]
"""Point id and capacity."""


def _view(content: ReportContent) -> Searched:
    """All points that were searched; in a duet the old server's comes first."""
    sides = [side for _, result in content.measured for side in (result.reference, result) if side is not None]
    return [(side.point_id, side.capacity) for side in sides if side.capacity is not None]


def _terminal(view: Searched, width: int) -> Iterator[Shown]:
    for point_id, capacity in view:
        yield capacity_table(point_id, capacity, width)
        yield f"{point_id}: {capacity.sentence}"


def capacity_table(point_id: str, capacity: Capacity, width: int) -> Table:
    """One row per level in the order in which they were tried, without the figures that `width` has no room for."""
    limited = [limit.quantity for limit in capacity.asked.sla]
    shown = [quantity for quantity in HEADLINE if quantity.stat != "p50" and quantity not in limited]
    shown.sort(key=lambda quantity: quantity.unit == "req/s")  # what was done stands beside what was sent
    table = _table(point_id, capacity, shown)
    while shown and Screen(width=1000).measure(table).maximum > width:
        shown = shown[1:]
        table = _table(point_id, capacity, shown)
    return table


def _table(point_id: str, capacity: Capacity, shown: Sequence[Quantity]) -> Table:
    asked = capacity.asked
    limits = [f"{str(limit.quantity).replace('_', chr(10))}\n{limit.op} {limit.value:g}" for limit in asked.sla]
    table = make_table(
        f"{point_id}: capacity by level",
        *right("\nsearch", f"level\n{'req/s' if asked.request_rate else 'in flight'}"),
        *left("\nverdict"),
        *right("\nruns", "re-\nquests", *limits),
        *right(*("done\nreq/s" if q.unit == "req/s" else two_lines(heading(q)) for q in shown)),
        *right(*["sent\nreq/s"] * bool(asked.request_rate)),
    )
    for place, search in enumerate(capacity.searches, start=1):
        for trial in search.trials:
            table.add_row(str(place), *_cells(trial, capacity, shown))
    return table


def _cells(trial: LevelTrial, capacity: Capacity, shown: Sequence[Quantity]) -> Iterator[str]:
    figures, measured = trial.figures or {}, dict(trial.values)
    yield f"{trial.level:.4g}"
    label = trial_label(trial).replace(", ", "\n").replace("over-", "over-\n")
    yield f"[{_STYLES[trial.verdict]}]{label}[/]"
    yield str(trial.repeats)
    yield str(trial.sent)
    yield from (number(measured.get(limit)) for limit in capacity.asked.sla)
    yield from (number(figures.get(str(quantity))) for quantity in shown)
    if capacity.asked.request_rate:
        yield number(trial.achieved_rate)


_BODY = """
{% for point_id, capacity in view %}
<h3>{{ point_id }}</h3>
<p class="answer">{{ capacity.sentence }}</p>
{% for note in capacity.notes %}<p class="quiet">{{ note }}</p>{% endfor %}
<div class="grid">{% for one in charts(point_id, capacity) %}{{ chart(one) }}{% endfor %}</div>
{% endfor %}
"""
CAPACITY = Section(
    key="capacity",
    title="Capacity",
    view=_view,
    terminal=_terminal,
    html=_BODY,
    page=lambda view: {"view": view, "charts": capacity_charts},
    answers=lambda view: [("capacity", point_id, f": {found.sentence}") for point_id, found in view],
)
