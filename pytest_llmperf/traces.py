"""Recorded traces in the formats in which they are published: lines of text in, requests out.

The parsers do no I/O. A line that does not fit is a PlanError with file and line.

- mooncake: JSON lines with `timestamp` (ms), `input_length`, `output_length`, and `hash_ids`, one per 512 tokens of the
  prompt, where equal ids mean equal text (https://github.com/kvcache-ai/Mooncake).
- burstgpt: CSV with `Timestamp` (s), `Request tokens`, `Response tokens` (https://github.com/HPMLL/BurstGPT).
- azure: CSV with `TIMESTAMP` (date and time), `ContextTokens`, `GeneratedTokens`
  (https://github.com/Azure/AzurePublicDataset).
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import PlanError
from pytest_llmperf.shapes import TraceFormat, TraceReplay

BLOCK_TOKENS = 512
"""Tokens that one of Mooncake's `hash_ids` stands for."""


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One recorded request; `due_s` counts from the trace's first."""

    due_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Prompt blocks of BLOCK_TOKENS: the same number is the same text in every request; empty: a text of its own."""


def read_trace(given: TraceReplay) -> tuple[TraceEntry, ...]:
    """The entries of a file in order of time, scaled and limited as given. Raises PlanError."""
    try:
        with Path(given.file).open(encoding="utf-8-sig", newline="") as lines:
            return parse_trace(lines, given)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{given.file}: cannot read the trace: {error}") from error


def parse_trace(lines: Iterable[str], given: TraceReplay) -> tuple[TraceEntry, ...]:
    """As read_trace, of the file's lines."""
    found = itertools.islice(_PARSERS[given.format](lines, given.file), given.limit)
    entries = sorted(found, key=lambda entry: entry.due_s)
    if not entries:
        raise PlanError(f"{given.file}:1: the trace holds no request")
    first_s = entries[0].due_s
    return tuple(replace(entry, due_s=(entry.due_s - first_s) * given.time_scale) for entry in entries)


def _mooncake(lines: Iterable[str], source: str) -> Iterator[TraceEntry]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _entry(_mooncake_entry, line, f"{source}:{number}")


def _mooncake_entry(line: str) -> TraceEntry:
    given = json.loads(line)
    if not isinstance(given, dict):
        raise ValueError("not a JSON object")
    blocks = given.get("hash_ids") or []
    if not isinstance(blocks, list) or not all(type(block) is int and block >= 0 for block in blocks):
        raise ValueError(f"hash_ids: {blocks!r} is not a list of whole numbers")
    return TraceEntry(
        _number(given, "timestamp") / 1e3,
        _tokens(given, "input_length"),
        _tokens(given, "output_length"),
        tuple(blocks),
    )


def _burstgpt(lines: Iterable[str], source: str) -> Iterator[TraceEntry]:
    """Without the requests that failed when the trace was recorded: those have no response tokens."""
    for row, where in _rows(lines, source, ("Timestamp", "Request tokens", "Response tokens")):
        if row["Response tokens"] != "0":
            yield _entry(_burstgpt_entry, row, where)


def _burstgpt_entry(row: Mapping[str, str]) -> TraceEntry:
    return TraceEntry(_number(row, "Timestamp"), _tokens(row, "Request tokens"), _tokens(row, "Response tokens"))


def _azure(lines: Iterable[str], source: str) -> Iterator[TraceEntry]:
    for row, where in _rows(lines, source, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        yield _entry(_azure_entry, row, where)


def _azure_entry(row: Mapping[str, str]) -> TraceEntry:
    try:
        moment = datetime.fromisoformat(row["TIMESTAMP"])
    except ValueError:
        raise ValueError(f"TIMESTAMP: {row['TIMESTAMP']!r} is not a date and time") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return TraceEntry(aware.timestamp(), _tokens(row, "ContextTokens"), _tokens(row, "GeneratedTokens"))


def _rows(lines: Iterable[str], source: str, columns: tuple[str, ...]) -> Iterator[tuple[dict[str, str], str]]:
    """Every row of a CSV with at least these columns, and where it stands."""
    reader = csv.DictReader(lines)
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise PlanError(f"{source}:1: no column {', '.join(map(repr, missing))}; the columns are {reader.fieldnames}")
    for row in reader:
        where = f"{source}:{reader.line_num}"
        if any(row[name] is None for name in columns):
            raise PlanError(f"{where}: the row is too short: {[value for value in row.values() if value]}")
        yield row, where


def _entry(parse: Callable[[Any], TraceEntry], given: Any, where: str) -> TraceEntry:
    try:
        return parse(given)
    except ValueError as error:
        raise PlanError(f"{where}: {error}") from error


def _number(given: Mapping[str, Any], name: str) -> float:
    try:
        number = float(given[name])
    except (KeyError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: {given.get(name)!r} is not a number")
    return number


def _tokens(given: Mapping[str, Any], name: str) -> int:
    tokens = _number(given, name)
    if tokens != int(tokens) or tokens < 1:
        raise ValueError(f"{name}: {given[name]!r} is not a number of tokens; at least 1 is needed")
    return int(tokens)


_PARSERS: dict[TraceFormat, Callable[[Iterable[str], str], Iterator[TraceEntry]]] = {
    "mooncake": _mooncake,
    "burstgpt": _burstgpt,
    "azure": _azure,
}
