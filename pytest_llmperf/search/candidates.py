"""Turns a plan's search into the choices: the grid of a server entry's configurations, and the loads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import PlanError
from pytest_llmperf.gate.answers import GUARD
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.search import SearchSpec
from pytest_llmperf.plan.server.axes import Axis, ServerSpace
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.search.strategy.goal import Goal
from pytest_llmperf.search.strategy.space import Position, Space

REPLICAS = "replicas"


@dataclass(frozen=True, slots=True)
class Candidates:
    """The configurations and loads of a search. Values of an ordered axis are sorted, whatever order the plan writes
    them in.
    """

    name: str
    spec: SearchSpec
    server: ServerSpace
    space: Space
    orders: tuple[tuple[int, ...], ...]
    """Indices of each axis's values in the plan's order, smallest value first."""
    configs: Mapping[Position, ServerConfig]
    points: tuple[LoadPoint, ...]
    """Their SLA holds the search's constraints too."""

    @property
    def goal(self) -> Goal:
        """The objective, limits, memory limit and most runs of the search."""
        return Goal(
            aims=self.spec.aims,
            limits={point.name: point.sla for point in self.points},
            memory=self.spec.memory_limit,
            most_runs=self.spec.most_runs,
        )

    def coordinates(self, position: Position) -> tuple[int, ...]:
        """The position as the plan's places of values."""
        return tuple(order[at] for order, at in zip(self.orders, position, strict=True))

    def values(self, position: Position) -> dict[str, Any]:
        """The value of every axis at a position, by axis."""
        pairs = zip(self.server.axes, self.coordinates(position), strict=True)
        return {axis.name: axis.values[at] for axis, at in pairs}

    def measured_as(self) -> dict[str, Any]:
        """The facts beside the configuration that runs depend on; a continued search must find them unchanged."""
        return {
            "search": self.name,
            "loads": {point.name: {**point.as_dict(), "sla": [*map(str, point.sla)]} for point in self.points},
            "objective": dict(self.spec.objective),
        }


def candidates(plan: Plan, name: str, gpus: int) -> Candidates:
    """The search called `name`; `gpus` are there for replicas. PlanError when the plan has none of that name, or
    where a load has a limit that no run by itself has a value of.
    """
    if name not in plan.searches:
        known = ", ".join(plan.searches) or "none"
        hint = did_you_mean(name, list(plan.searches))
        raise PlanError(f"the plan has no search {name!r}{hint}; its searches: {known}")
    spec = plan.searches[name]
    server = plan.server_spaces()[spec.server]
    orders = tuple(_order(axis) for axis in server.axes)
    space = Space(
        tuple(len(axis.values) for axis in server.axes), tuple(is_ordered(axis.values) for axis in server.axes)
    )
    auto = not any(axis.name == REPLICAS for axis in server.axes)
    configs = {
        position: with_replicas(server.config([o[at] for o, at in zip(orders, position, strict=True)]), gpus, auto)
        for position in space.positions()
    }
    points = _points(plan, spec)
    if guarded := [point.name for point in points if any(limit.quantity == GUARD for limit in point.sla)]:
        raise PlanError(
            f"search {name!r} judges every run by itself, and {GUARD}, a limit at {', '.join(guarded)}, is one of all "
            "runs together: take it out of `sla` and `constraints`, or name other `loads`"
        )
    return Candidates(name, spec, server, space, orders, configs, points)


def with_replicas(config: ServerConfig, gpus: int, auto: bool) -> ServerConfig:
    """The configuration with as many equal instances as the GPUs allow, where the plan does not say how many."""
    if config.replicas_are_open:
        return config.on_gpus(gpus)
    if not (auto and config.is_local) or "replicas" in config.model_fields_set:
        return config
    each = config.gpu_count
    return config.model_copy(update={"replicas": gpus // each}) if each and gpus > each else config


def is_ordered(values: Sequence[Any]) -> bool:
    """True if all values are numbers, so that they have neighbours."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _order(axis: Axis) -> tuple[int, ...]:
    places = range(len(axis.values))
    if not is_ordered(axis.values):
        return tuple(places)
    return tuple(sorted(places, key=lambda place: float(str(axis.values[place]))))


def _points(plan: Plan, spec: SearchSpec) -> tuple[LoadPoint, ...]:
    """The search's loads, their SLA joined by the constraints; one of open length with its fewest requests, for all
    configurations answer the same.
    """
    names = spec.loads or tuple(plan.loads)
    own = tuple(limit for limit in spec.constraints if isinstance(limit, Limit))
    return tuple(
        point.model_copy(
            update={"length": None, "sla": (*point.sla, *(limit for limit in own if limit not in point.sla))}
        )
        for point in plan.load_points()
        if point.load in names
    )
