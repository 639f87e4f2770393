"""Ends of a session, and what was measured until then"""

import signal
from importlib.util import find_spec

import pytest
from arrangements import of_own, on_url
from fault import Fault, check, rows
from sandbox import LOAD, TEST


def _needs(module):
    return (pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed"),)


def _signalled(signum):
    """In the middle of the second run."""

    def run(sandbox):
        sandbox.url_plan(sandbox.serve().url, {"requests": 200}, runs=100)
        session = sandbox.pytest("--junitxml=junit.xml")
        session.until(lambda: list((sandbox.folder / "out" / "requests").glob("*.jsonl")))
        session.signal(signum)
        return session

    return run


def _profile_hung_up(sandbox):
    load = ("--requests", "300", "--concurrency", "2", "--input-tokens", "10", "--output-tokens", "8", "--runs", "100")
    url = sandbox.serve().url
    session = sandbox.llmperf("profile", "--url", url, "--model", "m", "--output", "out", *load)
    session.until(lambda: list((sandbox.folder / "out" / "requests").glob("*.jsonl")))
    session.signal(signal.SIGHUP)
    return session


def _with_plugin(plugin, *words, answer="good", **options):
    """The plugin is on, which the suites of these tests turn off."""

    def run(sandbox):
        ini = (sandbox.folder / "pytest.ini").read_text()
        sandbox.write("pytest.ini", ini.replace(f"-p no:{plugin}", ""))
        return on_url(answer, words=words, **options)(sandbox)

    return run


def _shared_out(sandbox):
    sandbox.write("pytest.ini", (sandbox.folder / "pytest.ini").read_text().replace("-p no:xdist", ""))
    sandbox.url_plan(sandbox.serve().url, loads=dict.fromkeys("abc", LOAD))
    return sandbox.pytest("-n2")


def _outside(sandbox):
    """pytest's root folder is another one."""
    sandbox.write("ci/pytest.ini", (sandbox.folder / "pytest.ini").read_text())
    (sandbox.folder / "pytest.ini").unlink()
    sandbox.url_plan(sandbox.serve().url)
    return sandbox.pytest("-c", "ci/pytest.ini", "--rootdir=ci", "test_x.py")


def _long_id(sandbox):
    parametrized = '@pytest.mark.parametrize("x", [1], ids=["y" * 240])\n@pytest.mark.llmperf'
    sandbox.write("test_x.py", TEST.replace("@pytest.mark.llmperf", parametrized).replace("sla)", "sla, x)", 1))
    return on_url("good")(sandbox)


FAULTS = (
    Fault(
        "sigterm",
        "SIGTERM in a run, as CI sends when a job is cancelled",
        _signalled(signal.SIGTERM),
        says=("interrupted: --llmperf-resume goes on", "KeyboardInterrupt"),
        keeps=200,
        exit=2,
    ),
    Fault(
        "sighup",
        "SIGHUP in a run: the terminal is closed",
        _signalled(signal.SIGHUP),
        says=("interrupted: --llmperf-resume goes on", "KeyboardInterrupt"),
        keeps=200,
        exit=2,
    ),
    Fault(
        "profile-sighup",
        "SIGHUP while `llmperf profile` measures",
        _profile_hung_up,
        says=("interrupted; what was measured until then: out",),
        keeps=300,
        exit=130,
    ),
    Fault(
        "timeout-thread",
        "pytest-timeout ends the process in a run (its thread method)",
        _with_plugin("timeout", "--timeout=5", "--timeout-method=thread", load={"requests": 20}, runs=5000),
        says=("Timeout",),
        keeps=20,
        marks=_needs("pytest_timeout"),
    ),
    Fault(
        "second-attempt-fails",
        "a test is run again (pytest-rerunfailures), and the second attempt measures nothing",
        _with_plugin("rerunfailures", "--reruns=1", answer="error_500", after=3),
        says=("rerun", "every warm-up request failed"),
        keeps=10,
        marks=_needs("pytest_rerunfailures"),
    ),
    Fault(
        "xdist",
        "pytest-xdist shares the tests out among processes: none measures, and one report names all of them",
        _shared_out,
        says=("llmperf tests measure a whole machine", "run them with -n0"),
        points=3,
        marks=_needs("xdist"),
    ),
    Fault(
        "other-root",
        "the tests lie outside of pytest's root folder",
        _outside,
        says=("1 passed",),
        keeps=10,
        exit=0,
    ),
    Fault(
        "long-id",
        "a test's id has more characters than a file's name may have",
        _long_id,
        says=("1 passed",),
        keeps=10,
        exit=0,
    ),
    Fault(
        "deep-event",
        "an event of the stream has 200 000 brackets",
        on_url("deep_event", after=2, every=3),
        says=("3 of 10 requests failed",),
        keeps=10,
    ),
    Fault(
        "deep-error",
        "an error's body has 200 000 brackets",
        on_url("deep_error", after=2, every=3),
        says=("requests failed", "HTTP 500: [["),
        keeps=10,
    ),
    Fault(
        "half-surrogate",
        "an error's text has half a surrogate pair, and all reports are asked for",
        on_url("half_surrogate", words=("--llmperf-export=csv,aiperf", "--llmperf-html=report.html"), after=2, every=3),
        says=("requests failed", "HTTP 500: \\ud800 half", "HTML report:"),
        keeps=10,
    ),
    Fault(
        "count-infinite",
        "the server counts Infinity tokens",
        on_url("count_infinite", after=2, every=3),
        says=("counts were no whole numbers", "1 passed"),
        keeps=10,
        exit=0,
    ),
    Fault(
        "count-nan",
        "the server counts NaN tokens",
        on_url("count_nan", after=2, every=3),
        says=("counts were no whole numbers", "1 passed"),
        keeps=10,
        exit=0,
    ),
    Fault(
        "server-killed",
        "the server is killed in a run",
        of_own("--answer", "kill_self", "--after", "6"),
        says=("died", "exit code 137 (SIGKILL)"),
        keeps=6,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
