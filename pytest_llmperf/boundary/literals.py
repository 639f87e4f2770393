"""Secrets in plain text, in plans and on command lines: refused, since a plan is committed, and never shown. Pure.

References such as `${API_KEY}` are filled in at the last moment.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NAME = re.compile(
    r"(?i)(token$|secret|passw|(api|access|private|subscription|signing)[-_]?key|authorization|cookie|credential)"
    r"|^-*(bearer|basic)$"
)
_NO_SECRET = re.compile(
    r"(?i)(^|[-_])(eos|bos|pad|unk|sep|cls|mask|stop|bad|special|image|video|audio|think|begin|start|end|first|new|per|max)"
    r"[-_]?token$|[-_](file|path|dir|env|budget)$|application[-_]credentials$"
)
"""Tokens of a model, and names of what says where a secret is."""
_SWITCH = re.compile(r"(?i)true|false|yes|no|on|off|none|null|[01]?|(?:bearer +)?(?-i:EMPTY)")
"""Values that decide about a secret and are none; EMPTY is what servers without a key are given in its place."""
_OF_MODEL = re.compile(r"(?i)(?!.*(?:secret|pass|auth|access|api|bearer|basic|key|cookie|cred|hf))[\w-]+token")
"""Names of tokens that may be a model's."""
_WORDS = "|".join(rf"{letter}{{1,16}}(?:_{letter}{{1,16}}){{0,4}}" for letter in ("[a-z]", "[A-Z]"))
_VOCABULARY = re.compile(rf"<[|/]?(?:{_WORDS})(?:_?\d{{1,4}})?\|?>|\[/?(?:{_WORDS})\]")
"""A model's own tokens, as `</think>`, `<|im_end|>` and `[INST]`: words of one case, without the digits of a key."""
_PARAMETER = re.compile(r"(?i)^(key|sig|signature|auth|code|pw|pass|pwd|sid|session)$")
"""Parameters of a URL that are secrets too, by names that mean other things elsewhere."""
_VALUE = re.compile(
    r"(?i)^(?:bearer|basic)\s+(?P<token>[^$\s]\S*)\s*$|://[^/@\s:]*:(?!\$\{\w+\}@)(?P<password>[^/@\s]+)@"
    r"|\b(?-i:(?P<known>sk-(?=[\w-]{0,48}?[A-Za-z0-9]{16})[\w-]+|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|nvapi-[\w-]{20,}|AKIA[A-Z0-9]{16}))"
)
"""Secrets by their own looks, among them the keys of OpenAI, Hugging Face, GitHub, NVIDIA and AWS."""
_NAMED = (
    re.compile(
        r"(?<![^\s'\"(;&|])(?P<name>--?[\w-]+(?= )|[\w-]+(?==))(?: +|=)(?=['\"]?(?P<value>[^\s'\"$<({\[\\-][^\s'\"]*))"
    ),
    re.compile(r'"(?P<name>[\w-]+)"\s*:\s*"(?P<value>[^"$][^"]*)"'),
    re.compile(r"(?i)^(?P<name>authorization|cookie|\w+-[\w-]+): *(?:Bearer +|Basic +)?(?P<value>[^\s$]\S*)$"),
)
"""A name and its value within a text: a flag or a variable of a shell's line, an entry of JSON, a header."""
_ASSIGNED = re.compile(r"(?P<name>[\w,.-]+)=(?P<value>\$\{\w+\}\S*|[^\s$'\"]\S*).*", re.DOTALL)
"""A word of a list that is a name and a value, but for a value that a shell fills in."""
_REFERENCES = re.compile(r"(\$\{\w+\}[: ]?)+|(Bearer|Basic) \$\{\w+\}")
_SECRET_VARIABLE = re.compile(
    r"(?i)\$\{(\w+_)?(key|token|secret|password|passwd|credentials?)(?!_(?:file|path|dir|budget)\})(_\w+)?\}"
)
_MOST = 100_000
"""Mappings and lists that are looked at."""
_MOST_NAMES = 4
"""Names before one value that are looked at, as the two of `--env=HF_TOKEN=…`."""
_NAMES_OF_OBJECTS = re.compile(r"(?i)^existing|(name|names|ref|refs)$")
"""Keys of a chart that name a Secret of the cluster, which is none itself."""
_HELD_BY_A_SECRET = frozenset({"key", "id", "value"})
"""Keys that are secret where one around them says so, as in `secret: {s3: {key: …}}`."""
_ENTRY_NAMES = {"key": {"name", "secretname"}, "secretkey": {"secretname"}}
"""Keys that name an entry of a Secret where one of these keys has the Secret's name, as in `{name: hf, key: token}`."""


def is_secret(name: str) -> bool:
    """True if a value of this name is a secret, never to be stored or shown."""
    return bool(_NAME.search(name)) and not _NO_SECRET.search(name)


def refuse_secret(name: str, value: object) -> None:
    """Raises ValueError where the value, or a text in it, is a secret in plain text."""
    for path, _ in plain_secrets(value, name):
        raise ValueError(in_plain_text(path[-1]))


def in_plain_text(name: str) -> str:
    """The message for a secret in plain text that goes by this name."""
    return f"{name} holds a secret in plain text; write '${{NAME}}' and set NAME in the environment"


