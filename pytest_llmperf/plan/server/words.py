"""Words of commands in a plan, with placeholders that are filled in when the command is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pytest_llmperf.boundary.literals import refuse_in_command, refuse_secret
from pytest_llmperf.definitions import did_you_mean

_PLACEHOLDER = re.compile(r"(?<![${])\{(\w+)\}(?!\})")
REPLICAS = "{replicas}"


def fill_in(text: str, values: Mapping[str, object]) -> str:
    """`text` with its placeholders filled in by name; other braces are left alone."""
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), text)


def known_placeholders(*allowed: str) -> Callable[[str], str]:
    """A validator of texts that hold no other placeholders than these."""

    def check(text: str) -> str:
        for name in _PLACEHOLDER.findall(text):
            if name not in allowed:
                names = ", ".join(f"{{{known}}}" for known in allowed)
                problem = f"{{{name}}} in {text!r} is not known; allowed: {names}{did_you_mean(name, allowed)}"
                raise ValueError(problem)
        return text

    return check


def _as_word(given: object) -> object:
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given


def words_without_secrets(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same words of a command. Raises ValueError where one is a secret, or is to be filled in with one."""
    refuse_secret("command", words)
    refuse_in_command("command", words)
    return words


_Word = Annotated[str, BeforeValidator(_as_word), WithJsonSchema({"type": ["string", "number"]})]
Word = Annotated[_Word, AfterValidator(known_placeholders("model", "port"))]
"""One word of a command, in which `{port}` and `{model}` are filled in."""
Words = Annotated[tuple[Word, ...], Field(min_length=1), AfterValidator(words_without_secrets)]
ProxyWord = Annotated[_Word, AfterValidator(known_placeholders("model", "port", "replicas"))]
"""The same of a proxy, in which `{replicas}` is filled in too."""
ProxyWords = Annotated[tuple[ProxyWord, ...], Field(min_length=1), AfterValidator(words_without_secrets)]
