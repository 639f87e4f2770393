"""The marker llmperf_search and its fixture: translates between pytest and pytest_llmperf.search, computes nothing.

Part of every pytest run, as `plugin` is, so it imports nothing heavy until a test carries the marker.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_llmperf.session.search import Search

_MARKER = (
    "llmperf_search(plan, search=None): searches the best configuration as `searches:` of the plan file `plan` "
    "(relative to the test file) says; one test per search, or the named one alone. Run it with the fixture "
    "llmperf_search."
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("llmperf_search")
    if marker is None or "llmperf_search" not in metafunc.fixturenames:
        return
    from pytest_llmperf.session.stash import preparation_of

    collection = preparation_of(metafunc.config).collection
    names = collection.searches(marker.args, marker.kwargs, metafunc.definition.path)
    metafunc.parametrize("llmperf_search", names, ids=names, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.when == "call" and item.get_closest_marker("llmperf_search"):
        from pytest_llmperf.report.json.search import search_properties
        from pytest_llmperf.session.stash import session_of, set_properties

        result = session_of(item.config).searches.get(item.nodeid)
        set_properties(item, list(search_properties(result)) if result else [])
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    from pytest_llmperf.session.stash import encoding_of, known_session

    session = known_session(config)
    if session and session.searches:
        from pytest_llmperf.report.sections.search import search_summary

        terminalreporter.section("llmperf search")
        writer = config.get_terminal_writer()
        width = writer.fullwidth
        for result in session.searches.values():
            terminalreporter.write(
                search_summary(result, width, writer.hasmarkup, config.get_verbosity(), encoding_of(writer))
            )
        if not session.folder.outcomes:
            terminalreporter.write("".join(f"{line}\n" for line in session.folder.written))


@pytest.fixture
def llmperf_search(request: pytest.FixtureRequest) -> Any:
    """`llmperf_search.run()` searches and returns a SearchResult: `best`, `ranked`, `pareto`."""
    from pytest_llmperf.session.search import search_of
    from pytest_llmperf.session.stash import session_of

    if request.node.get_closest_marker("llmperf_search") is None or not hasattr(request, "param"):
        raise pytest.UsageError("llmperf_search needs @pytest.mark.llmperf_search(plan='….yaml') on the test")
    return _Translated(search_of(request.node, request.param), session_of(request.config).options.strict)


class _Translated:
    """A search whose errors are pytest's outcomes."""

    def __init__(self, search: Search, strict: bool) -> None:
        self._search, self._strict = search, strict

    def run(self) -> Any:
        """The SearchResult. Skips where this machine cannot run a single configuration; --llmperf-strict fails."""
        __tracebackhide__ = True
        from pytest_llmperf.errors import LlmPerfError, MissingRequirement, PlanError

        failure: Exception | None = None
        try:
            return self._search.run()
        except LlmPerfError as error:
            failure = error
        # Outside of the except block, so that the message is not printed once more as its own cause.
        if isinstance(failure, MissingRequirement) and not isinstance(failure, PlanError) and not self._strict:
            pytest.skip(str(failure))
        pytest.fail(str(failure), pytrace=False)