def refuse_in_command(name: str, value: object) -> None:
    """Raises ValueError where the value, or a text in it, is a secret though filled in.

    Everybody on its machine can list the words of a command, and files are kept.
    """
    for path, text in texts(value, name):
        if "${" in text and (is_secret(path[-1]) or _SECRET_VARIABLE.search(text)):
            raise ValueError(
                f"{path[-1]} would stand in a command line or a file, which others can read; hand it over in `env`, as "
                "in env: {HF_TOKEN: '${HF_TOKEN}'}"
            )


def literal_secrets(given: object) -> Iterator[str]:
    """The secrets in plain text that a plan's data, or options by their names, hold: what no message may show."""
    for _, secret in plain_secrets(given):
        yield secret


def plain_secrets(given: object, *name: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The same, each with the keys that lead to it; the last one is the name by which it is a secret."""
    for path, text in texts(given, *name):
        for found, secret in _in_text(path[-1] if path else "", text):
            yield (*path[:-1], found), secret


def secrets_of_values(values: object) -> Iterator[tuple[tuple[str, ...], str]]:
    """Secrets in plain text, each with the keys that lead to it; names of a cluster's Secrets are none."""
    for path, text in texts(_without_references(values, {})):
        *around, last = path or ("",)
        held = last.lower() in _HELD_BY_A_SECRET and any(map(is_secret, around))
        if not _NAMES_OF_OBJECTS.search(last):
            yield from ((path, secret) for _, secret in plain_secrets(text, "secret" if held else last))


def _without_references(value: Any, known: dict[int, Any]) -> Any:
    """The values without the names of entries of Secrets; `known` has parts by their ids, for YAML's aliases."""
    if not isinstance(value, Mapping | list):
        return value
    if id(value) not in known:
        if isinstance(value, list):
            known[id(value)] = [_without_references(one, known) for one in value]
        else:
            beside = {str(name).lower() for name in value}
            known[id(value)] = {
                name: _without_references(inner, known)
                for name, inner in value.items()
                if str(name).lower() != "secretkeys" and not beside & _ENTRY_NAMES.get(str(name).lower(), set())
            }
    return known[id(value)]


def texts(given: object, *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text with the keys that lead to it; what is there several times (YAML's aliases) is looked at once."""
    seen: set[int] = set()

    def walk(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen and len(seen) < _MOST:
            seen.add(id(value))
            for key, inner in _entries(value, path[-1] if path else ""):
                yield from walk(inner, (*path, key) if isinstance(value, Mapping) else (*path[:-1], key))

    return walk(given, path)


def _entries(value: Mapping[Any, Any] | Sequence[Any], name: str) -> Iterator[tuple[str, object]]:
    """Yields the parts of a value, each by its name: in a list the list's own, of a word behind a flag the flag."""
    if isinstance(value, Mapping):
        yield from ((str(key), inner) for key, inner in value.items())
        if isinstance(value.get("name"), str) and "value" in value:  # as variables are written in a cluster
            yield value["name"], value["value"]
        return
    for word, after in itertools.zip_longest(value, value[1:]):
        rest = word if isinstance(word, str) else ""
        for _ in range(_MOST_NAMES):
            if found := _ASSIGNED.fullmatch(rest):
                rest = found["value"]
                yield found["name"], rest
        if rest.startswith("-") and isinstance(after, str) and not after.startswith("-"):
            yield rest, after
        yield name, word


def _in_text(name: str, text: str) -> Iterator[tuple[str, str]]:
    if is_secret(name) and not (_is_none(name, text) or _REFERENCES.fullmatch(text)):
        yield name, text
        yield from ((name, word) for word in text.split()[1:])  # what follows Bearer
    if (found := _VALUE.search(text)) and not _SWITCH.fullmatch(text):
        yield name, found["token"] or found["password"] or found["known"]
    for one in itertools.chain.from_iterable(pattern.finditer(text) for pattern in _NAMED):
        if is_secret(one["name"]) and not _is_none(one["name"], one["value"]):
            yield one["name"], one["value"]
    if "://" in text or text.startswith("/"):
        yield from ((key, value) for key, value in _parameters(text) if _is_parameter_secret(key, value))
        yield from ((name, secret) for secret in _userinfo(text))


def _is_none(name: str, value: str) -> bool:
    """True if the value is no secret, though its name is that of one."""
    return bool(_SWITCH.fullmatch(value) or (_OF_MODEL.fullmatch(name) and _VOCABULARY.fullmatch(value)))


def _userinfo(url: str) -> Iterator[str]:
    found = re.search(r"https?://([^/?#\s]*)@", url)
    password = found and found[1].partition(":")[2]
    if found and not (_REFERENCES.fullmatch(found[1]) or (password and _REFERENCES.fullmatch(password))):
        yield from filter(None, (found[1], found[1].partition(":")[2]))


def _parameters(url: str) -> list[tuple[str, str]]:
    """Names and values in its query."""
    query = url.partition("?")[2].partition("#")[0]
    return [(name, value) for name, _, value in (part.partition("=") for part in query.split("&"))]


def _is_parameter_secret(name: str, value: str) -> bool:
    return bool(value) and (is_secret(name) or bool(_PARAMETER.search(name))) and not _REFERENCES.fullmatch(value)
