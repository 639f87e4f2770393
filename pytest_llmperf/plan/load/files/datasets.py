"""Files of prompts to dialogues: JSONL, ShareGPT JSON, CSV. The parsers do no I/O; mistakes carry file and line.

What the keys of an entry are called differs from tool to tool: vLLM's custom data sets and GuideLLM have `prompt`,
GenAI-Perf `text_input`, AIPerf `text` and `turns`, OpenAI `messages`, ShareGPT `conversations`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pytest_llmperf.boundary.files import read_file
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.load.files.data_lines import (
    LONGEST_LINE,
    csv_rows,
    cut,
    decoded,
    json_value,
    json_value_at,
    not_used,
    number,
    shown,
    tokens,
    value_of,
    whole_text,
)
from pytest_llmperf.plan.load.prompts import FileFormat

_MOST_BYTES = 1 << 30

_HUMAN = ("human", "user")
_MODEL = ("gpt", "assistant", "chatgpt", "model", "bard", "bing")
_PROMPTS = ("input", "prompt", "text_input", "text")
_SAID = ("conversations", "conversation", "messages", "items", "turns")
_LENGTHS = (
    "output_tokens",
    "max_tokens",
    "max_completion_tokens",
    "output_length",
    "output_len",
    "output_tokens_count",
)
_DELIMITERS = ",;\t|"
_LONGEST_DELAY_S = 86_400.0


class Turn(NamedTuple):
    """A user's message, and the facts that a file gives of its answer."""

    input: str
    output: str | None = None
    """The answer in the file; None where it has none."""
    output_tokens: int | None = None
    """Tokens to ask for, where the entry has a number of its own."""
    delay_s: float | None = None
    """Pause after the answer before, in seconds, where the entry has one."""
    others: tuple[str, ...] = ()
    """Right answers beside `output` (`references`)."""

    @property
    def references(self) -> tuple[str, ...]:
        """Every answer that is a right one; empty where the file has none."""
        return (*([self.output] if self.output is not None else ()), *self.others)


Dialogue = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The dialogues of a file, and remarks on what of the file is not sent, or sent otherwise than the plan says."""

    dialogues: tuple[Dialogue, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Seen:
    """Everything in a file's entries beside their prompts, filled while it is read."""

    sessions: bool
    """True if several turns are sent; else `session_id` and `delay` have no use."""
    unused: Counter[str] = field(default_factory=Counter)
    lengths: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    ids: list[object] = field(default_factory=list)
    """The session of each dialogue; its own place in the file where it names none."""

    def count(self, entry: dict[str, Any], used: Iterable[str]) -> None:
        """Counts the keys that have a value and no use."""
        self.unused.update(key for key, value in entry.items() if value is not None and key not in (*used, "id"))


def read_prompts(file: str) -> str:
    """The text of a prompt file, line ends as newlines. Raises PlanError."""
    try:
        data = read_file(Path(file), _MOST_BYTES)
    except OSError as error:
        raise PlanError(f"{file}: cannot read the prompts: {error}") from error
    return decoded(data, file).replace("\r\n", "\n").replace("\r", "\n")


def parse_dataset(text: str, kind: FileFormat, source: str, *, sessions: bool = False) -> Dataset:
    """Every dialogue of a file. `source` is what errors call the file.

    With `sessions`, entries with the same `session_id` are the turns of one dialogue, in the order of the file.
    Raises PlanError with file and line, also when the file holds no prompt at all.
    """
    seen = _Seen(sessions)
    found = list(_PARSERS[kind](text.removeprefix("\ufeff"), source, seen))
    if not found:
        raise PlanError(f"{source}: no prompt in it (format {kind})")
    nouns = ("entry", "entries") if kind == "sharegpt" else ("line", "lines")
    return Dataset(tuple(_joined(found, seen.ids)), tuple(_notes(found, seen, source, nouns)))


def _joined(found: list[Dialogue], ids: list[object]) -> Iterator[Dialogue]:
    """Dialogues of the same id in one."""
    sessions: dict[object, list[Turn]] = {}
    for session, dialogue in zip(ids, found, strict=True):
        sessions.setdefault(session, []).extend(dialogue)
    return map(tuple, sessions.values())


def _notes(found: list[Dialogue], seen: _Seen, source: str, nouns: tuple[str, str]) -> Iterator[str]:
    yield from seen.notes
    if seen.lengths:
        named = ", ".join(seen.lengths)
        count = sum(any(turn.output_tokens for turn in dialogue) for dialogue in found)
        yield f"{source}: the answers of {count} of {len(found)} {nouns[1]} have a length of their own there ({named})"
    yield from not_used(seen.unused, source, *nouns)


