"""The plan: which server configurations, which loads, which limits. Frozen, hashable, equal by value.

pytest keys its fixtures on these objects (an equal configuration is started once) and baselines on their names.
Reading the YAML file and its errors with line numbers is plan/file.py's part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from pytest_llmperf.boundary.literals import refuse_in_command
from pytest_llmperf.definitions import ACCURACIES, did_you_mean
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.combinations import check_name
from pytest_llmperf.plan.fields import EntryError, Frozen, entry
from pytest_llmperf.plan.limits import Sla
from pytest_llmperf.plan.load.checks import MOST_RUNS, check_tokenizer
from pytest_llmperf.plan.load.criteria import has_criterion, with_limits
from pytest_llmperf.plan.load.point import GateProfile, LoadPoint, Margins, Relaunch
from pytest_llmperf.plan.load.prompts import PlanPath
from pytest_llmperf.plan.load.spec import LoadEntry
from pytest_llmperf.plan.search import SearchSpec
from pytest_llmperf.plan.server.axes import ServerSpace, single_config
from pytest_llmperf.plan.server.base import Args, ArgValue, changes_output
from pytest_llmperf.plan.server.table import ServerConfig

_MOST_POINTS = 1_000_000
"""Servers times loads: sooner than plans with more would be of use, memory would be full."""


class Plan(Frozen):
    """A whole plan file."""

    model: str
    locked: Args = {}
    """Arguments that change output, with the value that every server carries."""
    servers: dict[str, ServerSpace] = Field(min_length=1)
    """The entries as written; `server_configs` are the ones to start."""
    loads: dict[str, LoadEntry] = Field(min_length=1)
    sla: Sla = ()
    tokenizer: PlanPath | None = None
    """Folder of the model's tokenizer, for loads that name none: prompts then have exactly the length asked for."""
    margins: Margins = {}
    """Tolerated change per gated quantity, as a share; the built-in margin where none is given."""
    runs: Annotated[PositiveInt, Field(le=MOST_RUNS)] | None = None
    """First runs per point, before any that a gate in doubt adds; `--llmperf-runs` wins. Default 3."""
    gate: GateProfile | None = None
    """`strict` fails at 99 % confidence only, `report-only` never does; `--llmperf-gate` wins."""
    relaunch: Relaunch | None = None
    """The relaunch of the server before reruns: where a new launch tells more than the same one (`auto`), never,
    or for every run; `--llmperf-relaunch` wins.
    """
    searches: dict[str, SearchSpec] = {}
    """The searches that `llmperf search` and the marker llmperf_search make among a server's swept configurations."""

    @field_validator("servers", "loads", "searches")
    @classmethod
    def _names(cls, entries: dict[str, Any]) -> dict[str, Any]:
        for name in entries:
            check_name(name, name)
        return entries

    @model_validator(mode="after")
    def _locked_everywhere(self) -> Plan:
        for arg, value in self.locked.items():
            if isinstance(value, Mapping) and "sweep" in value:
                raise EntryError("a locked argument has one value on all servers", "locked", arg)
            with entry("locked", arg):
                refuse_in_command(arg, value)
        for entry_name, space in self.servers.items():
            for server in space.configs:
                if server.name:
                    raise EntryError("the name is the entry's key", "servers", entry_name, "name")
            for server in space.named(entry_name).configs:
                _check_locked(entry_name, server, self.locked)
        return self

    @model_validator(mode="after")
    def _names_of_their_own(self) -> Plan:
        taken: dict[str, str] = {}
        for name, space in self.servers.items():
            for server in space.named(name).configs:
                if server.name in taken:
                    raise EntryError(
                        f"{server.name!r} is the name of a server of {taken[server.name]!r} too", "servers", name
                    )
                taken[server.name] = name
        return self

    @model_validator(mode="after")
    def _ids_of_their_own(self) -> Plan:
        """Names may hold dashes, and a dash joins them: `a` at `b-c` would be `a-b` at `c`."""
        servers = [server.name for name, space in self.servers.items() for server in space.named(name).configs]
        loads = [(name, point.name) for name, load in self.loads.items() for point in load.points(name)]
        if (count := len(servers) * len(loads)) > _MOST_POINTS:
            sizes = f"{len(servers)} servers x {len(loads)} loads"
            raise EntryError(f"{sizes} = {count} points; at most {_MOST_POINTS} are allowed", "loads")
        taken: dict[str, str] = {}
        for server, (entry_name, load) in itertools.product(servers, loads):
            if (point := f"{server}-{load}") in taken:
                problem = f"the point of {server!r} would be {point} in test ids, as one of load {taken[point]!r} is"
                raise EntryError(f"{problem}; rename one", "loads", entry_name)
            taken[point] = entry_name
        return self

    @model_validator(mode="after")
    def _tokenizers_where_needed(self) -> Plan:
        for name, load in self.loads.items():
            for spec in load.specs:
                with entry("loads", name):
                    check_tokenizer(spec.tokenizer or self.tokenizer, spec)
        return self

    @model_validator(mode="after")
    def _searches_have_something_to_search(self) -> Plan:
        for name, search in self.searches.items():
            for key, problem in _search_problems(self, search):
                raise EntryError(problem, "searches", name, key)
        return self

    def server_spaces(self) -> dict[str, ServerSpace]:
        """The entries in plan order, their configurations with name, model and locked arguments filled in."""
        return {name: space.named(name).each(self._complete) for name, space in self.servers.items()}

    @model_validator(mode="after")
    def _capacities_have_limits(self) -> Plan:
        for name, load in self.loads.items():
            if not all(has_criterion(self.sla, spec) for spec in load.specs):
                raise EntryError(
                    "no limit says what a level must meet; give it one, as in sla: {ttft_p99: '<= 500 ms'}",
                    *("loads", name, "capacity"),
                )
        return self

    @model_validator(mode="after")
    def _goodput_is_defined(self) -> Plan:
        for name, load in self.loads.items():
            for spec in load.specs:
                limited = {limit.metric for limit in (*self.sla, *spec.sla)}
                if not spec.slo and limited & {"goodput", "goodput_share"}:
                    raise EntryError(
                        "a limit on goodput needs to know which requests are good: give the load an `slo`, as in "
                        "slo: {ttft: 500 ms, itl: 50 ms}",
                        *("loads", name),
                    )
        return self

    @model_validator(mode="after")
    def _accuracies_are_scored(self) -> Plan:
        for name, load in self.loads.items():
            for spec in load.specs:
                scored = spec.answers.metrics if spec.answers else ()
                limited = {limit.metric for limit in (*self.sla, *spec.sla)} & {*ACCURACIES}
                for metric in sorted(limited - {*scored}):
                    raise EntryError(
                        f"a limit on {metric} needs the load to score its answers: answers: {{scores: [exact]}} "
                        "(docs/answers.md)",
                        *("loads", name),
                    )
        return self

    def server_configs(self) -> tuple[ServerConfig, ...]:
        """Every configuration of every entry, in plan order, as in `server_spaces`."""
        return tuple(config for space in self.server_spaces().values() for config in space.configs)

    def server(self, name: str) -> ServerConfig:
        """The configuration of this name. PlanError where the plan has none, or several that the name stands for."""
        if name not in self.server_names():
            raise PlanError(f"the plan has no server {name!r}{did_you_mean(name, self.server_names())}")
        try:
            return single_config(self.server_spaces(), name)
        except ValueError as error:
            raise PlanError(str(error)) from error

    def server_names(self) -> list[str]:
        """Names that servers go by: the entries', then those of single configurations."""
        return list(dict.fromkeys((*self.servers, *(config.name for config in self.server_configs()))))

    def load(self, name: str) -> LoadPoint:
        """The load point of this name, as in `short` or, of a sweep, `short-c8`. PlanError where the plan has none."""
        points = {point.name: point for point in self.load_points()}
        if name not in points:
            raise PlanError(f"the plan has no load {name!r}{did_you_mean(name, list(points))}")
        return points[name]

    def _complete(self, server: ServerConfig) -> ServerConfig:
        args = {name: value for name, value in {**self.locked, **server.args}.items() if value is not None}
        return server.model_copy(update={"model": server.model or self.model, "args": args})

    def load_points(self) -> tuple[LoadPoint, ...]:
        """Every point of every load, in plan order, with the SLA that holds for it."""
        points = (point for name, load in self.loads.items() for point in load.points(name))
        shared = {"runs": self.runs, "margins": self.margins, "gate": self.gate, "relaunch": self.relaunch}
        return tuple(
            with_limits(self.sla, point).model_copy(update={**shared, "tokenizer": point.tokenizer or self.tokenizer})
            for point in points
        )


