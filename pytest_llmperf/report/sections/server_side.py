"""The server's own account beside the client's: queue, compute and batches of each model, as Triton counts them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace

from rich.markup import escape
from rich.table import Column, Table

from pytest_llmperf.metrics.result import Result
from pytest_llmperf.records import ModelSide
from pytest_llmperf.report.sections.section import ReportContent, Section
from pytest_llmperf.report.text import left, make_table, number, right, two_lines
from pytest_llmperf.report.views.replicas import Replicas, replicas_of

_NAME = 22
"""Columns of a name; a longer one goes on in the next line, after a dash or dot where it has one."""


def _view(content: ReportContent) -> list[tuple[str, tuple[ModelSide, ...]]]:
    return server_sides([result for _, result in content.measured])


def server_sides(results: Sequence[Result]) -> list[tuple[str, tuple[ModelSide, ...]]]:
    """Point id, and every model's counts of all its runs together; without points whose server reported nothing."""
    found = [(result.point_id, merged_models(result)) for result in results]
    return [(point_id, models) for point_id, models in found if models]


def server_side_table(view: Sequence[tuple[str, Sequence[ModelSide]]]) -> Table:
    """A table with a row per model under each point; all runs of a point together."""
    table = make_table(
        "server side, by Triton (queue, compute: means per request)",
        *left("point\n  model"),
        *right("failed\n/sent", "queue\nms", "compute\nms", "execu-\ntions", "average\nbatch"),
        Column("batches\nsize × times"),
    )
    for point_id, models in view:
        table.add_row(_folded(point_id))
        for side in models:
            table.add_row(_folded(side.model, indent="  "), *_cells(side))
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


def _cells(side: ModelSide) -> Iterable[str]:
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
    sizes = Counter(dict(one.batch_sizes)) + Counter(dict(other.batch_sizes))
    names = [field.name for field in fields(one) if field.name not in ("model", "batch_sizes")]
    counts = {name: getattr(one, name) + getattr(other, name) for name in names}
    return replace(one, **counts, batch_sizes=tuple(sorted(sizes.items())))


# On the page it stands with each point.
SERVER_SIDE = Section(
    key="server-side",
    title="Server's own account",
    view=_view,
    terminal=lambda view, width: iter([server_side_table(view)]),
)


def _replica_tables(view: Sequence[Replicas]) -> Iterator[Table]:
    for found in view:
        headers = map(two_lines, found.headers)
        table = make_table(found.title, *left("\nreplica"), *right("failed\n/sent", *headers, "share of\ntokens"))
        for one in found.replicas:
            share = "-" if one.share is None else f"{one.share:.1%}"
            table.add_row(str(one.number), one.requests or "-", *map(number, one.values), share)
        yield table


_BODY = """
{% for found in view %}
<h3>{{ found.title }}</h3>
<div class="scroll" tabindex="0" role="region" aria-label="Replicas of {{ found.point_id }}"><table>
  <thead><tr><th scope="col">replica</th><th scope="col">failed / sent</th>
    {%- for title in found.headers %}<th scope="col">{{ title }}</th>{% endfor %}
    <th scope="col">share of tokens</th></tr></thead>
  <tbody>
  {% for one in found.replicas %}
  <tr><th scope="row">{{ one.number }}</th><td>{{ one.requests or '-' }}</td>
    {%- for value in one.values %}<td>{{ number(value) }}</td>{% endfor %}
    <td>{{ '-' if one.share is none else '%.1f %%' % (one.share * 100) }}</td></tr>
  {% endfor %}
  </tbody>
</table></div>
{% endfor %}
"""
REPLICAS = Section(
    key="replicas",
    title="Replicas",
    view=lambda content: replicas_of([result for _, result in content.measured]),
    terminal=lambda view, width: _replica_tables(view),
    json=lambda view: {"replicas": [found.as_dict() for found in view]} if view else {},
    html=_BODY,
)
