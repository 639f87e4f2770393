"""`--llmperf-parallel`: servers measured side by side, judged as ever."""

from __future__ import annotations

from perf_suite import TEST, edited, run_outside_ci

NO_BASELINE = edited(TEST, "    baseline.check(result)\n", "")


def test_servers_are_measured_side_by_side(suite):
    suite.write(test=NO_BASELINE)
    done = run_outside_ci(suite.pytester.path, "--llmperf-output=out", "--llmperf-parallel=2")
    assert done.returncode == 0, done.stdout + done.stderr
    for server in ("tp1pp1", "tp4pp2"):
        assert f"llmperf: measuring {server} beside others" in done.stdout
        assert f"llmperf: {server}: 3 of 3 points measured" in done.stdout
    points = suite.points()
    assert {point["taken_from"] for point in points.values()} == {None}
    assert len(points) == 6
    assert {len(point["runs"]) for point in points.values()} == {2}
    requests = sorted((suite.output / "requests").iterdir())
    assert len(requests) == 6
    began = {
        path.name: path.read_text().count("Application startup complete")
        for path in (suite.output / "servers").iterdir()
    }
    assert began == {"tp1pp1.log": 1, "tp4pp2.log": 1}


REVERSED = """
import os


def pytest_collection_modifyitems(items):
    if "LLMPERF_PART" in os.environ:
        items.reverse()
"""


def test_each_part_measures_its_own_server_in_whatever_order_it_has_the_tests(suite):
    """pytest-randomly gives every process another one. What a part left of an earlier session is in no one's way."""
    conftest = suite.pytester.path / "conftest.py"
    conftest.write_text(conftest.read_text() + REVERSED)
    suite.write(test=NO_BASELINE)
    command = ("--llmperf-output=out", "--llmperf-parallel=2", "-k", "short")
    assert run_outside_ci(suite.pytester.path, *command).returncode == 0
    for server in ("tp1pp1", "tp4pp2"):
        (log,) = (suite.output / "parallel").glob(f"{server}-*/pytest.log")
        assert f"llmperf: {server}-short measured" in log.read_text()
        for folder in (log.parent, suite.output):
            (folder / "servers" / "x-models" / "1").mkdir(parents=True, exist_ok=True)
        (suite.output / "points" / f"test_perf.py.test_serving-{server}-short.json.gz").unlink()
    done = run_outside_ci(suite.pytester.path, *command, "--llmperf-resume")
    assert done.returncode == 0, done.stdout
    assert not [*(suite.output / "parallel").glob("*/servers/*")]


def test_a_baseline_is_recorded_and_held(suite):
    path = suite.pytester.path
    first = run_outside_ci(path, "--llmperf-output=out1", "--llmperf-parallel=2", "--update-baselines", "-k", "short")
    assert first.returncode == 0, first.stdout
    assert first.stdout.count("new baseline") == 2
    run_outside_ci(path, "--llmperf-output=out", "--llmperf-parallel=2", "-k", "short")
    verdicts = {point["regression"]["verdict"] for point in suite.points().values()}
    assert verdicts <= {"PASS", "INCONCLUSIVE", "FAIL", "IMPROVED"}


def test_a_server_that_does_not_start_fails_its_own_tests(suite):
    works = "tp4pp2: {engine: embedded, args: {step: modelled, decode-ms-per-step: 2, max-num-seqs: 4}}"
    suite.edit_plan(works, "tp4pp2: {engine: command, command: [sh, -c, 'echo RuntimeError: no {port}; exit 3']}")
    suite.write(test=NO_BASELINE)
    done = run_outside_ci(suite.pytester.path, "--llmperf-output=out", "--llmperf-parallel=2", "-k", "short")
    assert "llmperf: tp4pp2: 0 of 1 points measured, exit code 1: see " in done.stdout
    assert "1 passed, 4 deselected" in done.stdout
    assert "1 error" in done.stdout
    assert "server 'tp4pp2' ended before it was ready; exit code 3" in done.stdout


def test_one_server_is_measured_as_ever(suite):
    suite.write(test=NO_BASELINE)
    done = run_outside_ci(suite.pytester.path, "--llmperf-output=out", "--llmperf-parallel=2", "-k", "tp1pp1-short")
    assert done.returncode == 0
    assert "beside others" not in done.stdout
