"""Configuration searches: the answer, the ranked table, the trials and the best trade-offs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pytest_llmperf.report.html.charts import Chart
from pytest_llmperf.report.html.tradeoffs import front_chart
from pytest_llmperf.report.html.trials import trials_chart
from pytest_llmperf.report.json.search import search_document
from pytest_llmperf.report.section import Answer, Content, Section
from pytest_llmperf.report.text import number
from pytest_llmperf.report.views.search import per_gpu, rank, remarks, uses_gpus
from pytest_llmperf.report.views.standing import Standing
from pytest_llmperf.search.result import SearchResult

_BADGES = {
    "ok": ("good", "KEPT"),
    "broken": ("bad", "BROKEN"),
    "invalid": ("bad", "INVALID"),
    "failed": ("bad", "FAILED"),
    "skipped": ("doubt", "SKIPPED"),
}
"""Colour and word by standing."""


class Searched(NamedTuple):
    """One search with what its head says."""

    anchor: str
    result: SearchResult
    standing: Standing
    lead: str
    """Line at the head of the page, which gives the answer itself where there is more on it than the search."""


def _view(content: Content) -> tuple[Searched, ...]:
    return tuple(_searched(result, alone=not content.outcomes) for result in content.searches)


def _searched(result: SearchResult, *, alone: bool) -> Searched:
    word = "INTERRUPTED" if result.interrupted else "FOUND" if result.best else "NONE"
    anchor = "search-" + re.sub(r"[^\w]+", "-", result.name)
    lead = result.effort if alone else f"{result.answer}; {result.effort}"
    return Searched(anchor, result, Standing(word, (_headline(result),)), lead)


def _headline(result: SearchResult) -> str:
    """The shortest answer there is."""
    if result.best is None or result.best.objective is None:
        return result.answer
    level = number(result.best.objective.value)
    return f"{result.best.name} {result.claim}: {level}{f' {result.unit}' if result.unit else ''}"


def _page(view: Sequence[Searched]) -> dict[str, Any]:
    helpers = {"rank": rank, "remarks": remarks, "per_gpu": per_gpu, "uses_gpus": uses_gpus, "badges": _BADGES}
    return {"searches": [(found, list(_charts(found.result))) for found in view], **helpers}


def _charts(result: SearchResult) -> Iterator[Chart]:
    """The trials, then the front of each load that has two configurations or more."""
    if trials := trials_chart(result):
        yield trials
    best = result.best.name if result.best else None
    yield from (front_chart(front, "configuration", best) for front in result.pareto if len(front.points) > 1)


def _answers(view: Sequence[Searched]) -> list[Answer]:
    return [(found.anchor, "Search", f" {found.lead}") for found in view]


def _json(view: Sequence[Searched]) -> dict[str, Any]:
    return {"searches": [search_document(found.result) for found in view]} if view else {}


# On a terminal searches have a part of their own: report.terminal.search.
SEARCH = Section(
    key="search",
    title="Configuration search",
    view=_view,
    json=_json,
    html='{% include "search.html" %}',
    page=_page,
    answers=_answers,
)
