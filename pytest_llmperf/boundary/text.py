"""Text that others wrote (servers, logs, files), made fit to be shown and stored. Pure but for the known secrets."""

from __future__ import annotations

import codecs
import re

from pytest_llmperf.boundary.secrets import redacted

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
"""Terminals obey control characters, marks of direction turn a line around, and no file holds half a surrogate pair."""

_FORMULA = ("=", "+", "-", "@", "\t")
_NUMBER = re.compile(r"[-+]?[\d.,]*(e[-+]?\d+)?\s?%?|-", re.IGNORECASE)

_PLAIN = {"×": "x", "–": "-", "…": "...", "≤": "<=", "≥": ">=", "µ": "u", "→": "->", "±": "+-", "Δ": "d"}
READABLE = "llmperf.readable"
"""Way to handle what an encoding lacks (an error handler of `codecs`): similar characters, else `?`."""


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(one, "?") for one in error.object[error.start : error.end]), error.end


codecs.register_error(READABLE, _readable)


def visible(text: str) -> str:
    r"""The text with `\x1b` and its like for what is no character of a text; line ends and tabs stay."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def foreign(text: str) -> str:
    """A text from outside as it may be shown and stored: visible, and without our secrets."""
    return visible(redacted(text))


def cell(value: object) -> object:
    """A value as a CSV file may hold it: no text is one that a spreadsheet takes for a formula (`=`, `+`, `-`, `@`)."""
    if not isinstance(value, str):
        return value
    text = foreign(value)
    return f"'{text}" if text[:1] in _FORMULA and not _NUMBER.fullmatch(text) else text
