"""Tables of metrics as GenAI-Perf and AIPerf write them into CSV. Pure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from pytest_llmperf.interchange.readers.shared.fields import ImportFileError


def read_rows(text: str, name: str) -> list[list[str]]:
    """The rows of a CSV. ImportFileError names the line of what is none."""
    reader = csv.reader(io.StringIO(text))
    try:
        return list(reader)
    except csv.Error as error:
        raise ImportFileError(f"{name}:{reader.line_num}: no CSV ({error})") from error


def read_tables(text: str, name: str) -> dict[str, dict[str, float | str]]:
    """The metrics of all tables but those of GPUs, each under a header `Metric,…`."""
    metrics: dict[str, dict[str, float | str]] = {}
    header: list[str] = []
    for line, row in enumerate(read_rows(text, name), start=1):
        if row and row[0] in ("Metric", "Endpoint", ""):
            header = row
        elif row and header[:1] == ["Metric"] and "GPU" not in header:
            metric, unit = untitled(row[0])
            metrics[metric] = {"unit": unit, **cells(header, row, f"{name}:{line}")}
    return metrics


def untitled(title: str) -> tuple[str, str]:
    """`Time To First Token (ms)` -> `time_to_first_token`, `ms`; a title without a unit has an empty one."""
    words, _, unit = title.rpartition(" (") if title.endswith(")") else (title, "", "")
    return words.lower().replace(" ", "_"), unit.rstrip(")")


def cells(header: Sequence[str], row: Sequence[str], where: str) -> dict[str, float | str]:
    """The numbers of a row by the names of their columns, without those that have no value."""
    if len(header) != len(row):
        raise ImportFileError(f"{where}: {len(row)} cells, and {len(header)} columns")
    named = zip(header[1:], row[1:], strict=True)
    found = {"avg" if key == "Value" else key: number(cell, where) for key, cell in named if cell not in ("", "N/A")}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def number(cell: str, where: str) -> float:
    """The value of a cell, which may have commas between thousands."""
    try:
        return float(cell.replace(",", ""))
    except ValueError as error:
        raise ImportFileError(f"{where}: {cell!r} is no number") from error
