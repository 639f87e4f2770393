"""Hooks, marker and fixtures: translates between pytest and the modules below, and computes nothing.

Every pytest run of every user imports this module, so it imports nothing else of the package but `session.command_line`
and `session.stash` (and nothing heavy) until a test carries the `llmperf` marker.
"""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_llmperf.session.command_line import add_options, check_options, option, set_reports_aside
from pytest_llmperf.session.stash import (
    PREPARED,
    SESSION,
    encoding_of,
    is_worker,
    known_session,
    live_of,
    preparation_of,
    session_of,
    set_properties,
)

if TYPE_CHECKING:
    from pytest_llmperf.plan.load.point import LoadPoint
    from pytest_llmperf.servers.server import LlmServer
    from pytest_llmperf.session.fixtures import BaselineGate, LoadDriver, SlaGate
    from pytest_llmperf.session.select.collection import Collection
    from pytest_llmperf.session.state import PytestSession

pytest_plugins = ["pytest_llmperf.search_plugin"]

_MARKER = (
    "llmperf(plan, servers=None, loads=None, runs=None, margins=None, duet=None): one test per server and load of the "
    "plan file `plan` (relative to the test file); `servers` and `loads` narrow it to names, `margins` are as in the "
    "plan. duet={'a': 'old', 'b': 'new'} measures two servers in turns and judges b against a: one test per load."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    try:
        check_options(config)
    except pytest.UsageError:
        set_reports_aside(config, measures=False)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    try:
        yield
    except BaseException:
        set_reports_aside(early_config, measures=False)
        raise


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("llmperf")
    if marker is None:
        return
    selection = preparation_of(metafunc.config).collection.select(marker.args, marker.kwargs, metafunc.definition.path)
    if "llm_server" in metafunc.fixturenames:
        ids = [server.name for server in selection.servers]
        metafunc.parametrize("llm_server", selection.servers, ids=ids, indirect=True, scope="session")
    if "load_point" in metafunc.fixturenames:
        metafunc.parametrize("load_point", selection.loads, ids=[load.name for load in selection.loads], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    prepared = config.stash.get(PREPARED, None)
    # A worker of xdist that ends here takes the controller down with it; each of its tests fails by itself.
    if prepared and prepared.collection.errors and not is_worker(config):
        raise pytest.UsageError("\n".join(prepared.collection.errors))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # Each test says it, because a worker of xdist that ends during collection takes the controller down with it.
    marked = item.get_closest_marker("llmperf") or item.get_closest_marker("llmperf_search")
    if is_worker(item.config) and marked:
        pytest.fail(
            "llmperf tests measure a whole machine and cannot share it with pytest-xdist's other workers; "
            "run them with -n0, or deselect them with -m 'not llmperf'",
            pytrace=False,
        )
    if item.get_closest_marker("llmperf") and (mistake := _misused(item)):
        pytest.fail(mistake, pytrace=False)
    session = known_session(item.config)
    missing = session.missing(item.nodeid) if session else None
    if session and missing:
        _skip_or_fail(missing, session)


def _skip_or_fail(missing: Exception, session: PytestSession) -> NoReturn:
    """Ends a test that this machine cannot run."""
    from pytest_llmperf.errors import PlanError

    if isinstance(missing, PlanError):
        pytest.fail(str(missing), pytrace=False)
    if session.options.strict:
        pytest.fail(f"{missing} (--llmperf-strict)", pytrace=False)
    pytest.skip(str(missing))


def _misused(item: pytest.Item) -> str | None:
    """A sentence on why a marked test cannot measure what its marker names; None where it can."""
    owner = getattr(item, "cls", None)
    if isinstance(owner, type) and issubclass(owner, unittest.TestCase):
        return (
            f"{item.nodeid}: a unittest.TestCase takes no fixtures, so the llmperf marker does nothing here; write a "
            "function, or call pytest_llmperf.measure (docs/api.md)"
        )
    if not {"llm_server", "load_point", "load_driver"} & set(getattr(item, "fixturenames", ())):
        return (
            f"{item.nodeid}: the llmperf marker measures nothing without its fixtures: "
            "def test_serving(llm_server, load_driver, load_point, sla, baseline)"
        )
    return None


def pytest_deselected(items: list[pytest.Item]) -> None:
    prepared = items[0].config.stash.get(PREPARED, None) if items else None
    if prepared:
        prepared.collection.narrowed()


@pytest.hookimpl(tryfirst=True)  # the headline of the terminal's own implementation tells what came of it
def pytest_collection_finish(session: pytest.Session) -> None:
    prepared = session.config.stash.get(PREPARED, None)
    if prepared and not prepared.collection.errors:  # pytest calls this after the error too
        for item in session.items:
            _add(prepared.collection, item)
        session.config.stash[SESSION] = prepared.begin(live_of(session.config))


def _add(collection: Collection, item: pytest.Item) -> None:
    """Tells what the item will measure."""
    marker = item.get_closest_marker("llmperf")
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    fixtures = set(getattr(item, "fixturenames", ()))
    if marker and {"llm_server", "load_point", "load_driver"} <= fixtures:
        collection.add(
            item.nodeid,
            parameters["llm_server"],
            parameters["load_point"],
            marker.kwargs,
            gates=frozenset(fixtures & {"sla", "baseline"}),
            conditional=any(mark.name in ("skip", "skipif", "xfail") for mark in item.iter_markers()),
        )
    elif "llm_server" in parameters:
        collection.add_server(parameters["llm_server"])
    elif item.get_closest_marker("llmperf_search") and "llmperf_search" in fixtures:
        collection.add_search(item.nodeid)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    session = known_session(config) if config.get_verbosity() >= 0 else None
    return session.headline(_points(items)) if session and _points(items) else None


def _points(items: list[pytest.Item]) -> list[tuple[Any, Any]]:
    """(server, load) of every item that has both."""
    parameters = [getattr(getattr(item, "callspec", None), "params", {}) for item in items]
    return [(p["llm_server"], p["load_point"]) for p in parameters if "llm_server" in p and "load_point" in p]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    own, given = known_session(session.config), session.config.option
    if not option(session.config, "dry-run"):
        ends = session.testsfailed and not given.continue_on_collection_errors  # what pytest's own loop begins with
        if own is None or ends or given.collectonly or getattr(given, "setupplan", False) or is_worker(session.config):
            return None
        _begin(own)
        return _measured_beforehand(session.config, own)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if own and reporter:
        from pytest_llmperf.session.beforehand.dry_run import describe_points
        from pytest_llmperf.session.search import dry_run_lines

        reporter.section("llmperf dry run")
        lines = describe_points(_points(session.items), own.options.runs_of, own.gpus)
        told = [own.totals()] if own.program.tests else []
        told += own.outlook() if session.config.get_verbosity() < 0 else []  # else the head has told it
        for line in [*lines, *told, *dry_run_lines(session.items)]:
            reporter.write_line(line)
    if own and (wrong := own.mistakes()):
        raise pytest.UsageError("\n".join(wrong))
    return True


def _measured_beforehand(config: pytest.Config, own: PytestSession) -> bool | None:
    """Measures servers side by side where that is asked for. True in a session that does so for another one."""
    from pytest_llmperf.errors import LlmPerfError
    from pytest_llmperf.session.parallel import measure_part, measure_side_by_side

    if own.is_part:
        try:
            measure_part(own)
        except LlmPerfError as error:
            pytest.exit(str(error), returncode=1)
        return True
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    say = reporter.write_line if reporter and config.get_verbosity() >= 0 else None
    if measure_side_by_side(own, config.invocation_params.args, say or (lambda line: None)):
        config.stash[SESSION] = own.prepared.resuming().begin(live_of(config))
    return None


def _begin(own: PytestSession) -> None:
    from pytest_llmperf.errors import PlanError

    try:
        own.begin()
    except PlanError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    session = known_session(item.config)
    fault = ""
    if session and item.get_closest_marker("llmperf"):
        try:
            _note_phase(session, item, call)
        except Exception as error:  # it would end the whole session, and with it all tests to come
            fault = f"llmperf could not note this test: {type(error).__name__}: {error}"
    report = yield
    if fault and report.passed:
        report.outcome = "failed"
        report.longrepr = fault
    elif fault:
        report.sections.append(("llmperf", fault))
    if session:
        from pytest_llmperf.boundary.tracebacks import hide_in

        hide_in(report)
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash and item.get_closest_marker("llmperf"):
            crash.message = session.shortened(item.nodeid, crash.message)
    return report


def _note_phase(session: PytestSession, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    skipped = call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception)
    error = _error_text(call.excinfo, skipped) if call.excinfo else None
    found = session.phase_ended(item.nodeid, call.when, error, skipped)
    if call.when != "teardown":  # which has none, and JUnit reads those of the call after it
        set_properties(item, found)
    if call.excinfo and not skipped and (tail := session.server_log(item.nodeid)):
        # A header that starts with "Captured stderr" reaches JUnit's system-err as well as the terminal.
        item.add_report_section(call.when, "stderr (llm server)", tail)


@pytest.hookimpl(tryfirst=True)
def pytest_internalerror(excrepr: object) -> None:
    from pytest_llmperf.boundary.tracebacks import hide_in

    hide_in(excrepr)


def _error_text(excinfo: pytest.ExceptionInfo[BaseException], skipped: bool) -> str:
    return f"skipped: {excinfo.value}" if skipped else excinfo.exconly(tryshort=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    own = known_session(session.config)
    _without_old_reports(session, own)
    if own and is_worker(session.config):
        session.config.workeroutput["llmperf"] = own.worker_outcomes()  # type: ignore[attr-defined]
    elif own and not own.is_part:
        narrowed = any("::" in argument for argument in session.config.args)
        written = own.write_report(complete=not (session.shouldfail or session.shouldstop or narrowed))
        if not written and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _without_old_reports(session: pytest.Session, own: PytestSession | None) -> None:
    config = session.config
    writes_none = config.option.collectonly or option(config, "dry-run") or is_worker(config)
    if writes_none or (own and own.folder.is_claimed):
        return
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return
    measures = PREPARED in config.stash and (own is None or own.program.measures)
    line = set_reports_aside(config, measures=measures)
    if line and (reporter := config.pluginmanager.get_plugin("terminalreporter")):
        reporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A hook of pytest-xdist's: one of its workers has ended."""
    outcomes = getattr(node, "workeroutput", {}).get("llmperf")
    if outcomes:
        preparation_of(node.config).take_outcomes(outcomes)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield  # what was measured stands last, below the failures' texts and pytest's own summary
    session = known_session(config)
    if session and session.folder.outcomes:
        from pytest_llmperf.report.media import summary

        terminalreporter.section("llmperf")
        writer = config.get_terminal_writer()
        encoding = encoding_of(writer)
        terminalreporter.write(
            summary(session.folder, writer.fullwidth, writer.hasmarkup, config.get_verbosity(), encoding)
        )


@pytest.fixture(scope="session")
def llm_server(request: pytest.FixtureRequest) -> Iterator[LlmServer]:
    """The running server of this test's configuration; started once for all tests that share it."""
    from pytest_llmperf.errors import LlmPerfError, MissingRequirement

    session = session_of(request.config)
    if not hasattr(request, "param"):
        raise pytest.UsageError("the llm_server fixture needs @pytest.mark.llmperf(plan='….yaml') on the test")
    with contextlib.ExitStack() as stack:
        failure: Exception | None = None
        try:
            server = stack.enter_context(session.start(request.param))
        except LlmPerfError as error:
            failure = error
        # Outside of the except block, so that the message is not printed once more as its own cause.
        if isinstance(failure, MissingRequirement):
            _skip_or_fail(failure, session)
        if failure is not None:
            pytest.fail(str(failure), pytrace=False)
        yield server


@pytest.fixture
def load_point(request: pytest.FixtureRequest) -> LoadPoint:
    """This test's load: one value of every swept axis."""
    if not hasattr(request, "param"):
        raise pytest.UsageError("the load_point fixture needs @pytest.mark.llmperf(plan='….yaml') on the test")
    point: LoadPoint = request.param
    return point


@pytest.fixture
def load_driver(request: pytest.FixtureRequest) -> LoadDriver:
    """`load_driver.run(llm_server, load_point)` measures and returns a Result; `arun` is its coroutine."""
    from pytest_llmperf.session.fixtures import LoadDriver

    marker = request.node.get_closest_marker("llmperf")
    runs = marker.kwargs.get("runs") if marker else None
    return LoadDriver(session_of(request.config), request.node.nodeid, runs)


@pytest.fixture
def sla(request: pytest.FixtureRequest) -> Iterator[SlaGate]:
    """`sla.check(result)` asserts every absolute limit of the plan, in one assertion that lists all violations."""
    from pytest_llmperf.session.fixtures import SlaGate, warn_unused

    session, test = session_of(request.config), request.node.nodeid
    gate = SlaGate(session, test)
    yield gate
    warn_unused(session, test, "sla", gate)


@pytest.fixture
def baseline(request: pytest.FixtureRequest) -> Iterator[BaselineGate]:
    """`baseline.check(result)` asserts that nothing got worse than the stored baseline allows."""
    from pytest_llmperf.session.fixtures import BaselineGate, warn_unused

    session, test = session_of(request.config), request.node.nodeid
    gate = BaselineGate(session, test)
    yield gate
    gate.record_if_passed()
    warn_unused(session, test, "baseline", gate)
