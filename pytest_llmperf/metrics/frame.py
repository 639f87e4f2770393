"""Requests as rows: for CSV, Parquet and pandas. pandas and pyarrow are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pytest_llmperf.formulas.pace import first_token_ns, inter_token_latency_ms, last_token_ns
from pytest_llmperf.records import RequestRecord, Run

COLUMNS = (
    *("run", "index", "phase", "request_id", "ok", "cancelled", "due_ns", "sent_ns", "first_token_ns", "last_token_ns"),
    *("end_ns", "ttft_ms", "itl_ms", "e2e_ms", "input_tokens", "output_tokens", "chunks", "status", "error"),
    *("hidden_tokens", "answers", "usage_doubt", "replica"),
)
"""Times in ns are of CLOCK_REALTIME; ttft_ms and e2e_ms count from due in open loop and from sent in closed loop."""


def request_rows(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """One per request, warm load included (`phase`); None where a request did not get so far."""
    for run in runs:
        for record in run.records:
            yield dict(zip(COLUMNS, _row(run, record), strict=True))


def _row(run: Run, record: RequestRecord) -> tuple[Any, ...]:
    first, last = (record.chunk_ns[0], record.chunk_ns[-1]) if record.chunk_ns else (None, None)
    begin = record.sent_ns if record.due_ns is None else record.due_ns
    head = (run.index + 1, record.index, record.phase, record.request_id, record.ok, record.cancelled)
    times = (record.due_ns, record.sent_ns, first, last, record.end_ns)
    itl, e2e = inter_token_latency_ms(record), _since(begin, last_token_ns(record))
    latencies = (_since(begin, first_token_ns(record)), itl, e2e)
    counts = (record.input_tokens, record.output_tokens, len(record.chunk_ns))
    doubts = (record.hidden_tokens, record.answers, record.usage_doubt)
    replica = None if record.replica is None else record.replica + 1
    return (*head, *times, *latencies, *counts, record.status, record.error, *doubts, replica)


def _since(begin: int | None, moment: int | None) -> float | None:
    return None if begin is None or moment is None else (moment - begin) / 1e6


def to_frame(runs: Sequence[Run]) -> Any:
    """A pandas DataFrame; ImportError without pandas (the `report` extra)."""
    import pandas

    return pandas.DataFrame(list(request_rows(runs)), columns=list(COLUMNS))


def write_parquet(runs: Sequence[Run], file: Path | IO[bytes]) -> None:
    """ImportError without pyarrow (the `report` extra)."""
    import pyarrow
    import pyarrow.parquet

    rows = list(request_rows(runs))
    pyarrow.parquet.write_table(pyarrow.table({name: [row[name] for row in rows] for name in COLUMNS}), file)
