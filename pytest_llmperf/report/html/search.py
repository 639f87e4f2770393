"""A search as its section of the HTML page shows it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_llmperf.report.html.charts import Chart
from pytest_llmperf.report.html.search_charts import search_charts
from pytest_llmperf.report.text import number
from pytest_llmperf.search.result import PER_GPU, Ranked, SearchResult

_KINDS = {"ok": "good", "broken": "bad", "invalid": "bad", "failed": "bad", "skipped": "doubt"}
_WORDS = {"ok": "KEPT", "broken": "BROKEN", "invalid": "INVALID", "failed": "FAILED", "skipped": "SKIPPED"}


@dataclass(frozen=True, slots=True)
class Line:
    """One configuration of the ranked table."""

    rank: str
    found: Ranked
    kind: str
    word: str
    level: str
    interval: str
    remarks: tuple[str, ...]
    per_gpu: str
    """Throughput at the first load; empty where no GPU is used."""


@dataclass(frozen=True, slots=True)
class SearchView:
    """A search as its section shows it."""

    anchor: str
    result: SearchResult
    kind: str
    word: str
    headline: str
    lines: tuple[Line, ...]
    charts: tuple[Chart, ...]
    on_gpus: bool

    @property
    def reasons(self) -> tuple[str, ...]:
        """As a Standing has them, for a page that has nothing but this search."""
        return (self.headline,)


def search_view(result: SearchResult) -> SearchView:
    """Everything that the section shows."""
    word = "INTERRUPTED" if result.interrupted else "FOUND" if result.best else "NONE"
    on_gpus = any(found.config.gpu_count for found in result.ranked)
    return SearchView(
        anchor="search-" + re.sub(r"[^\w]+", "-", result.name),
        result=result,
        kind={"INTERRUPTED": "doubt", "FOUND": "good", "NONE": "bad"}[word],
        word=word,
        headline=_headline(result),
        lines=tuple(_line(found, result, on_gpus) for found in result.ranked),
        charts=tuple(search_charts(result)),
        on_gpus=on_gpus,
    )


def _headline(result: SearchResult) -> str:
    """The shortest answer there is."""
    if result.best is None or result.best.objective is None:
        return result.answer
    level = result.best.objective
    return f"{result.best.name} {result.claim}: {number(level.value)}{f' {result.unit}' if result.unit else ''}"


def _line(found: Ranked, result: SearchResult, on_gpus: bool) -> Line:
    level = found.objective
    return Line(
        rank="-" if found.rank is None else f"{found.rank}{' =' if found.tied and found.rank > 1 else ''}",
        found=found,
        kind=_KINDS[found.standing],
        word=_WORDS[found.standing],
        level=number(level.value) if level else "-",
        interval=f"{number(level.low)} – {number(level.high)}" if level else "",
        remarks=_remarks(found),
        per_gpu=number(found.metrics.get(result.loads[0], {}).get(str(PER_GPU))) if on_gpus else "",
    )


def _remarks(found: Ranked) -> tuple[str, ...]:
    broken = tuple(check.describe() for check in found.checks if not check.ok)
    return broken or tuple(text for text in (found.why or found.closest,) if text)
