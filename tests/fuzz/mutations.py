"""Good inputs made bad: bytes that are cut, doubled, swapped or flipped, and JSON values that are of another kind."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

_ODD = (
    *(None, True, False, 0, -1, 1e308, -1e308, 10**30, "", "\ud800", "\x1b[2J", "a" * 5000, [], {}, [[]], {"": {}}),
    *("NaN", "Infinity", "../../etc/passwd", "${HOME}", "1 s", "-5 %", [None], {"name": None}),
)
_EDITS = 4


def bytes_like(seed: bytes) -> st.SearchStrategy[bytes]:
    """The seed with a few edits of its bytes."""
    place = st.integers(0, max(len(seed), 1))
    edit = st.one_of(
        st.tuples(st.just(_cut), place, place),
        st.tuples(st.just(_double), place, place),
        st.tuples(st.just(_insert), place, st.binary(max_size=8)),
        st.tuples(st.just(_flip), place, st.integers(1, 255)),
    )
    return st.lists(edit, min_size=1, max_size=_EDITS).map(lambda edits: _edited(seed, edits))


def text_like(seed: str) -> st.SearchStrategy[str]:
    """The same, as the text that a reader makes of bytes."""
    return bytes_like(seed.encode()).map(lambda made: made.decode("utf-8", "replace"))


def json_like(seed: str) -> st.SearchStrategy[str]:
    """The seed's JSON with a few values replaced, taken out or doubled, wherever they are."""
    paths = list(_paths(json.loads(seed)))
    change = st.tuples(st.sampled_from(paths), st.sampled_from(("replace", "delete", "wrap")), st.sampled_from(_ODD))
    return st.lists(change, min_size=1, max_size=_EDITS).map(lambda changes: _changed(seed, changes))


def _edited(seed: bytes, edits: list[tuple[Callable[..., bytes], int, Any]]) -> bytes:
    for apply, place, more in edits:
        seed = apply(seed, place, more)
    return seed


def _cut(text: bytes, one: int, other: int) -> bytes:
    begin, end = sorted((one, other))
    return text[:begin] + text[end:]


def _double(text: bytes, one: int, other: int) -> bytes:
    begin, end = sorted((one, other))
    return text[:end] + text[begin:end] + text[end:]


def _insert(text: bytes, place: int, more: bytes) -> bytes:
    return text[:place] + more + text[place:]


def _flip(text: bytes, place: int, bits: int) -> bytes:
    return text[:place] + bytes(byte ^ bits for byte in text[place : place + 1]) + text[place + 1 :]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Where values are; of long lists the first and the last ones."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    many = list(items)
    for key, inner in many if len(many) < 40 else [*many[:20], *many[-5:]]:
        yield from _paths(inner, (*path, key))


def _changed(seed: str, changes: list[tuple[tuple[Any, ...], str, Any]]) -> str:
    document = json.loads(seed)
    for path, kind, odd in changes:
        holder = document
        try:
            for key in path[:-1]:
                holder = holder[key]
            if kind == "delete":
                del holder[path[-1]]
            else:
                holder[path[-1]] = copy.deepcopy(odd) if kind == "replace" else [holder[path[-1]], odd]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
    return json.dumps(document)
