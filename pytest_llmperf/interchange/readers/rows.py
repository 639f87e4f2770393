"""Our own `requests.csv` and `requests.parquet`: a row per request (frame.COLUMNS). Pure.

Rows have no load, and of the chunks the first and the last only.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint, imported_record
from pytest_llmperf.interchange.readers.shared.unknown import CHUNK_GAPS, because
from pytest_llmperf.metrics.frame import COLUMNS
from pytest_llmperf.records import RequestRecord

_ADDED = ("hidden_tokens", "answers", "usage_doubt", "replica")
"""Columns that older files do not have."""
_NO_CHUNKS = "the file has no times of chunks between the first and the last"
_NO_OUTPUT = "the file does not tell reasoning from answer"


def requests_csv(text: str, name: str) -> Imported:
    """`requests.csv`."""
    reader = csv.DictReader(io.StringIO(text))
    try:
        return requests_rows(reader, name, first_line=2)
    except csv.Error as error:
        raise ImportFileError(f"{name}:{reader.line_num}: no CSV ({error})") from error


def requests_rows(rows: Iterable[Mapping[str, Any]], name: str, first_line: int = 1) -> Imported:
    """Rows with COLUMNS as keys: text as CSV has it, or values as Parquet has them."""
    runs: dict[str, list[RequestRecord]] = {}
    for line, row in enumerate(rows, start=first_line):
        if missing := [column for column in COLUMNS if column not in row and column not in _ADDED]:
            raise ImportFileError(f"{name}:{line}: no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
        try:
            runs.setdefault(str(row["run"]), []).append(_record(row))
        except (ValueError, TypeError, OverflowError) as error:
            raise ImportFileError(f"{name}:{line}: {error}") from error
    if not runs:
        raise ImportFileError(f"{name}: no request in it")
    unknown = because(_NO_CHUNKS, *CHUNK_GAPS) | because(_NO_OUTPUT, "ttfo")
    point = ImportedPoint(metrics={}, runs=tuple(tuple(records) for records in runs.values()), unknown=unknown)
    return Imported("llmperf", None, None, (point,))


def _record(row: Mapping[str, Any]) -> RequestRecord:
    first, last = _whole(row["first_token_ns"]), _whole(row["last_token_ns"])
    several = (_whole(row["chunks"]) or 0) > 1
    phase = str(row["phase"])
    if phase not in ("lead-in", "measured"):
        raise ValueError(f"phase is {phase!r}, neither 'lead-in' nor 'measured'")
    end_ns = _whole(row["end_ns"])
    if end_ns is None:
        raise ValueError("a request has no end_ns")
    return imported_record(
        index=_whole(row["index"]) or 0,
        phase="lead-in" if phase == "lead-in" else "measured",
        request_id=str(row["request_id"]),
        due_ns=_whole(row["due_ns"]),
        sent_ns=_whole(row["sent_ns"]),
        chunk_ns=() if first is None or last is None else (first, last) if several else (first,),
        end_ns=end_ns,
        input_tokens=_whole(row["input_tokens"]),
        output_tokens=_whole(row["output_tokens"]),
        status=_whole(row["status"]),
        error=str(row["error"]) if row["error"] else None,
        cancelled=row["cancelled"] in (True, "True"),
        answers=_whole(row.get("answers")) or 1,
        first_chunk_tokens=_first_chunk_tokens(row),
        hidden_tokens=_whole(row.get("hidden_tokens")) or 0,
        usage_doubt=str(row["usage_doubt"]) if row.get("usage_doubt") else None,
    )


def _first_chunk_tokens(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Number of tokens in the first chunk, so that each of the others takes `itl_ms`; () where it is not known."""
    itl_ms = float(row["itl_ms"] or 0)
    tokens, first, last = (_whole(row[name]) for name in ("output_tokens", "first_token_ns", "last_token_ns"))
    if not itl_ms or tokens is None or first is None or last is None:
        return ()
    own = (tokens - (_whole(row.get("hidden_tokens")) or 0)) / (_whole(row.get("answers")) or 1)
    return (round(own - (last - first) / 1e6 / itl_ms, 6),)


def _whole(cell: Any) -> int | None:
    return None if cell in (None, "") else int(cell)