def _jsonl(text: str, source: str, seen: _Seen) -> Iterator[Dialogue]:
    for line, entry in _json_lines(text, source):
        yield from _dialogue(entry, f"{source}:{line}", seen, (*_PROMPTS, *_SAID))


def _json_lines(text: str, source: str) -> Iterator[tuple[int, Any]]:
    for at, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > LONGEST_LINE:
            raise PlanError(f"{source}:{at}: a line of {len(line):,} characters; at most {LONGEST_LINE:,}")
        try:
            yield at, json_value(line)
        except ValueError as error:
            raise PlanError(f"{source}:{at}: not JSON ({error}): {cut(line)}") from None


def _sharegpt(text: str, source: str, seen: _Seen) -> Iterator[Dialogue]:
    """An array of entries, or one per line. Those in which nobody asks are passed over: well-known files have many."""
    entries = _json_lines if text.lstrip().startswith("{") else _array
    for line, entry in entries(text, source):
        yield from _dialogue(entry, f"{source}:{line}", seen, _SAID)


def _dialogue(entry: Any, where: str, seen: _Seen, keys: tuple[str, ...]) -> Iterator[Dialogue]:
    """The dialogue of an entry, which says what it holds by one of `keys`; none where nobody asks anything."""
    key = next((key for key in keys if entry.get(key) is not None), None) if isinstance(entry, dict) else None
    if key is None:
        needed = " or ".join(f'"{key}"' for key in keys)
        raise PlanError(f"{where}: an object with {needed} is needed, given {shown(entry)}")
    try:
        if key in _PROMPTS:
            dialogue: Dialogue = (_turn(entry, seen, ("session_id",)),)
        else:
            seen.count(entry, (key, "session_id"))
            dialogue = tuple(_turns(entry[key], key, seen))
    except ValueError as error:
        raise PlanError(f"{where}: {error}") from None
    if not dialogue:
        seen.unused["no user's turn"] += 1
    else:
        seen.ids.append(_session(entry, where, seen))
        yield dialogue


def _session(entry: dict[str, Any], where: str, seen: _Seen) -> object:
    session = entry.get("session_id")
    alone = len(seen.ids)
    if session is None:
        return alone
    if not seen.sessions:
        seen.unused["session_id"] += 1
        return alone
    if isinstance(session, str) or type(session) is int:
        return session, "session"
    raise PlanError(f"{where}: session_id: a text or a whole number is needed, given {shown(session)}")


def _turn(entry: dict[str, Any], seen: _Seen, used: tuple[str, ...] = ()) -> Turn:
    """A prompt with what stands beside it; ValueError says what is wrong with it."""
    key = next(key for key in _PROMPTS if entry.get(key) is not None)
    given = {name: value_of(tokens, entry, name) for name in _LENGTHS if entry.get(name) is not None}
    if len(set(given.values())) > 1:
        raise ValueError(f"lengths of the answer that differ: {', '.join(f'{k}: {n}' for k, n in given.items())}")
    seen.lengths.update(given)
    delay_s = _delay_s(entry) if seen.sessions else None
    seen.count(entry, (key, "output", "references", *_LENGTHS, *used, *(("delay",) if seen.sessions else ())))
    output = None if entry.get("output") is None else value_of(whole_text, entry, "output")
    others = () if entry.get("references") is None else value_of(_texts, entry, "references")
    return Turn(value_of(whole_text, entry, key), output, next(iter(given.values()), None), delay_s, others)


def _texts(given: Any) -> tuple[str, ...]:
    """One text, or a list of at least one; ValueError says what was given."""
    if isinstance(given, list) and given:
        return tuple(map(whole_text, given))
    return (whole_text(given),)


def _delay_s(entry: dict[str, Any]) -> float | None:
    """AIPerf's `delay` is in ms."""
    if entry.get("delay") is None:
        return None
    delay_s = value_of(number, entry, "delay") / 1e3
    if not 0 <= delay_s <= _LONGEST_DELAY_S:
        raise ValueError(f"delay: {shown(entry['delay'])} ms is not between 0 and a day")
    return delay_s


