"""Latency against throughput: sweeps over concurrency or request rate, and the best trade-offs of all points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_llmperf.report.html.tradeoffs import front_chart, sweep_charts
from pytest_llmperf.report.sections.section import Answer, Section, Shown
from pytest_llmperf.report.views.sweeps import SweepGroup, fronts, sweep_groups

_FIRST = 8
"""Servers of a sweep at the head of the page."""


def _terminal(view: Sequence[SweepGroup], width: int) -> Iterator[Shown]:
    for group in view:
        yield from group.answers


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


SWEEPS = Section(
    key="sweeps",
    title="Latency and throughput",
    view=lambda content: sweep_groups(content.measured),
    terminal=_terminal,
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
