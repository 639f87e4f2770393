"""JSON documents of a text: one, or several one after another as `--append-result` and JSONL have them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.readers.shared.imported import EXPECTED

_SPACE = re.compile(r"[ \t\r\n]*")
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""Half a character, which no file can be written with again."""


def read_json(text: str, name: str, line: int | None = None) -> dict[str, Any]:
    """The one object that the text holds. ImportFileError names the line where it is damaged."""
    found = [document for _, document in read_documents(text, name, line)]
    if len(found) > 1:
        raise ImportFileError(f"{name}: {len(found)} JSON documents where one belongs")
    return found[0]


def read_documents(text: str, name: str, line: int | None = None) -> list[tuple[int, dict[str, Any]]]:
    """All objects with the lines that they begin on, at least one; `line` is that of a text which is one line of a
    file. ImportFileError names the line where one is damaged."""
    text = _LONE_SURROGATE.sub(r"\\ufffd", text)
    if not text.strip():
        raise ImportFileError(f"{name}: the file is empty; expected {EXPECTED}")
    found = list(_documents(text, name, line))
    for at, document in found:
        if not isinstance(document, dict):
            where = f"{name}:{at}" if len(found) > 1 else name
            raise ImportFileError(f"{where}: a JSON {type(document).__name__} and not an object; expected {EXPECTED}")
    return found


def _documents(text: str, name: str, line: int | None) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    at, number = _SPACE.match(text).end(), 1  # type: ignore[union-attr]
    number += text.count("\n", 0, at)
    while at < len(text):
        document, end = _decoded(decoder, text, at, name, line)
        yield line or number, document
        after = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        number += text.count("\n", at, after)
        at = after


def _decoded(decoder: json.JSONDecoder, text: str, at: int, name: str, line: int | None) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        where = f"{name}:{line or error.lineno}"
        raise ImportFileError(f"{where}: not JSON, or cut off ({error.msg}, column {error.colno})") from error
    except RecursionError:
        raise ImportFileError(f"{name}: JSON that is nested too deeply to be any tool's") from None
    except ValueError as error:
        raise ImportFileError(f"{name}: a number that is too large ({error})") from error
