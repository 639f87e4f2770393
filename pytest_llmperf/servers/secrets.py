"""`${NAME}` references: filled in from the environment at the last moment, hidden everywhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from pytest_llmperf.errors import MissingRequirement

_REFERENCE = re.compile(r"\$\{(\w+)\}")


def expand(text: str, environ: Mapping[str, str] | None = None) -> str:
    """`text` with its references filled in; MissingRequirement names a variable that is not set."""
    variables = os.environ if environ is None else environ

    def value(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise MissingRequirement(f"needs the environment variable {match[1]}, which is not set")
        return variables[match[1]]

    return _REFERENCE.sub(value, text)


def expand_url(url: str) -> str:
    """The same of a URL or a path, with the values percent-encoded."""
    return expand(url, {name: quote(value, safe="") for name, value in os.environ.items()})


def bearer(token: object) -> tuple[tuple[str, str], ...]:
    """The header that carries `token`, its references filled in; none where there is no token."""
    return (("Authorization", f"Bearer {expand(str(token))}"),) if token else ()


def secret_values(texts: Iterable[str]) -> tuple[str, ...]:
    """The values behind all references in `texts`, longest first; short ones (< 4 characters) hide nothing."""
    names = {name for text in texts for name in _REFERENCE.findall(text)}
    values = {os.environ[name] for name in names if len(os.environ.get(name, "")) >= 4}
    values |= {quote(value, safe="") for value in values}  # as expand_url gives them
    return tuple(sorted(values, key=len, reverse=True))


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret value replaced by ***."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
