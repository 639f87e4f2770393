"""The plan: which server configurations, which loads, which limits. Frozen, hashable, equal by value.

pytest keys its fixtures on these objects (an equal configuration is started once) and baselines on their names.
Reading the YAML file and its errors with line numbers is plan_file.py's part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from pytest_llmperf.capacity_spec import has_criterion, with_limits
from pytest_llmperf.fields import EntryError, Frozen, entry
from pytest_llmperf.limits import Sla
from pytest_llmperf.load_spec import GateProfile, LoadPoint, LoadSpec, Margins, Relaunch, check_tokenizer
from pytest_llmperf.prompt_spec import PlanPath
from pytest_llmperf.server_spec import (
    EMBEDDED_ARGS,
    Args,
    ArgValue,
    EmbeddedServer,
    RemoteServer,
    ServerConfig,
    TritonServer,
    changes_output,
)

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+]*$")


class Plan(Frozen):
    """A whole plan file."""

    model: str
    locked: Args = {}
    """Arguments that change output, with the value that every server carries."""
    servers: dict[str, Annotated[ServerConfig, Field(discriminator="engine")]] = Field(min_length=1)
    loads: dict[str, LoadSpec] = Field(min_length=1)
    sla: Sla = ()
    tokenizer: PlanPath | None = None
    """Folder of the model's tokenizer, for loads that name none: prompts then have exactly the length asked for."""
    margins: Margins = {}
    """Tolerated change per gated quantity, as a share; the built-in margin where none is given."""
    runs: PositiveInt | None = None
    """First runs per point, before any that a gate in doubt adds; `--llmperf-runs` wins. Default 3."""
    gate: GateProfile | None = None
    """`strict` fails at 99 % confidence only, `report-only` never does; `--llmperf-gate` wins."""
    relaunch: Relaunch | None = None
    """Whether reruns are on a server launched anew: where launches differ by more than runs (`auto`), or not at all, or
    for every run; `--llmperf-relaunch` wins."""

    @field_validator("servers", "loads")
    @classmethod
    def _names(cls, entries: dict[str, Any]) -> dict[str, Any]:
        for name in entries:
            if not _NAME.match(name):
                raise EntryError(f"{name!r} cannot be part of a test id; use letters, digits, '_', '.' and '+'", name)
        return entries

    @model_validator(mode="after")
    def _locked_everywhere(self) -> Plan:
        for name, server in self.servers.items():
            if server.name:
                raise EntryError("the name is the entry's key", "servers", name, "name")
            _check_locked(name, server, self.locked)
        return self

    @model_validator(mode="after")
    def _tokenizers_where_needed(self) -> Plan:
        for name, load in self.loads.items():
            with entry("loads", name):
                check_tokenizer(load.tokenizer or self.tokenizer, load)
        return self

    @model_validator(mode="after")
    def _capacities_have_limits(self) -> Plan:
        for name, load in self.loads.items():
            if not has_criterion(self.sla, load):
                raise EntryError(
                    "no limit says what a level must meet; give it one, as in sla: {ttft_p99: '<= 500 ms'}",
                    *("loads", name, "capacity"),
                )
        return self

    def server_configs(self) -> tuple[ServerConfig, ...]:
        """The servers in plan order, with name, model and locked arguments filled in."""
        return tuple(
            server.model_copy(
                update={"name": name, "model": server.model or self.model, "args": _effective(self.locked, server)}
            )
            for name, server in self.servers.items()
        )

    def load_points(self) -> tuple[LoadPoint, ...]:
        """Every point of every load, in plan order, with the SLA that holds for it."""
        points = (point for name, load in self.loads.items() for point in load.points(name))
        shared = {"runs": self.runs, "margins": self.margins, "gate": self.gate, "relaunch": self.relaunch}
        return tuple(
            with_limits(self.sla, point).model_copy(update={**shared, "tokenizer": point.tokenizer or self.tokenizer})
            for point in points
        )


def _effective(locked: Mapping[str, ArgValue], server: ServerConfig) -> dict[str, ArgValue]:
    return {name: value for name, value in {**locked, **server.args}.items() if value is not None}


def _check_locked(name: str, server: ServerConfig, locked: Mapping[str, ArgValue]) -> None:
    """`locked` is merged into servers that we configure; what is up or written already must say so itself."""
    problems = []
    for arg, value in locked.items():
        if isinstance(server, EmbeddedServer) and arg not in EMBEDDED_ARGS:
            raise EntryError(f"the embedded engine has no argument {arg!r}, which this plan locks", "servers", name)
        if arg in server.unlocked:
            continue
        given = isinstance(server, RemoteServer) or (isinstance(server, TritonServer) and server.repository is not None)
        declared = server.args.get(arg) if arg in server.args or given else value
        if declared is None:
            problems.append(f"server {name!r} lacks the locked argument {arg}: {value}")
        elif declared != value:
            problems.append(
                f"server {name!r} changes the locked argument {arg} to {declared!r}; the plan locks {value!r}"
            )
    for arg in server.args:
        if changes_output(arg) and arg not in locked and arg not in server.unlocked:
            problems.append(f"server {name!r} sets {arg}, which changes what the model outputs")
    if problems:
        raise EntryError(
            f"{'; '.join(problems)}. Lock it for the whole plan (`locked:`), or name it in this server's "
            "`unlocked: [...]`: its results are then never compared with the others'",
            *("servers", name, "args"),
        )
