"""`${NAME}` references: filled in from the environment at the last moment, hidden everywhere from then on."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from pytest_llmperf.boundary.secrets import remember
from pytest_llmperf.errors import NotThere

_REFERENCE = re.compile(r"\$\{(\w+)\}")


def expand(text: str, environ: Mapping[str, str] | None = None, written: Callable[[str], str] = str) -> str:
    """`text` with its references filled in, each `written` so; NotThere names a variable that is not set.

    The values are hidden from now on, but for the paths of this machine.
    """
    variables = os.environ if environ is None else environ

    def value(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise NotThere(f"needs the environment variable {match[1]}, which is not set")
        found = variables[match[1]]
        _hide(found)
        return written(found)

    return _REFERENCE.sub(value, text)


def unset(text: str) -> list[str]:
    """Names of the variables that `text` refers to and that are not set."""
    return [name for name in _REFERENCE.findall(text) if name not in os.environ]


def hide_references(text: str) -> None:
    """Hides from now on what the references in `text` stand for, without filling them in."""
    for name in _REFERENCE.findall(text):
        _hide(os.environ.get(name, ""))


def _hide(value: str) -> None:
    if not (os.path.isabs(value) and os.path.exists(value)):
        remember(value)


def expand_url(url: str) -> str:
    """The same of a URL or a path, with the values percent-encoded."""
    return expand(url, written=lambda value: quote(value, safe=""))


def bearer(token: object) -> tuple[tuple[str, str], ...]:
    """The header that carries `token`, its references filled in; none where there is no token."""
    return (("Authorization", f"Bearer {expand(str(token))}"),) if token else ()


def basic(credentials: str | None) -> tuple[tuple[str, str], ...]:
    """The header that carries `USER:PASSWORD`, its references filled in; none where there are no credentials.

    It is hidden from now on, as its parts are: a log may hold it.
    """
    if not credentials:
        return ()
    encoded = base64.b64encode(expand(credentials).encode()).decode()
    remember(encoded)
    return (("Authorization", f"Basic {encoded}"),)
