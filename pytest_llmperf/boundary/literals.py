"""Secrets in plain text, in plans and on command lines: refused, since a plan is committed, and never shown. Pure.

References such as `${API_KEY}` are filled in at the last moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_NAME = re.compile(
    r"(?i)(token$|secret|passw|(api|access|private|subscription|signing)[-_]?key|authorization|cookie|credential)"
    r"|^(bearer|basic)$"
)
_NO_SECRET = re.compile(r"(?i)(^|[-_])(eos|bos|pad|unk|sep|cls|mask|stop|bad|special|image|begin|start|end)[-_]?token$")
"""Tokens of a model."""
_PARAMETER = re.compile(r"(?i)^(key|sig|signature|auth|code|pw|pass|pwd|sid|session)$")
"""Parameters of a URL that are secrets too, by names that mean other things elsewhere."""
_VALUE = re.compile(r"(?i)^(?:bearer|basic)\s+(?P<token>[^$\s]\S*)|://[^/@\s]*:(?!\$\{\w+\}@)(?P<password>[^/@\s]+)@")
_REFERENCES = re.compile(r"(\$\{\w+\}[: ]?)+|(Bearer|Basic) \$\{\w+\}")
_SECRET_VARIABLE = re.compile(r"(?i)\$\{(\w+_)?(key|token|secret|password|passwd|credentials?)(_\w+)?\}")
_MOST = 100_000
"""Mappings and lists that are looked at."""


def is_secret(name: str) -> bool:
    """True if a value of this name is a secret, never to be stored or shown."""
    return bool(_NAME.search(name)) and not _NO_SECRET.search(name)


def refuse_secret(name: str, value: object) -> None:
    """ValueError where the value, or a text in it, is a secret in plain text."""
    for where, _ in _literals(name, value, set()):
        raise ValueError(f"{where} holds a secret in plain text; write '${{NAME}}' and set NAME in the environment")


def refuse_in_command(name: str, value: str) -> None:
    """ValueError where a word of a command is a secret, though filled in: everybody on its machine can list them."""
    if "${" in value and (is_secret(name) or _SECRET_VARIABLE.search(value)):
        raise ValueError(
            f"{name} would stand in a command line, which everybody on its machine can read; hand it over in `env`"
        )


def literal_secrets(given: object) -> Iterator[str]:
    """The secrets in plain text that a plan's data, or options by their names, hold: what no message may show."""
    for _, secret in _literals("", given, set()):
        yield secret


def _literals(name: str, value: object, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Each with the name that it goes by; what is there several times (YAML's aliases) is looked at once."""
    if isinstance(value, str):
        yield from _in_text(name, value)
    elif isinstance(value, Mapping | list | tuple) and id(value) not in seen and len(seen) < _MOST:
        seen.add(id(value))
        entries = value.items() if isinstance(value, Mapping) else ((name, inner) for inner in value)
        for key, inner in entries:
            yield from _literals(str(key), inner, seen)


def _in_text(name: str, text: str) -> Iterator[tuple[str, str]]:
    if is_secret(name) and text and not _REFERENCES.fullmatch(text):
        yield name, text
        yield from ((name, word) for word in text.split()[1:])  # what follows Bearer
    if found := _VALUE.search(text):
        yield name, found["token"] or found["password"]
    if "://" in text or text.startswith("/"):
        yield from ((key, value) for key, value in _parameters(text) if _is_parameter_secret(key, value))
        yield from ((name, secret) for secret in _userinfo(text))


def _userinfo(url: str) -> Iterator[str]:
    found = re.search(r"https?://([^/?#\s]*)@", url)
    if found and not _REFERENCES.fullmatch(found[1]):
        yield from filter(None, (found[1], found[1].partition(":")[2]))


def _parameters(url: str) -> list[tuple[str, str]]:
    """Names and values in its query."""
    query = url.partition("?")[2].partition("#")[0]
    return [(name, value) for name, _, value in (part.partition("=") for part in query.split("&"))]


def _is_parameter_secret(name: str, value: str) -> bool:
    return bool(value) and (is_secret(name) or bool(_PARAMETER.search(name))) and not _REFERENCES.fullmatch(value)
