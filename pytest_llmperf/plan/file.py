"""Reads a plan file: YAML to Plan, with every mistake at its file and line.

Pydantic says what is wrong with a value; the YAML node tree says where it stands. Nothing is executed from a plan
(safe loader), and a key written twice is a mistake here though YAML would let the last one win.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pytest_llmperf.boundary.files import read_text
from pytest_llmperf.boundary.literals import in_plain_text, is_secret, plain_secrets, secrets_of_values
from pytest_llmperf.boundary.secrets import remember
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.fields import EntryError
from pytest_llmperf.plan.load.answers import AnswerSpec, GuardSpec, JudgeSpec
from pytest_llmperf.plan.load.capacity import CapacitySpec
from pytest_llmperf.plan.load.point import Stability
from pytest_llmperf.plan.load.prompts import Conversation, Lengths, PromptFile, SharedPrefix
from pytest_llmperf.plan.load.shapes import Cancel, Ramp, Stage, TraceReplay
from pytest_llmperf.plan.load.spec import IntSweep, LoadSpec
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.search import SearchSpec
from pytest_llmperf.plan.server.base import counted_from
from pytest_llmperf.plan.server.table import ENGINE_MODELS


def _mappings(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Key and model of every mapping inside a model, at any depth."""
    for key, field in model.model_fields.items():
        for part in _models_in(field.annotation):
            yield field.alias or key, part
            yield from _mappings(part)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


_SERVER_PARTS = dict(part for model in ENGINE_MODELS.values() for part in _mappings(model))
"""The model of a mapping inside a server's entry, by its key."""
# The model of a mapping inside a load, by its key or the tag of its union; any other mapping is a sweep.
_LOAD_PARTS: dict[str, type[BaseModel]] = {
    "answers": AnswerSpec,
    "judge": JudgeSpec,
    "guard": GuardSpec,
    "capacity": CapacitySpec,
    "lengths of": Lengths,
    "prompts": PromptFile,
    "shared_prefix": SharedPrefix,
    "conversation": Conversation,
    "stability": Stability,
    "ramp": Ramp,
    "stages": Stage,
    "trace": TraceReplay,
    "cancel": Cancel,
    "combinations": LoadSpec,
}
_MOST_BYTES = 16 << 20
_MOST_VALUES = 200_000
# Pydantic's words for these are Python's; a plan is YAML.
_NEEDED = {
    "dict_type": "a mapping is needed",
    "model_type": "a mapping is needed",
    "model_attributes_type": "a mapping is needed",
    "string_type": "a text is needed (quote it)",
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "tuple_type": "a list is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "too_short": "at least one is needed",
}

_SHOWN = 200
"""Characters of a value, or of another library's words, in a message."""


def load_plan(path: Path) -> Plan:
    """The plan in `path`; PlanError lists every mistake as `file:line: where: what was given, what is allowed`."""
    try:
        text = read_text(path, _MOST_BYTES)
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: the plan is not UTF-8, as which it must be saved: {error}") from error
    except OSError as error:
        raise PlanError(f"{path}: cannot read the plan: {error}") from error
    plan, folder = parse_plan(text, str(path), path.parent), path.parent
    # Paths that start with ./ or ../ count from the plan's folder, wherever pytest was started.
    servers = {name: space.each(lambda server: server.located(folder)) for name, space in plan.servers.items()}
    return plan.model_copy(update={"model": counted_from(folder, plan.model), "servers": servers})


def place(path: Path, *choices: Sequence[str]) -> str:
    """Returns `file:line: keys` of the value that a plan has under the first of these chains of keys.

    Where it has none of them, of the deepest key of the first. The plan is one that was loaded.
    """
    root = yaml.compose(read_text(path, _MOST_BYTES), Loader=yaml.SafeLoader)
    assert root is not None, "a plan that was loaded is not empty"
    found = [(keys, located(root, tuple(keys))) for keys in choices]
    keys, line = next((there for asked, there in found if len(there[0]) == len(asked)), found[0][1])
    return f"{path}:{line}: {'.'.join(keys)}"


@contextlib.contextmanager
def nothing_unexpected(source: str) -> Iterator[None]:
    """Turns any error of YAML or of the checks into a PlanError: it is a mistake in the file too, and never a
    traceback.
    """
    try:
        yield
    except PlanError:
        raise
    except RecursionError:
        problem = "it is nested more deeply than a file can be, or contains itself (an alias `*x` below its own `&x`)"
    except Exception as error:
        problem = f"it cannot be read ({type(error).__name__}: {str(error)[:_SHOWN]})"
    else:
        return
    raise PlanError(foreign(f"{source}: {problem}"))


def parse_plan(text: str, source: str, folder: Path | None = None) -> Plan:
    """The plan in a YAML text; `source` is what error messages call it, its files are looked for in `folder`."""
    with nothing_unexpected(source):
        return _parsed(text, source, folder)


def _parsed(text: str, source: str, folder: Path | None) -> Plan:
    root, data = read_yaml(text, source)
    if root is None or not isinstance(data, dict):
        given = "an empty file" if data is None else repr(data)
        raise PlanError(f"{source}:1: a plan is a mapping with model, servers and loads, not {given}")
    try:
        plan = Plan.model_validate(data, context=None if folder is None else {"folder": folder})
    except ValidationError as error:
        mistakes = "\n".join(_describe(problem, root, source) for problem in error.errors())
        raise PlanError(foreign(mistakes)) from None
    _refuse_secrets(data, root, source)
    return plan


