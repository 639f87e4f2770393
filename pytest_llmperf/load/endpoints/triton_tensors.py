"""Requests as tensors, for Triton's `infer` and gRPC: the inputs of a model, and what of a request goes into each.

A request is written once, in the words of the generate extension (`text_input`, `parameters`); here it becomes inputs
where the model has such, and request parameters where it has not, as Triton itself does for `generate`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_llmperf.errors import PlanError

_PROMPTS = ("text_input", "prompt", "PROMPT", "TEXT", "INPUT", "QUERY")
_NAMES = {
    "max_tokens": ("MAX_TOKENS", "request_output_len"),
    "min_tokens": ("min_length",),
    "stream": ("STREAM", "streaming"),
    "seed": ("random_seed",),
    "exclude_input_in_output": ("sampling_param_exclude_input_from_output",),
}
"""Names of our parameters in models, beside the same with `sampling_param_`."""
_SAMPLING = "sampling_parameters"
_COUNTS = ("return_num_input_tokens", "return_num_output_tokens")
_NO_SAMPLING = ("stream", "exclude_input_in_output", *_COUNTS)


class TensorSpec(NamedTuple):
    """An input of a model; `shape` is that of one request, its batch dimension included, open dimensions as 1."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


class Tensor(NamedTuple):
    """An input with its values, flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: tuple[Any, ...]


class Inputs(NamedTuple):
    tensors: tuple[Tensor, ...]
    parameters: dict[str, Any]
    """Parameters that the model has no input for."""


def input_specs(config: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """The inputs in a model's configuration, as Triton returns it in JSON (numbers may be texts there)."""
    batch = (1,) if int(config.get("max_batch_size", 0)) > 0 else ()
    return tuple(
        TensorSpec(
            given["name"],
            _datatype(given["data_type"]),
            (*batch, *(max(1, int(size)) for size in given.get("dims", ()))),
            bool(given.get("optional")),
        )
        for given in config.get("input", ())
    )


def _datatype(name: str) -> str:
    bare = name.removeprefix("TYPE_")
    return "BYTES" if bare == "STRING" else bare


def for_model(specs: Sequence[TensorSpec], body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with parameters by the names of the model's inputs; a later one of the same input wins.

    Token counts are asked for where the model has inputs for that: a chunk is not always one token.
    """
    names = {spec.name for spec in specs}
    asked = {name: True for name in _COUNTS if name in names}
    return {
        **body,
        "parameters": asked | {_input_name(name, names): value for name, value in body["parameters"].items()},
    }


def fill(specs: Sequence[TensorSpec], body: Mapping[str, Any]) -> Inputs:
    """The inputs for a request in the words of `generate`. Numbers that a model needs and nobody gives are zeros.

    Raises PlanError where the model has no input for the prompt, or the values don't fit.
    """
    body = for_model(specs, body)
    given = {"text_input": body["text_input"], **body["parameters"]}
    given |= {name: value for name, value in body.items() if name not in ("text_input", "parameters")}
    names = {spec.name for spec in specs}
    if _SAMPLING in names and "max_tokens" not in names and _SAMPLING not in given:
        given = _with_sampling(given)
    values = {_input_name(name, names): value for name, value in given.items()}
    if not any(name in names for name in _PROMPTS) and any(spec.datatype == "BYTES" for spec in specs):
        known = ", ".join(sorted(names))
        raise PlanError(f"the model has no input for the prompt ({', '.join(_PROMPTS)}); its inputs: {known}")
    wanted = [spec for spec in specs if spec.name in values or not spec.optional]
    tensors = tuple(_tensor(spec, values.get(spec.name)) for spec in wanted)
    return Inputs(tensors, {name: value for name, value in values.items() if name not in (*names, "text_input")})


def _with_sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's backend takes all of sampling in one JSON text."""
    apart = {name: value for name, value in given.items() if name in ("text_input", *_NO_SAMPLING)}
    sampling = {name: value for name, value in given.items() if name not in apart}
    return {**apart, _SAMPLING: json.dumps(sampling)}


def _input_name(name: str, names: set[str]) -> str:
    others = _PROMPTS if name == "text_input" else (*_NAMES.get(name, ()), f"sampling_param_{name}")
    return next((candidate for candidate in (name, *others) if candidate in names), name)


def _tensor(spec: TensorSpec, value: Any) -> Tensor:
    """A single value stands in every place of the tensor; of a list there are as many as places."""
    places = math.prod(spec.shape)
    if value is None:
        value = "" if spec.datatype == "BYTES" else False if spec.datatype == "BOOL" else 0
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * places
    if len(values) != places:
        raise PlanError(f"input {spec.name} of shape {list(spec.shape)} takes {places} values, given {len(values)}")
    return Tensor(spec.name, spec.datatype, spec.shape, values)


def infer_body(specs: Sequence[TensorSpec], body: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of `infer`."""
    inputs, parameters = fill(specs, body)
    tensors = [
        {"name": name, "datatype": datatype, "shape": list(shape), "data": list(values)}
        for name, datatype, shape, values in inputs
    ]
    return {"inputs": tensors, **({"parameters": parameters} if parameters else {})}
