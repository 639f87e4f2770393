"""The servers and loads of the collected tests: gathered while pytest collects, then frozen into the session's
program.
"""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.plan.load.point import LoadPoint, parse_margins
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers.duet import Duet
from pytest_llmperf.session.options import Options
from pytest_llmperf.session.select.marker import Selection, check_keywords, check_marker, selected
from pytest_llmperf.telemetry.replicas import on_this_machine

_SEARCH_KEYS = ("plan", "search")


class Collection:
    """Gathers what markers select; a mistake in a plan or marker is kept, so that all are reported at once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._plans: dict[Path, Plan] = {}
        self._tests: dict[str, PlannedTest] = {}
        self._bare: set[ServerConfig | Duet] = set()
        self._searches: set[str] = set()
        self._complete = True
        self.errors: list[str] = []

    def plan(self, path: Path) -> Plan:
        """Returns the plan, read once. PlanError says what is wrong with it."""
        path = path.resolve()
        if path not in self._plans:
            self._plans[path] = on_this_machine(load_plan(path))
        return self._plans[path]

    def origin(self, server: ServerConfig) -> tuple[Path, str]:
        """Returns the plan that has this configuration, and its entry there."""
        return next(
            (path, entry)
            for path, plan in self._plans.items()
            for entry, space in plan.server_spaces().items()
            if server in space.configs
        )

    def select(self, args: Sequence[object], kwargs: Mapping[str, Any], test_file: Path) -> Selection:
        """Returns what an llmperf marker selects; nothing when it or its plan is wrong, which `errors` then says."""
        try:
            check_marker(args, kwargs, test_file)
            return selected(self.plan(test_file.parent / kwargs["plan"]), kwargs, test_file)
        except PlanError as error:
            self._failed(error)
            return Selection((), ())

    def searches(self, args: Sequence[object], kwargs: Mapping[str, Any], test_file: Path) -> Names[str]:
        """Returns the searches that an llmperf_search marker names; none when it or its plan is wrong."""
        where = f"{test_file}: the llmperf_search marker"
        try:
            check_keywords(where, args, kwargs, _SEARCH_KEYS, "llmperf_search(plan='plan.yaml', search='best')")
            return _searches(list(self.plan(test_file.parent / kwargs["plan"]).searches), kwargs, where)
        except PlanError as error:
            self._failed(error)
            return []

    def _failed(self, error: PlanError) -> None:
        if str(error) not in self.errors:
            self.errors.append(str(error))

    def add(
        self,
        test: str,
        server: ServerConfig | Duet,
        point: LoadPoint,
        marker: Mapping[str, Any],
        gates: frozenset[str],
        *,
        conditional: bool,
    ) -> None:
        """Adds a test that measures `point` on `server`; `marker` are the keywords of its llmperf marker."""
        planned = resolved(test, server, point, marker.get("runs"), self._options)
        margins = parse_margins(marker.get("margins") or {})
        self._tests[test] = replace(planned, gates=gates, margins=margins, conditional=conditional)

    def add_server(self, server: ServerConfig | Duet) -> None:
        """Adds a server that a test asks for, but not to measure a point."""
        self._bare.add(server)

    def add_search(self, test: str) -> None:
        """Adds a test that searches a configuration."""
        self._searches.add(test)

    def narrowed(self) -> None:
        """Notes that tests were deselected, so that a baseline without a test may still have one."""
        self._complete = False

    def finish(self) -> Program:
        """Returns everything that was added, to be changed no more."""
        return Program(dict(self._tests), frozenset(self._bare), self._complete, frozenset(self._searches))


def resolved(
    test: str, server: ServerConfig | Duet, point: LoadPoint, marker_runs: int | None, options: Options
) -> PlannedTest:
    """Returns a test that is judged by nothing; options win over the marker, and the marker over the plan."""
    return PlannedTest(
        test=test,
        point_id=f"{server.name}-{point.name}",
        function=test.partition("[")[0],
        server=server,
        point=point,
        runs=options.runs_of(point, marker_runs),
        workers=options.workers_of(point),
        relaunch=options.relaunch_of(point),
    )


def _searches(known: list[str], kwargs: Mapping[str, Any], where: str) -> list[str]:
    asked = kwargs.get("search")
    if asked is not None and asked not in known:
        raise PlanError(f"{where}: the plan has no search {asked!r}{did_you_mean(str(asked), known)}")
    if not known:
        raise PlanError(f"{where}: {kwargs['plan']} has no `searches:`")
    return known if asked is None else [asked]
