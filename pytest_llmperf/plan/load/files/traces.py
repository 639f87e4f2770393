"""Recorded traces in the formats in which they are published: lines of text in, requests out.

The parsers do no I/O. A line that does not fit is a PlanError with file and line.

- mooncake: JSON lines with `timestamp` (ms), `input_length`, `output_length`, and `hash_ids`, one per 512 tokens of the
  prompt, where equal ids mean equal text (https://github.com/kvcache-ai/Mooncake). Other tools write such lines of
  other blocks and in other units of time, and AIPerf a `text_input` in the place of a length.
- burstgpt: CSV with `Timestamp` (s), `Request tokens`, `Response tokens` (https://github.com/HPMLL/BurstGPT).
- azure: CSV with `TIMESTAMP` (date and time), `ContextTokens`, `GeneratedTokens`
  (https://github.com/Azure/AzurePublicDataset).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pytest_llmperf.boundary.files import open_file
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.load.files.data_lines import (
    LONGEST_LINE,
    csv_rows,
    decoded,
    json_value,
    not_used,
    number,
    shown,
    tokens,
    value_of,
    whole_text,
)
from pytest_llmperf.plan.load.shapes import TimeUnit, TraceFormat, TraceReplay

_PER_SECOND: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_LONGEST_S = 366 * 86_400.0
"""BurstGPT covers seven months; what lasts longer is a slip of the unit."""
_ODD_SHARE = 0.99
_SHORT_GAP_S, _LONG_GAP_S = 1e-3, 60.0
"""Gaps between requests, in seconds: where nearly all are smaller, or larger, the unit of time is in doubt."""
_USUAL_BLOCKS = tuple(2**power for power in range(3, 24))
_LABELS = ("Model", "Total tokens", "Log Type", "Elapsed time")
"""Columns of BurstGPT that say nothing about what is to be sent."""


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One recorded request; `due_s` counts from the trace's first."""

    due_s: float
    input_tokens: int
    """0 where the prompt is `text`."""
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Prompt blocks: the same number is the same text in every request; empty: a text of its own."""
    text: str | None = None
    """The prompt itself, where the trace has it."""
    line: int = 0
    """Line of the file, from 1."""


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """The requests of a trace in order of time, and remarks on what of the file is not replayed or looks wrong."""

    entries: tuple[TraceEntry, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Seen:
    """Everything in a trace beside its requests, filled while it is read."""

    source: str
    per_second: float
    """Number of the file's units of time in a second."""
    unused: Counter[str]

    def count(self, given: Mapping[str, Any], used: Sequence[str]) -> None:
        """Counts the keys that have a value and no use."""
        self.unused.update(key for key, value in given.items() if value not in (None, "", []) and key not in used)


def read_trace(given: TraceReplay) -> RecordedTrace:
    """The requests of a file, scaled and limited as given. Raises PlanError."""
    try:
        with open_file(Path(given.file)) as file:
            return parse_trace(_lines(file, given.file), given)
    except OSError as error:
        raise PlanError(f"{given.file}: cannot read the trace: {error}") from error


def _lines(file: IO[bytes], source: str) -> Iterator[str]:
    """One by one: with a `limit` only the beginning of a large file is read."""
    for line in itertools.count(1):
        data = file.readline(LONGEST_LINE + 1)
        if not data:
            return
        if len(data) > LONGEST_LINE:
            raise PlanError(f"{source}:{line}: a line of more than {LONGEST_LINE:,} bytes")
        text = decoded(data, source, line)
        yield text.removeprefix("\ufeff") if line == 1 else text


def parse_trace(lines: Iterable[str], given: TraceReplay) -> RecordedTrace:
    """The same as read_trace, of the file's lines."""
    seen = _Seen(given.file, _PER_SECOND[given.unit], Counter())
    found = list(itertools.islice(_PARSERS[given.format](lines, seen), given.limit))
    if not found:
        raise PlanError(f"{given.file}:1: the trace holds no request")
    _check_blocks(found, given)
    found.sort(key=lambda entry: entry.due_s)
    doubts = () if given.format == "azure" else _time_doubts(found, given)
    entries = tuple(_from_first(found, given))
    return RecordedTrace(entries, (*doubts, *not_used(seen.unused, given.file)))


def _from_first(found: Sequence[TraceEntry], given: TraceReplay) -> Iterator[TraceEntry]:
    first = found[0]
    for entry in found:
        due_s = (entry.due_s - first.due_s) * given.time_scale
        if due_s > _LONGEST_S:
            raise PlanError(
                f"{given.file}:{entry.line}: due {due_s / 86_400:.3g} days after the first request (line "
                f"{first.line}), more than a year: is its time right, and the unit (`time_unit`, `time_scale`)?"
            )
        yield replace(entry, due_s=due_s)


def _time_doubts(found: Sequence[TraceEntry], given: TraceReplay) -> Iterator[str]:
    gaps = [after.due_s - before.due_s for before, after in itertools.pairwise(found)]
    doubt = f"is `time_unit: {given.unit}` right?"
    if gaps and sum(gap < _SHORT_GAP_S for gap in gaps) >= _ODD_SHARE * len(gaps):
        yield f"{given.file}: nearly all requests were recorded less than 1 ms after the one before: {doubt}"
    if gaps and sum(gap >= _LONG_GAP_S for gap in gaps) >= _ODD_SHARE * len(gaps):
        yield f"{given.file}: nearly all requests were recorded a minute or more after the one before: {doubt}"


