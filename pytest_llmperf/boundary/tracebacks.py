"""Secrets in what pytest shows of a failure: tracebacks with the values of arguments and locals, captured output."""

from __future__ import annotations

from typing import Any

from pytest_llmperf.boundary.secrets import redacted_file, remembered

_OURS = ("longrepr", "sections")
_PATHS = ("path", "nodeid", "location", "fspath")


def hide_in(report: Any) -> None:
    """Hides secrets in a report of pytest's, or in its representation of an exception, in place."""
    if not remembered():
        return
    names = [name for name in _OURS if hasattr(report, name)] or list(vars(report))
    for name in names:
        setattr(report, name, _hidden(getattr(report, name)))


def _hidden(thing: Any) -> Any:
    """The same with other texts; objects are changed, and keep their paths."""
    if isinstance(thing, str):
        return redacted_file(thing)
    if type(thing) in (list, tuple):
        return type(thing)(map(_hidden, thing))
    if type(thing).__module__.startswith("_pytest."):
        for name, value in list(vars(thing).items()):
            if name not in _PATHS:
                setattr(thing, name, _hidden(value))
    return thing
