"""The object behind the `llmperf_search` fixture, and what its marker selects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.errors import MissingRequirement, PlanError
from pytest_llmperf.search.bench import Live
from pytest_llmperf.search.candidates import Candidates, candidates
from pytest_llmperf.search.dry_run import describe
from pytest_llmperf.search.files import write_search
from pytest_llmperf.search.result import SearchResult
from pytest_llmperf.search.search import SearchRun, checkpoint_name, newest, run_search
from pytest_llmperf.selection import check_keywords
from pytest_llmperf.servers.commands import missing_requirement
from pytest_llmperf.session import Session, file_name
from pytest_llmperf.state import State
from pytest_llmperf.telemetry.gpu import Gpu

_KEYS = ("plan", "search")


def selected(state: State, args: Sequence[object], kwargs: Mapping[str, Any], test_file: Path) -> list[str]:
    """Names of the searches that a marker asks for; none when it or its plan is wrong: `plan_errors` then says it."""
    try:
        return list(_selected(state, args, kwargs, test_file))
    except PlanError as error:
        if str(error) not in state.plan_errors:
            state.plan_errors.append(str(error))
        return []


def _selected(state: State, args: Sequence[object], kwargs: Mapping[str, Any], test_file: Path) -> Iterator[str]:
    where = f"{test_file}: the llmperf_search marker"
    check_keywords(where, args, kwargs, _KEYS, "llmperf_search(plan='plan.yaml', search='best')")
    known = list(state.plan(test_file.parent / kwargs["plan"]).searches)
    asked = kwargs.get("search")
    if asked is not None and asked not in known:
        raise PlanError(f"{where}: the plan has no search {asked!r}{did_you_mean(str(asked), known)}")
    if not known:
        raise PlanError(f"{where}: {kwargs['plan']} has no `searches:`")
    yield from known if asked is None else [asked]


class Search:
    """Runs one search of a plan for one test, and keeps what it found for the reports."""

    def __init__(self, state: State, test: str, plan: Path, name: str, live: Live | None) -> None:
        self._state, self._test, self._plan, self._name, self._live = state, test, plan, name, live

    def run(self) -> SearchResult:
        """Measures configurations until the search has ended; blocks.

        MissingRequirement when this machine can run none of them, PlanError when the search cannot be continued or
        limits what cannot be told here. A configuration that fails is part of the result.
        """
        __tracebackhide__ = True
        found = self.candidates()
        if obstacles := _obstacles(found, self._state):
            raise MissingRequirement(f"{len(found.configs)} configurations, and none can run here: {obstacles[0]}")
        session = Session(self._folder)
        resume = self._state.options.resume
        how = SearchRun(
            session,
            self._state.gpus,
            self._plan,
            resume_from=newest(self._checkpoints(found.name)) if resume else None,
            live=self._live,
            workers=self._state.options.workers_of,
        )
        return run_search(found, how, self._keeper(session))

    def candidates(self) -> Candidates:
        """What there is to choose from."""
        return candidates(self._state.plan(self._plan), self._name, len(self._state.gpus))

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return self._state.gpus

    @property
    def _folder(self) -> Path:
        return self._state.options.output / f"search-{file_name(self._test)}"

    def _checkpoints(self, name: str) -> Iterator[Path]:
        """Of this test, in this session's folder and those of earlier ones."""
        yield self._folder / checkpoint_name(name)
        for folder in self._state.options.output.parent.glob("*"):
            yield folder / self._folder.name / checkpoint_name(name)

    def _keeper(self, session: Session) -> Callable[[SearchResult], None]:
        def keep(result: SearchResult) -> None:
            self._state.session.searches[self._test] = result
            self._state.session.written += [f"search: {path}" for path in write_search(result, session)]

        return keep


def _obstacles(found: Candidates, state: State) -> list[str]:
    """Why each configuration cannot run here; empty as soon as one can."""
    reasons = [missing_requirement(config, state.gpus) for config in found.configs.values()]
    known = [reason for reason in reasons if reason]
    return known if len(known) == len(reasons) else []


def dry_run(search: Search) -> Iterator[str]:
    """Lines that say what it would do."""
    yield from describe(search.candidates(), search.gpus)