def _refuse_secrets(data: Any, root: yaml.Node, source: str) -> None:
    """Raises PlanError for a secret in plain text anywhere, in a key too that nobody thought of.

    A chart's values name the Secrets of a cluster by words that look like them; the server's model checks these.
    """
    for path, _ in plain_secrets(data):
        if not _is_of_chart(path):
            keys, line = located(root, path)
            raise PlanError(f"{source}:{line}: {'.'.join(keys)}: {in_plain_text(path[-1])}")


def _is_of_chart(path: tuple[str, ...]) -> bool:
    return path[:1] == ("servers",) and path[2:3] == ("values",)


def _secrets(data: Any) -> Iterator[str]:
    """Yields what no message may show, which names of a cluster's Secrets and of their entries are not."""
    yield from (secret for path, secret in plain_secrets(data) if not _is_of_chart(path))
    servers = data.get("servers") if isinstance(data, dict) else None
    for server in servers.values() if isinstance(servers, dict) else ():
        if isinstance(server, dict):
            yield from (secret for _, secret in secrets_of_values(server.get("values")))


def read_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """Returns the nodes and the data of a YAML text, None where it is empty; its secrets are never shown from then on.

    PlanError names `source` and the line of what is no YAML, is given twice, or is more than memory holds.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(root, source)
        data = yaml.safe_load(text)
        remember(*_secrets(data))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PlanError(f"{source}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise PlanError(f"{source}:{line}: not valid YAML: {error.reason}, given {text[error.position]!r}") from error
    if root and (doubles := list(_double_keys(root, set()))):
        raise PlanError("\n".join(f"{source}:{line}: {key!r} is given twice" for key, line in doubles))
    return root, data


def _check_size(root: yaml.Node | None, source: str) -> None:
    """Aliases of lists of aliases multiply: a few lines may stand for more values than any memory holds."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            raise PlanError(f"{source}:{node.start_mark.line + 1}: an anchor stands within itself, by an alias")
        if known:
            return known
        sizes[id(node)] = None
        parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
        pairs = (part if isinstance(part, tuple) else (part,) for part in parts)
        sizes[id(node)] = found = 1 + sum(size(one) for pair in pairs for one in pair)
        if found > _MOST_VALUES:
            line = node.start_mark.line + 1
            raise PlanError(f"{source}:{line}: aliases make more than {_MOST_VALUES:,} values of this: write fewer")
        return found

    if root is not None:
        size(root)


def _double_keys(node: yaml.Node, visited: set[int]) -> Iterator[tuple[str, int]]:
    """Every key that its mapping already has, with its line; a node that is an alias too is visited once."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _double_keys(item, visited)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.value, key.start_mark.line + 1
            seen.add(key.value)
            yield from _double_keys(value, visited)


def _describe(problem: Any, root: yaml.Node, source: str) -> str:
    error, loc = problem.get("ctx", {}).get("error"), problem["loc"]
    if loc[:1] == ("servers",):
        loc = (*loc[:2], *loc[3:])  # pydantic puts the engine behind a server's name, and it may be a key's name too
    keys, line = located(root, (*loc, *(error.keys if isinstance(error, EntryError) else ())))
    where = ".".join(keys)
    return f"{source}:{line}: {where + ': ' if where else ''}{message(problem, any(map(is_secret, keys)), _keys_at)}"


def located(root: yaml.Node, loc: tuple[int | str, ...]) -> tuple[list[str], int]:
    """The path of YAML keys in `loc` and the line of the deepest; other tags that pydantic added are passed."""
    keys: list[str] = []
    node, line = root, root.start_mark.line + 1
    for part in loc:
        entry = _child(node, part)
        if entry is not None:
            node, line = entry
            keys.append(str(part))
    return keys, line


def _child(node: yaml.Node, part: int | str) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        # `<<: *a` has one mapping to take keys from, `<<: [*a, *b]` several.
        bases = [
            base for value in merged for base in (value.value if isinstance(value, yaml.SequenceNode) else [value])
        ]
        return next((found for base in bases if (found := _child(base, part))), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def message(problem: Any, hide: bool, keys_at: Callable[[tuple[int | str, ...]], list[str]]) -> str:
    """Says what is wrong by one of pydantic's errors, and what is allowed; `hide` leaves out what was given."""
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        name = str(problem["loc"][-1])
        return f"unknown key {name!r}{did_you_mean(name, keys_at(problem['loc'][:-1]))}"
    if kind == "missing":
        return f"{problem['loc'][-1]!r} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        engine = given.get("engine") if isinstance(given, dict) else given
        return (
            f"engine {engine!r} is not known; allowed: {', '.join(sorted(ENGINE_MODELS))}"
            if engine
            else "'engine' is missing"
        )
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    needed = _NEEDED.get(kind) or problem["msg"].replace("Input should be", "must be")
    return needed if hide else f"{needed}, given {given!r}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at this place of a plan."""
    if not loc:
        return list(Plan.model_fields)
    if loc[0] == "servers":
        model = _part(_SERVER_PARTS, loc[3:], ENGINE_MODELS[str(loc[2])])  # [2] is the union's tag
    elif loc[0] == "searches":
        model = SearchSpec
    elif len(loc) > 2:
        model = _part(_LOAD_PARTS, loc[2:], IntSweep)
    else:
        model = LoadSpec
    return [field.alias or name for name, field in model.model_fields.items() if name != "name"]


def _part(parts: dict[str, type[BaseModel]], loc: tuple[int | str, ...], otherwise: type[BaseModel]) -> type[BaseModel]:
    """`stages` has an index behind its key, a model's name follows `models`, a union of lengths its tag."""
    return next((parts[str(key)] for key in reversed(loc) if str(key) in parts), otherwise)
