"""Files of prompts to dialogues: JSONL, ShareGPT JSON, CSV. The parsers do no I/O; mistakes carry file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pytest_llmperf.errors import PlanError
from pytest_llmperf.prompt_spec import FileFormat

_HUMAN = ("human", "user")
_MODEL = ("gpt", "assistant", "chatgpt", "model", "bard", "bing")
_PROMPT_COLUMNS = ("prompt", "input")
_SHOWN = 80


class Turn(NamedTuple):
    """What a user said; `output` is the answer in the file, None where it has none."""

    input: str
    output: str | None = None


Dialogue = tuple[Turn, ...]


def read_prompts(file: str) -> str:
    """The text of a prompt file. Raises PlanError."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{file}: cannot read the prompts: {error}") from error


def parse_dataset(text: str, kind: FileFormat, source: str) -> tuple[Dialogue, ...]:
    """Every dialogue of a file, of one turn each except in ShareGPT's. `source` is what errors call the file.

    Raises PlanError with file and line, also when the file holds no prompt at all.
    """
    found = tuple(_PARSERS[kind](text.removeprefix("\ufeff"), source))
    if not found:
        raise PlanError(f"{source}: no prompt in it (format {kind})")
    return found


def _jsonl(text: str, source: str) -> Iterator[Dialogue]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield (_jsonl_turn(line, f"{source}:{number}"),)


def _jsonl_turn(line: str, where: str) -> Turn:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise PlanError(f"{where}: not JSON ({error}): {_shown(line)}") from None
    if not isinstance(given, dict) or "input" not in given:
        raise PlanError(f'{where}: an object with "input" is needed, given {_shown(line)}')
    return Turn(_text(given["input"], "input", where), _optional_text(given.get("output"), where))


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PlanError(f"{where}: {name} is a text that is not empty, given {_shown(json.dumps(value))}")
    return value


def _optional_text(value: Any, where: str) -> str | None:
    return None if value is None else _text(value, "output", where)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _csv(text: str, source: str) -> Iterator[Dialogue]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    prompt, output, is_first = 0, None, True
    try:
        for row in rows:
            names = [cell.strip().lower() for cell in row]
            known = [name for name in _PROMPT_COLUMNS if name in names] if is_first else []
            is_first = False
            if known:
                prompt, output = names.index(known[0]), names.index("output") if "output" in names else None
            elif row:
                yield (_csv_turn(row, prompt, output, f"{source}:{rows.line_num}"),)
    except csv.Error as error:
        raise PlanError(f"{source}:{rows.line_num}: not CSV: {error}") from None


def _csv_turn(row: list[str], prompt: int, output: int | None, where: str) -> Turn:
    if len(row) <= prompt:
        raise PlanError(f"{where}: {len(row)} columns; the prompt is in column {prompt + 1}")
    answer = row[output] if output is not None and output < len(row) and row[output].strip() else None
    return Turn(_text(row[prompt], "the prompt", where), answer)


def _sharegpt(text: str, source: str) -> Iterator[Dialogue]:
    """Entries in which nobody asks anything are passed over: the well-known files have many."""
    for line, entry in _array(text, source):
        where = f"{source}:{line}"
        said = entry.get("conversations") if isinstance(entry, dict) else None
        if not isinstance(said, list):
            raise PlanError(f'{where}: an object with "conversations": [{{from, value}}] is needed')
        dialogue = tuple(_turns([_saying(part, where) for part in said]))
        if dialogue:
            yield dialogue


def _saying(part: Any, where: str) -> tuple[str, str]:
    if not isinstance(part, dict) or not isinstance(part.get("from"), str) or not isinstance(part.get("value"), str):
        raise PlanError(f"{where}: a turn is {{from: …, value: …}} of texts, given {_shown(json.dumps(part))}")
    return part["from"], part["value"]


def _turns(said: list[tuple[str, str]]) -> Iterator[Turn]:
    for position, (speaker, value) in enumerate(said):
        if speaker in _HUMAN and value.strip():
            after = said[position + 1] if position + 1 < len(said) else ("", "")
            yield Turn(value, after[1] if after[0] in _MODEL and after[1].strip() else None)


def _array(text: str, source: str) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON array, each with the line on which it starts."""
    decoder, position, line, counted = json.JSONDecoder(), _skip(text, 0), 1, 0
    if text[position : position + 1] != "[":
        raise PlanError(f"{source}:1: ShareGPT is a JSON array of conversations, given {_shown(text[: _SHOWN + 1])!r}")
    position = _skip(text, position + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            entry, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise PlanError(f"{source}:{getattr(error, 'lineno', line)}: not JSON: {error}") from None
        yield line, entry
        position = _skip(text, position)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            raise PlanError(f"{source}:{text.count(chr(10), 0, position) + 1}: not JSON: ',' or ']' is missing")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


_PARSERS: dict[FileFormat, Callable[[str, str], Iterator[Dialogue]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "sharegpt": _sharegpt,
}
