"""Configuration searches: the answer, the ranked table, the trials, what to take away, and the best trade-offs."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from rich.markup import escape
from rich.table import Column, Table

from pytest_llmperf.boundary.text import READABLE
from pytest_llmperf.report.html.charts import Chart
from pytest_llmperf.report.html.tradeoffs import front_chart
from pytest_llmperf.report.html.trials import trials_chart
from pytest_llmperf.report.json.search import search_document
from pytest_llmperf.report.sections.section import ReportContent, Section
from pytest_llmperf.report.text import Name, Screen, left, make_table, number, right
from pytest_llmperf.report.views.standing import Standing
from pytest_llmperf.search.result import PER_GPU, Ranked, SearchResult, shown_level

_WORDS = {
    "ok": ("[green]ok[/]", "good", "KEPT"),
    "broken": ("[bold red]LIMIT[/]", "bad", "BROKEN"),
    "invalid": ("[bold red]INVALID[/]", "bad", "INVALID"),
    "failed": ("[bold red]FAILED[/]", "bad", "FAILED"),
    "skipped": ("[yellow]SKIPPED[/]", "doubt", "SKIPPED"),
}
"""The standing's word on a terminal, then its colour and word on the page, by standing."""
_GPU_HEADERS = ("replicas\nx GPUs", "tok/s\nper GPU")


class Searched(NamedTuple):
    """One search with what its head says."""

    anchor: str
    result: SearchResult
    standing: Standing
    lead: str
    """Line at the head of the page, which gives the answer itself where there is more on it than the search."""


def _view(content: ReportContent) -> tuple[Searched, ...]:
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


def _charts(result: SearchResult) -> list[Chart]:
    """The trials, then the front of each load that has two configurations or more."""
    best = result.best.name if result.best else None
    fronts = [front_chart(front, "configuration", best) for front in result.pareto if len(front.points) > 1]
    return [*filter(None, [trials_chart(result)]), *fronts]


def _uses_gpus(result: SearchResult) -> bool:
    """True where columns about GPUs say something."""
    return any(found.config.gpu_count for found in result.ranked)


def _rank(found: Ranked) -> str:
    """`3`, `2 =` where noise does not tell it from the best, a dash where it breaks a limit."""
    return "-" if found.rank is None else f"{found.rank}{' =' if found.tied and found.rank > 1 else ''}"


def _remarks(found: Ranked) -> tuple[str, ...]:
    """Limits that are broken and by how much, else why it has failed, else the limit that is nearest."""
    if found.standing != "broken":
        return tuple(filter(None, (found.why or found.closest,)))
    return tuple(check.describe() for check in found.checks if not check.ok)


def _per_gpu(found: Ranked, result: SearchResult) -> str:
    """Throughput per GPU at the first load."""
    return number(found.metrics.get(result.loads[0], {}).get(str(PER_GPU)))


def search_summary(result: SearchResult, width: int, color: bool, verbosity: int = 0, encoding: str = "utf-8") -> str:
    """Text that is printed when a search has ended; with less verbosity the answer alone."""
    buffer = io.TextIOWrapper(io.BytesIO(), encoding, READABLE, newline="")
    console = Screen(file=buffer, width=max(width, 80), force_terminal=color, no_color=not color)
    if verbosity >= 0 and result.ranked:
        console.print(_table(result))
        for line in _front_lines(result):
            console.print(escape(line), soft_wrap=True)
    console.print(f"[bold]{escape(result.answer)}[/]", soft_wrap=True)
    if verbosity >= 0:
        for line in _details(result):
            console.print(escape(line), soft_wrap=True)
    buffer.seek(0)
    return buffer.read()


def _table(result: SearchResult) -> Table:
    label = "SIMULATED step times\n" if result.simulated else ""
    facts = f"{result.objective}, {result.better} is better (90 % intervals; = : not told from 1)"
    unit = f"\n{result.unit}" if result.unit else ""
    table = make_table(
        f"{label}search {result.name}: {facts}",
        *right("rank"),
        *(Column(Name(name), justify="right") for name in result.axes),
        *right(f"objective{unit}", *(_GPU_HEADERS if _uses_gpus(result) else ()), "runs"),
        *left("limits"),
        Column("", overflow="fold"),
    )
    for found in result.ranked:
        table.add_row(*_cells(found, result), style="bold" if found.rank == 1 else None)
    return table


def _cells(found: Ranked, result: SearchResult) -> Iterator[str]:
    yield _rank(found)
    for name in result.axes:
        yield escape(str(found.values[name]))
    yield _level(found)
    if _uses_gpus(result):
        replicas = getattr(found.config, "replicas", 1)
        yield from (f"{replicas} x {found.config.gpu_count // replicas}", _per_gpu(found, result))
    yield str(found.runs)
    yield _WORDS[found.standing][0]
    yield escape("; ".join(_remarks(found)))


def _level(found: Ranked) -> str:
    level = found.objective
    return "-" if level is None else f"{number(level.value)} ({number(level.low)}-{number(level.high)})"


def _front_lines(result: SearchResult) -> Iterator[str]:
    """The trade-offs that nothing beats, where there is more than one."""
    for front in result.pareto:
        points = sorted((point for point in front.points if point.on_front), key=lambda point: point.latency_ms)
        if len(points) > 1:
            yield f"Pareto front at {front.load}, by output tok/s and {front.latency}:"
            for point in points:
                kept = "" if point.ok else " (breaks a limit)"
                yield f"  {point.name}: {number(point.throughput)} tok/s at {number(point.latency_ms)} ms{kept}"


def _details(result: SearchResult) -> Iterator[str]:
    yield result.effort
    if result.interrupted:
        yield "interrupted: --resume goes on (in pytest --llmperf-resume), and measures nothing again"
    if result.ties and result.best:
        ties = ", ".join(f"{tie.name} {shown_level(tie.objective, result.unit)}" for tie in result.ties)
        yield f"not distinguishable from {result.best.name}: {ties}"
    for note in result.notes:
        yield f"note: {note}"
    if result.best:
        yield f"as a plan:\n{result.snippet.rstrip()}"
        yield f"as a command: {result.command}"


# On a terminal searches have a part of their own, by `search_summary`.
SEARCH = Section(
    key="search",
    title="Configuration search",
    view=_view,
    json=lambda view: {"searches": [search_document(found.result) for found in view]} if view else {},
    html='{% include "search.html" %}',
    page=lambda view: {
        "view": view,
        "charts_of": _charts,
        "rank": _rank,
        "remarks": _remarks,
        "per_gpu": _per_gpu,
        "uses_gpus": _uses_gpus,
        "words": _WORDS,
    },
    answers=lambda view: [(found.anchor, "Search", f" {found.lead}") for found in view],
)
