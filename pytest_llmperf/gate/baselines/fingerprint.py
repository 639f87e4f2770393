"""The facts that make two measurements comparable: hard ones, which must agree, and soft ones, which are reported.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.load_facts import hard_facts
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.telemetry.environment import Environment

_MACHINE = ("driver", "cpu", "cpu_cores", "host", "kernel")


@dataclass(frozen=True, slots=True)
class Identity:
    """Hard facts: where one differs, nothing may be compared."""

    environment: str
    """The environment's slug, which is the name of the folder too."""
    gpus: tuple[str, ...]
    engine: str
    model: str
    """Name of the model; of a local folder its last part, for the folder may lie anywhere."""
    output_args: Mapping[str, Any]
    """The server's arguments that change outputs."""
    load_shape: Literal["closed loop", "open loop"]
    trace_hash: str
    """Hash of prompts, lengths and arrivals."""
    replicas: int = 1
    """Instances that served together; 1 in files of versions that did not store it."""
    balance: str = ""
    """The rule by which requests were spread over the replicas; empty where there was one."""
    load: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the load that change the work and are not in the hash (load_facts.HARD)."""


def identity(result: Result) -> Identity:
    """The hard facts of a result: machine, engine, model, output-changing arguments and load. Raises BaselineError
    without a run.
    """
    if result.trace_hash is None:
        raise BaselineError(f"{result.point_id} has no run, so there is nothing to compare")
    return identity_of(result.server, result.load, result.environment, result.trace_hash)


def identity_of(server: ServerConfig, load: LoadPoint, environment: Environment, trace_hash: str) -> Identity:
    """The hard facts of a point, which need not be measured yet."""
    model, replicas = server.model, getattr(server, "replicas", 1)
    return Identity(
        environment=environment.slug,
        gpus=environment.gpus,
        engine=server.engine,
        model=Path(model).name if model.startswith("/") else model,
        output_args=dict(server.output_args),
        load_shape="closed loop" if load.closed_loop else "open loop",
        trace_hash=trace_hash,
        load=hard_facts(load.as_dict()),
        replicas=replicas,
        balance=server.balance_by if replicas > 1 else "",
    )


def circumstances(environment: Environment, args: Mapping[str, Any]) -> dict[str, Any]:
    """Soft facts: what may differ, for instance because it is the change under test.

    Not the commit: nearly every session has another. `args` are the server's that do not change outputs.
    """
    software = {
        "engine_version": environment.engine_version,
        "deployment": dict(environment.deployment),
        "args": dict(args),
    }
    if environment.simulated:
        return software  # modelled step times are the same on every machine
    return {**software, **{name: getattr(environment, name) for name in _MACHINE}}


def soft_args(result: Result) -> dict[str, Any]:
    """The server's arguments that do not change outputs: a changed one is the regression to catch."""
    return {name: value for name, value in result.server.args.items() if name not in result.server.output_args}


def changes(then: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Every fact that differs: its path (`args.block-size`) and a sentence."""
    for name in dict.fromkeys((*then, *now)):
        before, after = then.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from changes(before, after, f"{within}{name}.")
        elif before != after:
            yield f"{within}{name}", f"{name} was {before!r}, is {after!r}"
