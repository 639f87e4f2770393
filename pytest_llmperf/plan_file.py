"""Reads a plan file: YAML to Plan, with every mistake at its file and line.

Pydantic says what is wrong with a value; the YAML node tree says where it stands. Nothing is executed from a plan
(safe loader), and a key written twice is a mistake here though YAML would let the last one win.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan import EmbeddedServer, LoadSpec, OpenAIServer, Plan, ServerConfig, VllmServer

_ENGINES: dict[str, type[BaseModel]] = {"embedded": EmbeddedServer, "openai": OpenAIServer, "vllm": VllmServer}


def load_plan(path: Path) -> Plan:
    """The plan in `path`; PlanError lists every mistake as `file:line: where: what was given, what is allowed`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot read the plan: {error}") from error
    return _located(parse_plan(text, str(path)), path.parent)


def parse_plan(text: str, source: str) -> Plan:
    """The plan in a YAML text; `source` is what error messages call it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PlanError(f"{source}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise PlanError(f"{source}: not valid YAML: {error}") from error
    if root is None or not isinstance(data, dict):
        raise PlanError(f"{source}:1: a plan is a mapping with model, servers and loads, not {type(data).__name__}")
    if doubles := list(_double_keys(root)):
        raise PlanError("\n".join(f"{source}:{line}: {key!r} is given twice" for key, line in doubles))
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise PlanError("\n".join(_describe(problem, root, source) for problem in error.errors())) from error


def _located(plan: Plan, folder: Path) -> Plan:
    """Paths that start with ./ or ../ count from the plan's folder, wherever pytest was started."""
    servers = {name: _with_paths(server, folder) for name, server in plan.servers.items()}
    return plan.model_copy(update={"model": _absolute(plan.model, folder), "servers": servers})


def _with_paths(server: ServerConfig, folder: Path) -> ServerConfig:
    update: dict[str, Any] = {"model": _absolute(server.model, folder)}
    if isinstance(server, VllmServer):
        update["executable"] = _absolute(server.executable, folder)
    return server.model_copy(update=update)


def _absolute(value: str, folder: Path) -> str:
    return str((folder / value).resolve()) if value.startswith(("./", "../")) else value


def _double_keys(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _double_keys(item)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.value, key.start_mark.line + 1
            seen.add(key.value)
            yield from _double_keys(value)


def _describe(problem: Any, root: yaml.Node, source: str) -> str:
    keys, line = _locate(root, problem["loc"])
    where = ".".join(keys)
    return f"{source}:{line}: {where + ': ' if where else ''}{_message(problem)}"


def _locate(root: yaml.Node, loc: tuple[int | str, ...]) -> tuple[list[str], int]:
    """The path of YAML keys in `loc` and the line of the deepest; parts that pydantic added (union tags) are passed."""
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
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _message(problem: Any) -> str:
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        name = str(problem["loc"][-1])
        return f"unknown key {name!r}{did_you_mean(name, _keys_at(problem['loc'][:-1]))}"
    if kind == "missing":
        return f"{problem['loc'][-1]!r} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        engine = given.get("engine") if isinstance(given, dict) else given
        return f"engine {engine!r} is not known; allowed: {', '.join(_ENGINES)}" if engine else "'engine' is missing"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    return f"{problem['msg']}, given {given!r}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at this place of a plan."""
    if not loc:
        return list(Plan.model_fields)
    model: type[BaseModel] = LoadSpec
    if loc[0] == "servers":
        model = next(_ENGINES[str(part)] for part in loc[2:] if part in _ENGINES)
    return [name for name in model.model_fields if name != "name"]


assert set(_ENGINES.values()) == set(get_args(ServerConfig)), "every engine has its name here"