def _check_blocks(found: Sequence[TraceEntry], given: TraceReplay) -> None:
    """Raises PlanError where a prompt has not as many blocks as its length takes, and says which size would fit."""
    size = given.block_size
    with_blocks = [entry for entry in found if entry.blocks]
    wrong = [entry for entry in with_blocks if len(entry.blocks) != -(-entry.input_tokens // size)]
    if not wrong:
        return
    first = wrong[0]
    raise PlanError(
        f"{given.file}:{first.line}: {len(first.blocks)} hash_ids for input_length {first.input_tokens}, which takes "
        f"{-(-first.input_tokens // size)} in blocks of {size} tokens (so it is in {len(wrong)} of {len(with_blocks)} "
        f"lines with hash_ids); {_fitting(with_blocks)}"
    )


def _fitting(entries: Sequence[TraceEntry]) -> str:
    """A sentence on the block sizes that agree with all entries: n blocks hold more than n - 1 of them and at most
    n.
    """
    least = max(-(-entry.input_tokens // len(entry.blocks)) for entry in entries)
    below = [(entry.input_tokens - 1) // (len(entry.blocks) - 1) for entry in entries if len(entry.blocks) > 1]
    most = min(below, default=None)
    if most is not None and least > most:
        return "no size of a block fits every line"
    span = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
    usual = next((size for size in _USUAL_BLOCKS if least <= size and (most is None or size <= most)), least)
    return f"blocks of {span} tokens would fit every line: is it `block_tokens: {usual}`?"


def _mooncake(lines: Iterable[str], seen: _Seen) -> Iterator[TraceEntry]:
    for at, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _mooncake_entry(json_value(line), at, seen)
            except ValueError as error:
                raise PlanError(f"{seen.source}:{at}: {error}") from error


def _mooncake_entry(given: Any, at: int, seen: _Seen) -> TraceEntry:
    if not isinstance(given, dict):
        raise ValueError(f"not a JSON object: {shown(given)}")
    if given.get("timestamp") is None and given.get("delay") is not None:
        raise ValueError(
            "timestamp is missing: a turn that comes a `delay` after an answer cannot be replayed at recorded times; "
            "send it with `prompts` and `conversation`"
        )
    used, due_s = ["timestamp", "output_length"], value_of(number, given, "timestamp") / seen.per_second
    text = None if given.get("text_input") is None else value_of(whole_text, given, "text_input")
    used += ["text_input"] if text is not None else ["input_length", "hash_ids"]
    seen.count(given, used)
    output = value_of(tokens, given, "output_length")
    if text is not None:
        return TraceEntry(due_s, 0, output, text=text, line=at)
    return TraceEntry(
        due_s, value_of(tokens, given, "input_length"), output, _blocks(given.get("hash_ids") or []), line=at
    )


def _blocks(ids: Any) -> tuple[int, ...]:
    if not isinstance(ids, list) or not all(type(block) is int and block >= 0 for block in ids):
        raise ValueError(f"hash_ids: a list of whole numbers is needed, given {shown(ids)}")
    return tuple(ids)


def _burstgpt(lines: Iterable[str], seen: _Seen) -> Iterator[TraceEntry]:
    """Entries without the requests that failed when the trace was recorded: those have no response tokens."""
    for row, at in _rows(lines, seen.source, ("Timestamp", "Request tokens", "Response tokens")):
        if _is_zero(row["Response tokens"]):
            seen.unused["rows without response tokens, which failed"] += 1
            continue
        seen.count(row, ("Timestamp", "Request tokens", "Response tokens", *_LABELS))
        yield _row_entry(
            row, at, seen, "Request tokens", "Response tokens", lambda row: value_of(number, row, "Timestamp")
        )


def _is_zero(text: str) -> bool:
    try:
        return number(text) == 0
    except ValueError:
        return False


def _azure(lines: Iterable[str], seen: _Seen) -> Iterator[TraceEntry]:
    for row, at in _rows(lines, seen.source, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
        seen.count(row, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
        yield _row_entry(row, at, seen, "ContextTokens", "GeneratedTokens", _moment)


def _row_entry(
    row: Mapping[str, str], at: int, seen: _Seen, asked: str, answered: str, time: Callable[[Mapping[str, str]], float]
) -> TraceEntry:
    try:
        return TraceEntry(
            time(row) / seen.per_second, value_of(tokens, row, asked), value_of(tokens, row, answered), line=at
        )
    except ValueError as error:
        raise PlanError(f"{seen.source}:{at}: {error}") from error


def _moment(row: Mapping[str, str]) -> float:
    try:
        moment = datetime.fromisoformat(row["TIMESTAMP"].strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"TIMESTAMP: {shown(row['TIMESTAMP'])} is not a date and time") from None


def _rows(lines: Iterable[str], source: str, columns: tuple[str, ...]) -> Iterator[tuple[dict[str, str], int]]:
    """Every row of a CSV with at least these columns, and the line on which it ends."""
    rows = csv_rows(lines, source)
    header = [name.strip() for name in next(rows, ([], 1))[0]]
    missing = [name for name in columns if header.count(name) != 1]
    if missing:
        raise PlanError(
            f"{source}:1: no column {', '.join(map(repr, missing))}, or several; the columns are {shown(header)}"
        )
    for row, at in rows:
        if len(row) > len(header) or any(header.index(name) >= len(row) for name in columns):
            raise PlanError(f"{source}:{at}: {len(row)} columns, the header has {len(header)}: {shown(row)}")
        yield dict(zip(header, row, strict=False)), at


_PARSERS: dict[TraceFormat, Callable[[Iterable[str], _Seen], Iterator[TraceEntry]]] = {
    "mooncake": _mooncake,
    "burstgpt": _burstgpt,
    "azure": _azure,
}
