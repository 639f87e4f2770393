"""Fills Triton's config.pbtxt templates, whose placeholders differ from version to version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_PARTS = re.compile(r'(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<comment>#[^\n]*)|(?P<bare>\$\{\w+\})')
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_TOKEN = re.compile(r"[\w.+-]+", re.ASCII)


class Filled(NamedTuple):
    """A template with its values."""

    text: str
    known: frozenset[str]
    """Every placeholder that it has."""
    left: tuple[str, ...]
    """Placeholders inside of quotes that have no value: the backend takes them as not given."""
    needed: tuple[str, ...]
    """Placeholders outside of quotes that have no value: Triton cannot read the file."""


def fill(template: str, values: Mapping[str, Any]) -> Filled:
    """Puts values in the place of `${name}`; comments are left alone.

    Raises ValueError for a value outside of quotes that is neither a number nor a word.
    """
    known, left, needed = set[str](), dict[str, None](), dict[str, None]()

    def placed(match: re.Match[str]) -> str:
        if match["comment"]:
            return match[0]
        quoted = match["text"] is not None

        def value(found: re.Match[str]) -> str:
            name = found[1]
            known.add(name)
            if name not in values:
                (left if quoted else needed)[name] = None
                return found[0]
            return _escaped(values[name]) if quoted else _bare(name, values[name])

        return _PLACEHOLDER.sub(value, match[0])

    text = _PARTS.sub(placed, template)
    return Filled(text, frozenset(known), tuple(left), tuple(needed))


def _written(value: object) -> str:
    return str(value) if not isinstance(value, float) else f"{value:.15g}"


def _escaped(value: object) -> str:
    return _written(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _bare(name: str, value: object) -> str:
    if not _TOKEN.fullmatch(text := _written(value)):
        raise ValueError(f"{name} stands outside of quotes in the template: a number or a word, not {text!r}")
    return text
