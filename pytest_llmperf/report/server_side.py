"""The server's own account beside the client's: queue, compute and batches of each model, as Triton counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rich import box
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.records import ModelSide
from pytest_llmperf.result import Result

_HEADERS = (
    "requests",
    "failed",
    "queue\nms",
    "compute\nms",
    "executions",
    "average\nbatch",
    "batches (size x executions)",
)


def has_server_side(results: Iterable[Result]) -> bool:
    return any(run.server_side for result in results for run in result.runs)


def server_side_table(results: Sequence[Result], number: Callable[[float | None], str]) -> Table:
    """One row per point and model; all runs of a point together."""
    title = "server side (Triton's statistics; queue and compute are means per request)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("point", overflow="fold")
    table.add_column("model", overflow="fold")
    for header in _HEADERS:
        table.add_column(header, justify="right")
    for result in results:
        for side in merged_models(result):
            table.add_row(escape(result.point_id), escape(side.model), *_cells(side, number))
    return table


def _cells(side: ModelSide, number: Callable[[float | None], str]) -> Iterable[str]:
    compute_ns = side.compute_input_ns + side.compute_infer_ns + side.compute_output_ns
    yield from (str(side.requests), str(side.failed))
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
