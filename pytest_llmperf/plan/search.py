"""The searches of a plan: over which server's swept arguments, for what, and within which limits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, WithJsonSchema, model_validator

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.plan.fields import EntryError, Frozen, Listed, entry
from pytest_llmperf.plan.limits import Limit, parse_limits

_MEMORY = re.compile(r"^\s*(<=|<)\s*(\d+\.?\d*)\s*(GB|GiB|MB|MiB)\s*$")
_BYTES = {"GB": 1e9, "GiB": 2.0**30, "MB": 1e6, "MiB": 2.0**20}
Mode = Literal["brute", "quick", "optuna"]


class MemoryLimit(Frozen):
    """The most memory that may be in use on any one GPU of a configuration while it is measured."""

    gpu_memory_gb: float
    """Memory in 1e9 bytes."""

    def __str__(self) -> str:
        return f"gpu_memory <= {self.gpu_memory_gb:g} GB"


def _memory_limit(given: object) -> MemoryLimit:
    match = _MEMORY.match(str(given))
    if match is None:
        raise ValueError(f"{given!r} is not a limit of memory, such as '<= 40 GB' (GB, GiB, MB, MiB)")
    return MemoryLimit(gpu_memory_gb=float(match[2]) * _BYTES[match[3]] / 1e9)


def _constraints(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    found: list[Limit | MemoryLimit] = []
    for name, value in given.items():
        if name == "gpu_memory":
            with entry("gpu_memory"):
                found.append(_memory_limit(value))
        else:
            found += parse_limits({name: value})
    return tuple(found)


def _objective(given: object) -> object:
    weights = {given: 1.0} if isinstance(given, str) else given
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{given!r} is neither a metric nor weights, as in {{output_token_throughput: 1}}")
    for name, weight in weights.items():
        with entry(*([] if isinstance(given, str) else [str(name)])):
            _check_aim(str(name), weight)
    return {str(parse_quantity(str(name))): float(weight) for name, weight in weights.items()}


def _check_aim(name: str, weight: object) -> None:
    quantity = parse_quantity(name)
    if quantity.better == "neither" or quantity.unit == "ratio":
        raise ValueError(f"{name} is nothing to search for; limit it in `constraints`")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ValueError(f"a weight is a number above 0, not {weight!r}")


Constraints = Annotated[
    tuple[Limit | MemoryLimit, ...],
    BeforeValidator(_constraints),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string", "examples": ["<= 500 ms"]}}),
]
Objective = Annotated[
    dict[str, float],
    BeforeValidator(_objective),
    WithJsonSchema({"type": ["string", "object"], "examples": ["output_token_throughput"]}),
]


class SearchSpec(Frozen):
    """A search for the configuration of `server` that is the best at `loads`, within their SLA and `constraints`."""

    server: str
    """An entry of `servers` that has sweeps: its axes are what is searched."""
    loads: Annotated[tuple[str, ...], Listed] = ()
    """A configuration must meet the SLA of every one; all loads of the plan when none is named."""
    objective: Objective = {"output_token_throughput": 1.0}
    """Weights by metric; whether more or less is better the metric itself says."""
    constraints: Constraints = ()
    """Limits beside those of the loads' SLA. `gpu_memory` is that of the fullest GPU."""
    mode: Mode = "quick"
    trials: PositiveInt | None = None
    """Configurations that may be measured at most; None: no limit (of optuna 40)."""
    runs: PositiveInt = 1
    """Runs of a configuration at every load before it is compared."""
    most_runs: PositiveInt = 3
    """Runs up to which two configurations are measured again while it is in doubt which one is better."""
    starts: PositiveInt = 1
    """Number of places that `quick` climbs from."""
    seed: NonNegativeInt = 0
    """Seed of optuna's sampler."""

    @model_validator(mode="after")
    def _runs_in_order(self) -> SearchSpec:
        if self.runs > self.most_runs:
            raise EntryError(f"runs: {self.runs} is more than most_runs: {self.most_runs}", "runs")
        return self

    @property
    def aims(self) -> dict[Quantity, float]:
        """The objective's metrics with their weights."""
        return {parse_quantity(name): weight for name, weight in self.objective.items()}

    @property
    def memory_limit(self) -> MemoryLimit | None:
        return next((limit for limit in self.constraints if isinstance(limit, MemoryLimit)), None)
