"""A search on a terminal: the answer, the ranked table, and what to take away."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pytest_llmperf.report.text import left, make_table, number, right
from pytest_llmperf.report.views.search import per_gpu, rank, remarks, uses_gpus
from pytest_llmperf.search.result import Ranked, SearchResult, shown_level

_GPU_HEADERS = ("replicas\nx GPUs", "tok/s\nper GPU")
_STYLES = {"ok": "green", "broken": "bold red", "invalid": "bold red", "failed": "bold red", "skipped": "yellow"}
_WORDS = {"ok": "ok", "broken": "LIMIT", "invalid": "INVALID", "failed": "FAILED", "skipped": "SKIPPED"}


def search_summary(result: SearchResult, width: int, color: bool, verbosity: int = 0) -> str:
    """Text that is printed when a search has ended; with less verbosity the answer alone."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=max(width, 80), force_terminal=color, no_color=not color, highlight=False)
    if verbosity >= 0 and result.ranked:
        console.print(_table(result))
        for line in _front_lines(result):
            console.print(escape(line), soft_wrap=True)
    console.print(f"[bold]{escape(result.answer)}[/]", soft_wrap=True)
    if verbosity >= 0:
        for line in _details(result):
            console.print(escape(line), soft_wrap=True)
    return buffer.getvalue()


def _table(result: SearchResult) -> Table:
    label = "SIMULATED step times\n" if result.simulated else ""
    facts = f"{result.objective}, {result.better} is better (90 % intervals; = : not told from 1)"
    unit = f"\n{result.unit}" if result.unit else ""
    table = make_table(
        f"{label}search {result.name}: {facts}",
        *right("rank"),
        *(Column(escape(name), justify="right", overflow="fold") for name in result.axes),
        *right(f"objective{unit}", *(_GPU_HEADERS if uses_gpus(result) else ()), "runs"),
        *left("limits"),
        Column("", overflow="fold"),
    )
    for found in result.ranked:
        table.add_row(*_cells(found, result), style="bold" if found.rank == 1 else None)
    return table


def _cells(found: Ranked, result: SearchResult) -> Iterator[str]:
    yield rank(found)
    for name in result.axes:
        yield escape(str(found.values[name]))
    yield _level(found)
    if uses_gpus(result):
        replicas = getattr(found.config, "replicas", 1)
        yield from (f"{replicas} x {found.config.gpu_count // replicas}", per_gpu(found, result))
    yield str(found.runs)
    yield f"[{_STYLES[found.standing]}]{_WORDS[found.standing]}[/]"
    yield escape("; ".join(remarks(found)))


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
        told = ", ".join(f"{tie.name} {shown_level(tie.objective, result.unit)}" for tie in result.ties)
        yield f"not distinguishable from {result.best.name}: {told}"
    for note in result.notes:
        yield f"note: {note}"
    if result.best:
        yield f"as a plan:\n{result.snippet.rstrip()}"
        yield f"as a command: {result.command}"
