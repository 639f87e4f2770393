"""Answers: every score with its interval beside the speed of the same requests, and what the output guard found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.markup import escape

from pytest_llmperf.definitions import ACCURACY, Quantity
from pytest_llmperf.gate.answers import ChangedAnswer
from pytest_llmperf.metrics.answers import answers_of
from pytest_llmperf.metrics.stats.accuracy import MeanScore, mean_score
from pytest_llmperf.metrics.summary import rounded
from pytest_llmperf.report.sections.section import ReportContent, Section, Shown
from pytest_llmperf.report.text import heading, left, make_table, number, right, two_lines

_SPEEDS = (Quantity("input_token_throughput"), Quantity("output_token_throughput"), Quantity("ttft", "p50"))
_MOST_SHOWN = 3
_BEFORE, _AFTER = 20, 60
"""Characters that are shown around the first one that differs."""


class AnswerDifference(NamedTuple):
    """Place and texts at which an answer begins to differ from the baseline's."""

    prompt: str
    at: int
    """Position of the first character that differs, from 1."""
    then: str
    now: str


class AnsweredPoint(NamedTuple):
    """One point whose answers were looked at."""

    point_id: str
    scores: Sequence[tuple[str, MeanScore]]
    """Scores by name."""
    agreement: float | None
    """Share of equal answers between this session's runs; None without an output guard or a second run."""
    speeds: Sequence[float | None]
    changed: int
    """Prompts of the guard with an answer that no run of the baseline gave."""
    differences: Sequence[AnswerDifference]
    """The first of these whose texts are stored."""


def _view(content: ReportContent) -> list[AnsweredPoint]:
    changed = {one.test: one.regression.changed for one in content.outcomes if one.regression}
    found = []
    for test, result in content.measured:
        answers = answers_of(result.runs)
        if answers is None:
            continue
        scores = [
            (name.removeprefix(ACCURACY), mean_score(list(of_prompts.values())))
            for name, of_prompts in answers.scores.items()
        ]
        new = changed.get(test, ())
        differences = [one for one in map(_difference, new) if one][:_MOST_SHOWN]
        speeds = [result.metrics.value(quantity) for quantity in _SPEEDS]
        agreement = result.metrics.value(Quantity("output_agreement"))
        found.append(AnsweredPoint(result.point_id, scores, agreement, speeds, len(new), differences))
    return found


def _difference(changed: ChangedAnswer) -> AnswerDifference | None:
    """The first difference of a changed answer; None where a text is not stored, or where both are cut before they
    differ.
    """
    then, now = changed.then, changed.now
    if then is None or now is None or then == now:
        return None
    pairs = enumerate(zip(then, now, strict=False))
    at = next((place for place, (one, other) in pairs if one != other), min(len(then), len(now)))
    begin = max(0, at - _BEFORE)
    shown = [f"{'…' * bool(begin)}{text[begin : at + _AFTER]}{'…' * (len(text) > at + _AFTER)}" for text in (then, now)]
    return AnswerDifference(changed.prompt, at + 1, *shown)


def _rows(point: AnsweredPoint) -> Iterator[tuple[str, ...]]:
    speeds = tuple(map(number, point.speeds))
    for name, score in point.scores:
        yield name, f"{score.value:.1%}", f"{100 * score.low:.1f} to {100 * score.high:.1f}", str(score.n), *speeds
        speeds = ("",) * len(speeds)
    if point.agreement is not None:
        yield "runs agree", f"{point.agreement:.1%}", "", "", *speeds


def _terminal(view: Sequence[AnsweredPoint], width: int) -> Iterator[Shown]:
    table = make_table(
        "answers (mean score over prompts)",
        *left("\npoint", "\nscore"),
        *right("\nvalue", "90 %\ninterval", "\nprompts", *(two_lines(heading(quantity)) for quantity in _SPEEDS)),
    )
    for point in view:
        for place, row in enumerate(_rows(point)):
            table.add_row("" if place else escape(point.point_id), *row)
    yield table
    for point in view:
        yield from _guard_lines(point)


def _guard_lines(point: AnsweredPoint) -> Iterator[str]:
    if point.changed:
        yield f"{point.point_id}: {point.changed} prompts of the output guard have an answer of no baseline run"
    for one in point.differences:
        yield f"  prompt {one.prompt}, from character {one.at}: baseline {one.then!r}, now {one.now!r}"


def _document(view: Sequence[AnsweredPoint]) -> dict[str, Any]:
    return {
        "answers": [
            {
                "id": point.point_id,
                "scores": {
                    name: {
                        **{end: rounded(getattr(score, end)) for end in ("value", "low", "high")},
                        "n": score.n,
                    }
                    for name, score in point.scores
                },
                "runs_agree": rounded(point.agreement),
                "changed": point.changed,
                "differences": [one._asdict() for one in point.differences],
            }
            for point in view
        ]
    }


_BODY = """
<div class="scroll" tabindex="0" role="region" aria-label="Answers"><table>
<thead><tr>{% for header in headers %}<th scope="col">{{ header }}</th>{% endfor %}</tr></thead>
<tbody>{% for point in view %}{% for row in rows(point) %}<tr><th scope="row">{{ point.point_id }}</th>
{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}{% endfor %}</tbody></table></div>
{% for point in view if point.changed %}<p>{{ point.point_id }}: {{ point.changed }} prompts of the output guard have an
answer that the baseline never gave.</p>
{% for one in point.differences %}<p class="quiet">prompt {{ one.prompt }}, from character {{ one.at }}:
baseline “{{ one.then }}”, now “{{ one.now }}”</p>{% endfor %}{% endfor %}
"""
ANSWERS = Section(
    key="answers",
    title="Answers",
    view=_view,
    terminal=_terminal,
    json=_document,
    html=_BODY,
    page=lambda view: {
        "view": view,
        "rows": _rows,
        "headers": ["point", "score", "value", "90 % interval", "prompts", *map(heading, _SPEEDS)],
    },
)
