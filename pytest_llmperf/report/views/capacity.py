"""A capacity for people and for files: the levels in order with what decided each, and the answer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import Search, Trial
from pytest_llmperf.metrics.summary import rounded

Property = tuple[str, str | int | float | bool]
_STYLES = {"HOLDS": "green", "FAILS": "red", "INVALID": "bold red", "DIED": "bold red"}
_COLUMNS = (
    ("TTFT\np99 ms", "ttft_p99"),
    ("ITL\np99 ms", "itl_p99"),
    ("out\ntok/s", "output_token_throughput"),
    ("done\nreq/s", "request_throughput"),
)


def trial_label(trial: Trial) -> str:
    """The verdict, and whether it is sure."""
    return trial.verdict if trial.sure else f"{trial.verdict}?"


def capacity_table(point_id: str, capacity: Capacity, number: Any) -> Table:
    """One row per level in the order in which they were tried; `number` writes a cell."""
    unit = "req/s" if capacity.asked.request_rate else "in flight"
    limits = [str(limit.quantity) for limit in capacity.asked.sla]
    columns = [(header, name) for header, name in _COLUMNS if name not in limits]
    table = Table(
        title=escape(f"{point_id}: capacity by level"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for header in ("\nsearch", f"level\n{unit}"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("\nverdict", no_wrap=True)
    table.add_column("repeats", justify="right")
    for limit in capacity.asked.sla:
        name = str(limit.quantity).replace("_", " ")
        table.add_column(f"{name}\n{limit.op} {limit.value:g}", justify="right")
    for header, _ in columns:
        table.add_column(header, justify="right", no_wrap=True)
    if capacity.asked.request_rate:
        table.add_column("sent\nreq/s", justify="right", no_wrap=True)
    for place, search in enumerate(capacity.searches, start=1):
        for trial in search.trials:
            table.add_row(str(place), *_cells(trial, capacity, [name for _, name in columns], number))
    return table


def _cells(trial: Trial, capacity: Capacity, names: list[str], number: Any) -> Iterator[str]:
    figures = trial.figures or {}
    yield f"{trial.level:.4g}"
    yield f"[{_STYLES[trial.verdict]}]{trial_label(trial)}[/]"
    yield str(trial.repeats)
    measured = dict(trial.values)
    for limit in capacity.asked.sla:
        yield number(measured.get(limit))
    for name in names:
        yield number(figures.get(name))
    if capacity.asked.request_rate:
        yield number(trial.achieved_rate)


def capacity_dict(capacity: Capacity) -> dict[str, Any]:
    """As the JSON report holds it: the answer, its interval, and every search with its levels."""
    interval = capacity.interval
    return {
        "quantity": str(capacity.quantity),
        "unit": capacity.quantity.unit,
        "answer": capacity.sentence,
        "value": rounded(capacity.value),
        "is_lower_bound": capacity.is_bound,
        "interval": None if interval is None else [rounded(interval.low), rounded(interval.high)],
        "holds": capacity.holds,
        "breaks": capacity.breaks,
        "resolution": rounded(capacity.resolution),
        "within": capacity.asked.within,
        "range": list(capacity.asked.span),
        "criterion": [str(limit) for limit in capacity.asked.sla],
        "notes": list(capacity.notes),
        "searches": [_search_dict(search) for search in capacity.searches],
    }


def _search_dict(search: Search) -> dict[str, Any]:
    return {
        "ended": search.ended,
        "value": rounded(search.estimate),
        "interpolated": search.interpolated,
        "holds": search.holds,
        "breaks": search.breaks,
        "levels": [_trial_dict(trial) for trial in search.trials],
    }


def _trial_dict(trial: Trial) -> dict[str, Any]:
    facts = asdict(trial)
    figures: Mapping[str, float | None] = facts.pop("figures") or {}
    del facts["values"]
    return {
        **facts,
        "achieved_rate": rounded(trial.achieved_rate),
        "metrics": {k: rounded(v) for k, v in figures.items()},
    }


def capacity_properties(capacity: Capacity | None) -> Iterator[Property]:
    """Flat, for JUnit; what is not known has no property."""
    if capacity is None:
        return
    yield "llmperf.capacity.answer", capacity.sentence
    yield "llmperf.capacity.is_lower_bound", capacity.is_bound
    interval = capacity.interval
    known = {
        "llmperf.capacity": capacity.value,
        "llmperf.capacity.low": interval.low if interval else None,
        "llmperf.capacity.high": interval.high if interval else None,
        "llmperf.capacity.holds": capacity.holds,
        "llmperf.capacity.breaks": capacity.breaks,
    }
    for name, value in known.items():
        if (short := rounded(value)) is not None:
            yield name, short