def _turns(said: Any, key: str, seen: _Seen) -> Iterator[Turn]:
    """The messages of a dialogue's users, each with the answer that follows it at once."""
    if not isinstance(said, list):
        raise ValueError(f"{key}: a list of turns is needed, given {shown(said)}")
    asked: Turn | None = None
    for part in said:
        speaker, turn = _saying(part, seen)
        if asked is not None:
            yield asked._replace(output=turn.input) if speaker in _MODEL and turn.input.strip() else asked
            asked = None
        if speaker in _HUMAN:
            asked = turn if turn.input.strip() else None
        elif speaker not in _MODEL:
            seen.unused[f"turns of {speaker}"] += 1
    if asked is not None:
        yield asked


def _saying(part: Any, seen: _Seen) -> tuple[str, Turn]:
    """Speaker and text of one part of a dialogue; without a speaker it is a user's, with keys as those of a prompt."""
    if isinstance(part, dict):
        speaker, value = part.get("from", part.get("role")), part.get("value", part.get("content"))
        if speaker is None and any(part.get(key) is not None for key in _PROMPTS):
            return _HUMAN[0], _turn(part, seen)
        if isinstance(value, list):
            value = _parts(value)
        if value is None and speaker not in _HUMAN and "content" in part:
            value = ""  # the assistant calls a tool
        if isinstance(speaker, str) and isinstance(value, str):
            seen.count(part, ("from", "role", "value", "content"))
            return speaker, Turn(whole_text(value) if value.strip() else value)
    raise ValueError(f"a turn is {{from: …, value: …}} or {{role: …, content: …}} of texts, given {shown(part)}")


def _parts(parts: list[Any]) -> str | None:
    """The text of OpenAI's list of content parts; None where one is no text."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    return "".join(text for text in texts if text) if all(isinstance(text, str) for text in texts) else None


def _csv(text: str, source: str, seen: _Seen) -> Iterator[Dialogue]:
    """Dialogues by the names of the header, or, where no column is a prompt's by name, from the first column of
    every row.
    """
    header = text.lstrip("\n").partition("\n")[0]
    delimiter = next((mark for mark in _DELIMITERS if _prompt_column(_names(header, mark))), ",")
    prompt = _prompt_column(_names(header, delimiter))
    rows = csv_rows(io.StringIO(text, newline=""), source, delimiter)
    names = ["prompt"] if prompt is None else _columns(next(rows), prompt, source)
    if prompt is None:
        seen.notes.append(
            f"{source}: no column is called {' or '.join(_PROMPTS)}: the first of every row is the prompt"
        )
    for row, line in rows:
        where = f"{source}:{line}"
        entry = _csv_entry(row[:1] if prompt is None else row, names, where)
        yield from _dialogue(entry, where, seen, _PROMPTS)


def _names(header: str, delimiter: str) -> list[str]:
    """The first row, split so, as names of columns; none where it is no row by itself."""
    try:
        row, _ = next(csv_rows([header], "", delimiter), ([], 0))
    except PlanError:
        return []
    return [name.strip().lower() for name in row]


def _prompt_column(names: list[str]) -> str | None:
    return next((name for name in ("prompt", *_PROMPTS) if name in names), None)


def _columns(header: tuple[list[str], int], prompt: str, source: str) -> list[str]:
    """The header's names, of which only the prompt's column has one that means a prompt."""
    names = [name.strip().lower() for name in header[0]]
    if len(set(names)) < len(names):
        raise PlanError(f"{source}:{header[1]}: two columns have the same name: {shown(names)}")
    others = {name: f"column {name}" for name in _PROMPTS if name != prompt}
    return ["prompt" if name == prompt else others.get(name, name) for name in names]


def _csv_entry(row: list[str], names: list[str], where: str) -> dict[str, Any]:
    at = names.index("prompt")
    if len(row) <= at:
        raise PlanError(f"{where}: {len(row)} columns; the prompt is in column {at + 1}")
    if any(row[len(names) :]):
        raise PlanError(f"{where}: {len(row)} columns, the header has {len(names)}: is a text with commas not quoted?")
    entry = {name: value if value.strip() else None for name, value in zip(names, row, strict=False)}
    return entry | {"prompt": row[at]}


def _array(text: str, source: str) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON array, each with the line on which it starts."""
    position, line, counted = _skip(text, 0), 1, 0
    if text[position : position + 1] != "[":
        raise PlanError(f"{source}:1: ShareGPT is a JSON array of conversations, given {cut(text)!r}")
    position = _skip(text, position + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            entry, position = json_value_at(text, position)
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


_PARSERS: dict[FileFormat, Callable[[str, str, _Seen], Iterator[Dialogue]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "sharegpt": _sharegpt,
}
