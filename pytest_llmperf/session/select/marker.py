"""The part of a plan that a marker asks for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.load.checks import MOST_RUNS
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.server.axes import single_config
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.duet import Duet
from pytest_llmperf.session.options import checked_margins

_MARKER_KEYS = ("plan", "servers", "loads", "runs", "margins", "duet")


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a plan that one test function asks for."""

    servers: tuple[ServerConfig | Duet, ...]
    loads: tuple[LoadPoint, ...]


def check_marker(args: Sequence[object], kwargs: Mapping[str, Any], test_file: Path) -> None:
    """PlanError says what is wrong with the arguments of the marker, as far as no plan is needed for it."""
    where = f"{test_file}: the llmperf marker"
    check_keywords(where, args, kwargs, _MARKER_KEYS, "llmperf(plan='plan.yaml')")
    runs = kwargs.get("runs")
    if runs is not None and (not isinstance(runs, int) or isinstance(runs, bool) or not 1 <= runs <= MOST_RUNS):
        raise PlanError(f"{where}'s runs is a whole number from 1 to {MOST_RUNS:,}, given {runs!r}")
    for key in ("servers", "loads"):
        if not _is_list_of_names(given := kwargs.get(key)):
            raise PlanError(f"{where}'s {key} is a list of at least one name, given {given!r:.80}")
    checked_margins(kwargs.get("margins", {}), f"{where}'s margins")


def _is_list_of_names(given: object) -> bool:
    """True of None too, which leaves nothing out."""
    if isinstance(given, str) or not isinstance(given, Collection):
        return given is None
    return len(given) > 0 and all(isinstance(name, str) for name in given)


def check_keywords(
    where: str, args: Sequence[object], kwargs: Mapping[str, Any], keys: Collection[str], example: str
) -> None:
    """PlanError unless a marker that names a plan has these keywords only. `where` begins the message."""
    if args:
        raise PlanError(f"{where} takes keywords only, as in {example}")
    for name in kwargs:
        if name not in keys:
            raise PlanError(f"{where} has no {name!r}{did_you_mean(name, list(keys))}")
    if not isinstance(kwargs.get("plan"), str):
        raise PlanError(f"{where} needs plan='….yaml', given {kwargs.get('plan')!r}")


def selected(plan: Plan, kwargs: Mapping[str, Any], test_file: Path) -> Selection:
    """The servers and loads that a checked marker selects. Raises PlanError, which names those that the plan does
    not have.
    """
    servers = _chosen_servers(plan, kwargs, test_file)
    load_names = _checked_names(list(plan.loads), kwargs.get("loads"), "load", test_file)
    return Selection(servers, tuple(point for point in plan.load_points() if point.load in load_names))


def _chosen_servers(plan: Plan, kwargs: Mapping[str, Any], test_file: Path) -> tuple[ServerConfig | Duet, ...]:
    """The marker's `servers`, or its `duet` as the one thing to measure on."""
    spaces = plan.server_spaces()
    names = _duet_names(kwargs, test_file) if "duet" in kwargs else kwargs.get("servers")
    chosen = _checked_names(plan.server_names(), names, "server", test_file)
    if "duet" not in kwargs:
        every = ((entry, config) for entry, space in spaces.items() for config in space.configs)
        return tuple(config for entry, config in every if {entry, config.name} & {*chosen})
    try:
        return (Duet(*(single_config(spaces, name) for name in chosen)),)
    except ValueError as error:
        raise PlanError(f"{test_file}: the llmperf marker's duet: {error}") from error


def _duet_names(kwargs: Mapping[str, Any], test_file: Path) -> list[str]:
    """The old server's name, then the new one's."""
    given = kwargs["duet"]
    named = isinstance(given, Mapping) and set(given) == {"a", "b"} and all(isinstance(n, str) for n in given.values())
    if not named:
        problem = f"needs the old server and the new one, as in {{'a': 'old', 'b': 'new'}}, given {given!r}"
    elif kwargs.get("servers") is not None:
        problem = "names its servers itself; leave out servers=, or write a test of its own for the duet"
    elif given["a"] == given["b"]:
        problem = f"needs two servers, given {given['a']!r} for both"
    else:
        return [given["a"], given["b"]]
    raise PlanError(f"{test_file}: the llmperf marker's duet {problem}")


def _checked_names(known: list[str], chosen: Collection[str] | None, what: str, test_file: Path) -> list[str]:
    for name in chosen or ():
        if name not in known:
            raise PlanError(f"{test_file}: the plan has no {what} {name!r}{did_you_mean(name, known)}")
    return known if chosen is None else list(chosen)
