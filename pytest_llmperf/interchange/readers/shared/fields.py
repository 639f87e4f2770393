"""Values of JSON data, checked: each error says where in which file something is wrong. Pure."""

from __future__ import annotations

import math
from typing import Any

from pytest_llmperf.errors import LlmPerfError

LARGEST = 2**63
"""A number above any time in ns and any count that a file can mean."""
NUMBER = (int, float)
"""Finite and not negative, as every time and count of these files is."""


class ImportFileError(LlmPerfError):
    """The file is of none of the tools, or is damaged; the message names it and the line where there is one."""


def pick(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> Any:
    """The value at a path of JSON data. ImportFileError says where it should be and what, when it is not; numbers are
    finite and not negative."""
    found, shown = data, ".".join(map(str, path))
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            raise ImportFileError(f"{where}: no {shown!r}") from None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ImportFileError(f"{where}: {shown} is {found!r:.60}, not of type {wanted}")
    if isinstance(found, int | float) and kind is not bool and not is_number(found):
        raise ImportFileError(f"{where}: {shown} is {found!r:.60}, no time or count")
    return found


def pick_optional(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> Any:
    """`pick`, or None where there is nothing, or null."""
    return None if optional(data, *path) is None else pick(data, *path, kind=kind, where=where)


def pick_list(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> list[Any]:
    """The list at a path of JSON data, each of its items of this kind."""
    found = pick(data, *path, kind=list, where=where)
    return [pick(found, place, kind=kind, where=f"{where}: {path[-1]}") for place in range(len(found))]


def is_number(value: Any) -> bool:
    """True if a value can be a time or a count."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LARGEST


def optional(data: Any, *path: str | int) -> Any:
    """The value at a path of JSON data; None when it is not there."""
    found = data
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def text_at(data: Any, *path: str | int) -> str | None:
    """A name at a path of JSON data; None when it is not there or no text."""
    found = optional(data, *path)
    return found if isinstance(found, str) and found else None


def level(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> Any:
    """A concurrency or a rate: above 0, or None where it is not there, or null."""
    found = pick_optional(data, *path, kind=kind, where=where)
    if found == 0:
        raise ImportFileError(f"{where}: {path[-1]} is 0, which is no load")
    return found


def check_total(what: str, stated: Any, read: float, where: str) -> None:
    """Raises ImportFileError where the file's own total (nothing is checked of None) is not what was read."""
    if stated is None:
        return
    if not is_number(stated):
        raise ImportFileError(f"{where}: the total of {what} is {stated!r:.60}, no number")
    if not math.isclose(stated, read, rel_tol=1e-6, abs_tol=1e-9):
        raise ImportFileError(f"{where}: it totals {stated:.10g} {what}, and {read:.10g} were read")
