"""The JSON Schema of a plan, for editors: that of its models, and what pydantic does not see.

Sweeps and combinations are resolved before a server's or load's model is asked, so they are added here.
"""

from __future__ import annotations

from typing import Any

from pytest_llmperf.plan.plan import Plan

_SWEEP = {
    "type": "object",
    "description": "One configuration per value: '1:8' doubles, '100:500:50' steps, a list is a list",
    "properties": {
        "sweep": {
            "anyOf": [
                {"type": "string", "examples": ["1:8", "100:500:50"]},
                {"type": "array", "minItems": 1, "items": {"type": ["number", "string", "boolean", "null"]}},
            ]
        }
    },
    "required": ["sweep"],
    "additionalProperties": False,
}
_REFERENCE = {"$ref": "#/$defs/ServerSweep"}


def plan_schema() -> dict[str, Any]:
    """JSON Schema of a plan file."""
    schema = Plan.model_json_schema()
    definitions = schema["$defs"]
    engines = [_name(choice) for choice in schema["properties"]["servers"]["additionalProperties"]["oneOf"]]
    for name in _reachable(engines, definitions):
        definitions[name] = _with_sweeps(definitions[name])
    for name in engines:
        arguments = {"type": "object", "description": "Merged into `args`; name -> arguments that go together"}
        definitions[name]["properties"]["combinations"] = _named(arguments)
    definitions["ServerSweep"] = _SWEEP
    load = definitions["LoadSpec"]
    keys = {"type": "object", "properties": dict(load["properties"]), "additionalProperties": False}
    load["properties"]["combinations"] = _named(keys)
    return schema


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "minProperties": 1, "additionalProperties": entry}


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _reachable(names: list[str], definitions: dict[str, Any]) -> list[str]:
    """These definitions and those that they refer to."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += _references(definitions[name])
    return list(found)


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for part in schema for name in _references(part)]
    if not isinstance(schema, dict):
        return []
    own = [_name(schema)] if "$ref" in schema else []
    return [*own, *(name for part in schema.values() for name in _references(part))]


def _with_sweeps(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema in which every value of a mapping and every item of a list may be a sweep too."""
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {key: _or_sweep(value) for key, value in schema["properties"].items()}
    for key in ("additionalProperties", "items"):
        if isinstance(schema.get(key), dict):
            made[key] = _or_sweep(schema[key])
    if "anyOf" in schema:
        made["anyOf"] = [_with_sweeps(choice) for choice in schema["anyOf"]]
    return made


def _or_sweep(schema: dict[str, Any]) -> dict[str, Any]:
    """The engine is what the other keys depend on, so a constant stays one."""
    if "const" in schema:
        return schema
    shown: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    return {**shown, "anyOf": [_with_sweeps(schema), _REFERENCE]}
