"""Points over a swept value: latency against throughput, the best trade-offs, and one phase by prompt length."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.summary import rounded
from pytest_llmperf.report.html.tradeoffs import front_chart, sweep_charts
from pytest_llmperf.report.sections.section import Answer, Section, Shown
from pytest_llmperf.report.text import few, heading, left, make_table, number, right, styled
from pytest_llmperf.report.views.comparison import grouped
from pytest_llmperf.report.views.names import variant
from pytest_llmperf.report.views.sweeps import SweepGroup, fronts, sweep_groups

_FIRST = 8
"""Servers of a sweep at the head of the page."""
_FIRST_LINES = 4
"""The same on a terminal."""
_QUANTITIES = {
    "prefill": (Quantity("ttft", "p50"), Quantity("ttft", "p99"), Quantity("prefill_throughput_per_user")),
    "decode": (Quantity("itl", "p50"), Quantity("itl", "p99"), Quantity("output_token_throughput_per_user")),
}
"""Quantities that each phase is shown by."""
_LENGTH = re.compile(r"-in\d+")


def _sweeps_terminal(view: Sequence[SweepGroup], width: int) -> Iterator[Shown]:
    yield from few([line for group in view for line in group.answers], _FIRST_LINES, "sweeps")


def _answers(view: Sequence[SweepGroup]) -> Iterator[Answer]:
    for group in view:
        yield from (("sweeps", "Sweep", f": {line}") for line in group.answers[:_FIRST])


_SWEEPS_BODY = """
{% for group in view %}
<h3>{{ group.load }} over {{ group.axis }} <small>{{ group.environment }}</small></h3>
{% for line in group.answers %}<p class="answer">{{ line }}</p>{% endfor %}
<div class="grid">{% for one in charts(group) %}{{ chart(one) }}{% endfor %}</div>
{% endfor %}
"""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One prompt length; `values` are the phase's quantities, None where there was no sample."""

    input_tokens: int
    """The length that the plan asks for."""
    valid: bool
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one load on one server, by prompt length."""

    server: str
    load: str
    """Name of the load, other swept values included."""
    phase: str
    """`prefill` or `decode`."""
    environment: str
    points: tuple[CurvePoint, ...]


def curves(measured: Sequence[tuple[str, Result]]) -> tuple[Curve, ...]:
    """One per test function, server and load with a `phase`, from (test id, result); only prompts of one length."""
    isolated = [(test, r) for test, r in measured if r.load.phase and isinstance(r.load.input_tokens, int)]
    return tuple(_curve([result for _, result in pairs]) for pairs in grouped(isolated, _key).values())


def _key(pair: tuple[str, Result]) -> tuple[str, ...]:
    test, result = pair
    return variant(test, result), result.environment.slug, result.server.name, _LENGTH.sub("", result.load.name)


def _curve(results: Sequence[Result]) -> Curve:
    load, phase = results[0].load, str(results[0].load.phase)
    points = [
        CurvePoint(length, r.valid, {str(q): r.metrics.value(q) for q in _QUANTITIES[phase]})
        for r in results
        if isinstance(length := r.load.input_tokens, int)
    ]
    ordered = sorted(points, key=lambda point: point.input_tokens)
    name = _LENGTH.sub("", load.name)
    return Curve(results[0].server.name, name, phase, results[0].environment.slug, tuple(ordered))


def _curves_terminal(view: Sequence[Curve], width: int) -> Iterator[Shown]:
    for curve in view:
        title = f"{curve.phase} by prompt length: {curve.server}-{curve.load}"
        headers = map(heading, _QUANTITIES[curve.phase])
        table = make_table(title, *right("input tokens", *headers), *left(""))
        for point in curve.points:
            label = "" if point.valid else styled("INVALID")
            table.add_row(str(point.input_tokens), *map(number, point.values.values()), label)
        yield table


def _curves_json(view: Sequence[Curve]) -> dict[str, Any]:
    return {"curves": [{**asdict(curve), "points": [_point_dict(point) for point in curve.points]} for curve in view]}


def _point_dict(point: CurvePoint) -> dict[str, Any]:
    values = {name: {"value": rounded(v), "unit": parse_quantity(name).unit} for name, v in point.values.items()}
    return {"input_tokens": point.input_tokens, "valid": point.valid, **values}


SWEEPS = Section(
    key="sweeps",
    title="Latency and throughput",
    view=lambda content: sweep_groups(content.measured),
    terminal=_sweeps_terminal,
    html=_SWEEPS_BODY,
    page=lambda view: {"view": view, "charts": sweep_charts},
    answers=_answers,
)
TRADEOFFS = Section(
    key="tradeoffs",
    title="Best trade-offs",
    view=lambda content: fronts(content.measured),
    html='<div class="grid">{% for one in charts %}{{ chart(one) }}{% endfor %}</div>',
    page=lambda view: {"charts": [front_chart(front, "point") for front in view]},
)
CURVES = Section(
    key="curves",
    title="Prefill and decode by prompt length",
    view=lambda content: curves(content.measured),
    terminal=_curves_terminal,
    json=_curves_json,
)
