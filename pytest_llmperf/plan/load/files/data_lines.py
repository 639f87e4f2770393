"""Strict readers for the parts of files of prompts and traces: text, JSON and CSV, and numbers in them.

No I/O. What does not fit is a ValueError, or where the line is known a PlanError with file and line; nothing else is.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pytest_llmperf.errors import PlanError

T = TypeVar("T")
LONGEST_LINE = 64 * 2**20
"""Bytes of a line, or characters of a CSV field: far more than any prompt has."""
MOST_TOKENS = 10_000_000
"""Most tokens of one request: more than any model reads or writes, so that a slip is found before it fills the
memory.
"""
_SHOWN = 80
_SHOWN_KEYS = 12


def decoded(data: bytes, source: str, line: int = 1) -> str:
    """The UTF-8 text of bytes that begin at `line` of a file. Raises PlanError with the line that is something else."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + data.count(b"\n", 0, error.start)
        raise PlanError(f"{source}:{at}: not UTF-8 text: byte 0x{data[error.start]:02x}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} is given twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)


def json_value(text: str) -> Any:
    """The value of a JSON text; ValueError on what is none, also on NaN, a key twice and too deep a nesting."""
    try:
        return _JSON.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_value_at(text: str, position: int) -> tuple[Any, int]:
    """The JSON value that begins at `position`, and where it ends; errors as those of json_value."""
    try:
        return _JSON.raw_decode(text, position)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def csv_rows(lines: Iterable[str], source: str, delimiter: str = ",") -> Iterator[tuple[list[str], int]]:
    """Every row of a CSV that is not blank, and the line on which it ends. Raises PlanError."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        before = csv.field_size_limit(LONGEST_LINE)  # Python's own is less than a long prompt
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise PlanError(f"{source}:{reader.line_num}: not CSV: {error}") from None
        finally:
            csv.field_size_limit(before)
        if row is None:
            return
        if row:
            yield row, reader.line_num


def number(value: Any) -> float:
    """A finite number, also one written as text; ValueError says what was given."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{shown(value)} is not a number")
    return found


def tokens(value: Any) -> int:
    """A number of tokens from 1 to MOST_TOKENS; ValueError says what was given."""
    found = number(value)
    if found != int(found) or found < 1:
        raise ValueError(f"{shown(value)} is not a number of tokens; at least 1 is needed")
    if found > MOST_TOKENS:
        raise ValueError(f"{shown(value)} tokens are more than a request may have: {MOST_TOKENS:,}")
    return int(found)


def whole_text(value: Any) -> str:
    """A text that is not blank and that UTF-8 can write; ValueError says what was given."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text that is not empty is needed, given {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(value[error.start])
        raise ValueError(f"half of a surrogate pair (\\u{half:04x}) at character {error.start + 1}") from None
    return value


def value_of(read: Callable[[Any], T], given: Mapping[str, Any], name: str) -> T:
    """Applies `read` to the value of a key. Raises ValueError, whose message begins with the key."""
    try:
        return read(given[name])
    except KeyError:
        raise ValueError(f"{name} is missing") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def cut(text: str) -> str:
    """The beginning of a text, as long as a message can hold, without what UTF-8 cannot write."""
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return short.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: Any) -> str:
    """A JSON value for a message, cut."""
    try:
        return cut(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return "what is nested too deeply"


def not_used(keys: Counter[str], source: str, one: str = "line", many: str = "lines") -> Iterator[str]:
    """One remark on the keys of a file that change nothing of what is sent, with the number of lines that have them."""
    if keys:
        most = keys.most_common(_SHOWN_KEYS)
        named = ", ".join(f"{cut(key)} ({count} {one if count == 1 else many})" for key, count in most)
        more = f" and {len(keys) - _SHOWN_KEYS} other keys" if len(keys) > _SHOWN_KEYS else ""
        yield f"{source}: not used: {named}{more}"