def _search_problems(plan: Plan, search: SearchSpec) -> Iterator[tuple[str, str]]:
    """The key that is wrong, and what is wrong with it."""
    space = plan.servers.get(search.server)
    if space is None:
        yield "server", f"the plan has no server {search.server!r}{did_you_mean(search.server, list(plan.servers))}"
    elif not space.axes:
        yield "server", f"{search.server!r} is one configuration; write `{{sweep: ...}}` at what is to be searched"
    elif not space.configs[0].is_started:
        yield "server", f"{search.server!r} is up already: a search starts its configurations itself"
    for load in search.loads:
        if load not in plan.loads:
            yield "loads", f"the plan has no load {load!r}{did_you_mean(load, list(plan.loads))}"


def _check_locked(entry_name: str, server: ServerConfig, locked: Mapping[str, ArgValue]) -> None:
    """`locked` is merged into servers that we configure; what is up or written already must say so itself."""
    problems, name = [], server.name
    for arg, value in locked.items():
        if server.known_args is not None and arg not in server.known_args:
            problem = f"the {server.engine} engine has no argument {arg!r}, which this plan locks"
            raise EntryError(problem, "servers", entry_name)
        if arg in server.unlocked:
            continue
        declared = server.args.get(arg) if arg in server.args or server.declares_args else value
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
            "`unlocked: [...]`: its results are then never compared with the others'. Whether other arguments leave "
            "the answers alone is what an output guard tells (docs/answers.md)",
            *("servers", entry_name, "args"),
        )
