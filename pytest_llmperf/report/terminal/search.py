"""A search on a terminal: the answer, the ranked table, and what to take away."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.report.text import number
from pytest_llmperf.search.result import PER_GPU, Ranked, SearchResult, shown_level

_STYLES = {"ok": "green", "broken": "bold red", "invalid": "bold red", "failed": "bold red", "skipped": "yellow"}
_WORDS = {"ok": "ok", "broken": "LIMIT", "invalid": "INVALID", "failed": "FAILED", "skipped": "SKIPPED"}


def search_summary(result: SearchResult, width: int, color: bool, verbosity: int = 0) -> str:
    """What is printed when a search has ended; with less verbosity the answer alone."""
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
    title = f"{label}search {result.name}: {facts}"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("rank", justify="right", no_wrap=True)
    for name in result.axes:
        table.add_column(escape(name), justify="right", overflow="fold")
    unit = f"\n{result.unit}" if result.unit else ""
    table.add_column(f"objective{unit}", justify="right", no_wrap=True)
    for header in _gpu_headers(result):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("runs", justify="right", no_wrap=True)
    table.add_column("limits", no_wrap=True)
    table.add_column("", overflow="fold")
    for found in result.ranked:
        table.add_row(*_cells(found, result), style="bold" if found.rank == 1 else None)
    return table


def _gpu_headers(result: SearchResult) -> tuple[str, ...]:
    """Only where GPUs are used at all."""
    used = any(found.config.gpu_count for found in result.ranked)
    return ("replicas\nx GPUs", "tok/s\nper GPU") if used else ()


def _cells(found: Ranked, result: SearchResult) -> Iterator[str]:
    yield "-" if found.rank is None else f"{found.rank}{' =' if found.tied and found.rank > 1 else ''}"
    for name in result.axes:
        yield escape(str(found.values[name]))
    yield _level(found)
    if _gpu_headers(result):
        replicas = getattr(found.config, "replicas", 1)
        yield f"{replicas} x {found.config.gpu_count // replicas}"
        per_gpu = found.metrics.get(result.loads[0], {}).get(str(PER_GPU))
        yield number(per_gpu)
    yield str(found.runs)
    yield f"[{_STYLES[found.standing]}]{_WORDS[found.standing]}[/]"
    yield escape(_remark(found))


def _level(found: Ranked) -> str:
    level = found.objective
    return "-" if level is None else f"{number(level.value)} ({number(level.low)}-{number(level.high)})"


def _remark(found: Ranked) -> str:
    """Which limits are broken by how much, else why it has failed; of those that are kept the closest."""
    if found.standing != "broken":
        return found.why or found.closest
    return "; ".join(check.describe() for check in found.checks if not check.ok)


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
