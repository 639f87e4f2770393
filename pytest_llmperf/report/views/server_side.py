"""The server's own account beside the client's: queue, compute and batches of each model, as Triton counts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rich import box
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.metrics.result import Result
from pytest_llmperf.records import ModelSide

_HEADERS = ("failed\n/sent", "queue\nms", "compute\nms", "execu-\ntions", "average\nbatch")
_NAME = 22
"""Columns of a name; a longer one goes on in the next line, after a dash or dot where it has one."""


def has_server_side(results: Iterable[Result]) -> bool:
    return any(run.server_side for result in results for run in result.runs)


def server_side_table(results: Sequence[Result], number: Callable[[float | None], str]) -> Table:
    """Under each point a row per model; all runs of a point together."""
    title = "server side, by Triton (queue, compute: means per request)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("point\n  model", no_wrap=True)
    for header in _HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("batches\nsize × times")
    for result in results:
        models = merged_models(result)
        if models:
            table.add_row(_folded(result.point_id))
        for side in models:
            table.add_row(_folded(side.model, indent="  "), *_cells(side, number))
    return table


def _folded(name: str, indent: str = "") -> str:
    """A name in lines that fit; only a part without a dash or dot that is longer than a line is broken inside."""
    lines, room = [indent], _NAME - len(indent)
    for part in re.split(r"(?<=[-_./])", name):
        for piece in (part[start : start + room] for start in range(0, len(part), room)):
            if len(lines[-1]) + len(piece) > _NAME:
                lines.append(indent)
            lines[-1] += piece
    return escape("\n".join(lines))


def _cells(side: ModelSide, number: Callable[[float | None], str]) -> Iterable[str]:
    compute_ns = side.compute_input_ns + side.compute_infer_ns + side.compute_output_ns
    yield f"{side.failed}/{side.requests + side.failed}"
    yield from map(number, (side.mean_ms(side.queue_ns), side.mean_ms(compute_ns)))
    yield from (str(side.executions), number(side.average_batch))
    yield " ".join(f"{size}×{count}" for size, count in side.batch_sizes)


def merged_models(result: Result) -> tuple[ModelSide, ...]:
    """Every model's counts of all runs together."""
    models: dict[str, ModelSide] = {}
    for run in result.runs:
        for side in run.server_side.models if run.server_side else ():
            models[side.model] = _plus(models[side.model], side) if side.model in models else side
    return tuple(models.values())


def _plus(one: ModelSide, other: ModelSide) -> ModelSide:
    sizes = dict(one.batch_sizes)
    for size, count in other.batch_sizes:
        sizes[size] = sizes.get(size, 0) + count
    return replace(
        one,
        requests=one.requests + other.requests,
        failed=one.failed + other.failed,
        inferences=one.inferences + other.inferences,
        executions=one.executions + other.executions,
        queue_ns=one.queue_ns + other.queue_ns,
        compute_input_ns=one.compute_input_ns + other.compute_input_ns,
        compute_infer_ns=one.compute_infer_ns + other.compute_infer_ns,
        compute_output_ns=one.compute_output_ns + other.compute_output_ns,
        batch_sizes=tuple(sorted(sizes.items())),
    )
