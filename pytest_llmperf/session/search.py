"""The object behind the `llmperf_search` fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.errors import MissingRequirement, NotThere
from pytest_llmperf.report.files import write_search
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.search.candidates import Candidates, candidates
from pytest_llmperf.search.dry_run import describe
from pytest_llmperf.search.result import SearchResult
from pytest_llmperf.search.search import SearchRun, checkpoint_name, newest, run_search
from pytest_llmperf.servers.engines.commands import lack
from pytest_llmperf.session.state import PytestSession
from pytest_llmperf.telemetry.gpu import Gpu


class Search:
    """Runs one search of a plan for one test, and keeps what it found for the reports."""

    def __init__(self, session: PytestSession, test: str, plan: Path, name: str) -> None:
        self._session, self._test, self._plan, self._name = session, test, plan, name

    def run(self) -> SearchResult:
        """Measures configurations until the search has ended; blocks.

        MissingRequirement when this machine can run none of them, PlanError when the search cannot be continued or
        limits memory, which cannot be read here. A configuration that fails is part of the result.
        """
        __tracebackhide__ = True
        found = self.candidates()
        reasons = [lacking for config in found.configs.values() if (lacking := lack(config, self.gpus))]
        if len(reasons) == len(found.configs):
            kind = NotThere if reasons[0].key else MissingRequirement
            raise kind(f"{len(reasons)} configurations, and none can run here: {reasons[0].reason}")
        folder = RunFolder(self._folder)

        def keep(result: SearchResult) -> None:
            self._session.searches[self._test] = result
            self._session.folder.written += [f"search: {path}" for path in write_search(result, folder)]

        resume = self._session.options.resume
        how = SearchRun(
            folder,
            self._session.gpus,
            self._plan,
            resume_from=newest(self._checkpoints(found.name)) if resume else None,
            live=self._session.live,
            workers=self._session.options.workers_of,
        )
        return run_search(found, how, keep)

    def candidates(self) -> Candidates:
        """The configurations and loads of the search."""
        return candidates(self._session.prepared.collection.plan(self._plan), self._name, len(self._session.gpus))

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return self._session.gpus

    @property
    def _folder(self) -> Path:
        return self._session.folder.output / f"search-{file_name(self._test)}"

    def _checkpoints(self, name: str) -> Iterator[Path]:
        """The checkpoints of this test, in this session's folder and those of earlier ones."""
        yield self._folder / checkpoint_name(name)
        for folder in self._session.folder.output.parent.glob("*"):
            yield folder / self._folder.name / checkpoint_name(name)


def dry_run_lines(items: list[pytest.Item]) -> Iterator[str]:
    """Lines on the course of the searches among these items."""
    for item in items:
        if item.get_closest_marker("llmperf_search") and isinstance(item, pytest.Function):
            search = search_of(item, str(item.callspec.params["llmperf_search"]))
            yield from describe(search.candidates(), search.gpus)


def search_of(item: pytest.Item, name: str) -> Search:
    from pytest_llmperf.session.stash import session_of

    marker = item.get_closest_marker("llmperf_search")
    assert marker is not None
    plan = item.path.parent / marker.kwargs["plan"]
    return Search(session_of(item.config), item.nodeid, plan, name)
