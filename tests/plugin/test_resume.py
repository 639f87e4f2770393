"""--llmperf-resume: what was measured completely is not measured again, and the report is whole."""

from __future__ import annotations

import gzip
import json
import shutil
import signal

import pytest
from perf_suite import TEST, edited, lay_out, run_outside_ci
from test_interrupts import Started, until

ONE_RUN = """
model: embedded
runs: 1
servers:
  grid: {engine: embedded, args: {step: modelled, decode-ms-per-step: {sweep: [1, 2]}}}
loads:
  short: {input_tokens: 8, output_tokens: 4, concurrency: {sweep: [1, 2]}, requests: 6, warmup_requests: 0}
sla: {error_rate: "<= 0"}
"""
SLA_ONLY = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
"""
FIRST, SECOND = "grid.decode_ms_per_step_1", "grid.decode_ms_per_step_2"


SEARCHES = edited(
    ONE_RUN, "concurrency: {sweep: [1, 2]}", "capacity: {concurrency: '1:2', sla: {ttft_p50: '<= 1 min'}}"
)


def servers(suite):
    return sorted(log.name for log in (suite.output / "servers").iterdir())


def stored(suite):
    return sorted((suite.output / "points").glob("*.json.gz"))


@pytest.fixture
def grid(suite):
    suite.write(plan=ONE_RUN, test=SLA_ONLY)
    return suite


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What a session leaves that has measured the first of two servers."""
    folder = tmp_path_factory.mktemp("measured")
    lay_out(folder, ONE_RUN, SLA_ONLY)
    done = run_outside_ci(folder, "-k", "step_1", "--llmperf-output=out")
    assert done.returncode == 0, done.stdout
    return folder / "out"


@pytest.fixture
def half(grid, measured):
    """A suite of which the first of two servers has been measured."""
    shutil.copytree(measured, grid.output)
    return grid


def test_only_the_rest_is_measured_and_the_report_is_whole(half):
    before = half.points()
    result = half.run("--llmperf-resume")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "llmperf: 4 points on 2 servers*, 2 points resumed from *",
            "not measured again, resumed from 20*: *short-c1, *short-c2",
        ]
    )
    assert servers(half) == [f"{FIRST}.log", f"{SECOND}.log"]
    after = half.points()
    assert set(after) == {f"{name}-short-c{count}" for name in (FIRST, SECOND) for count in (1, 2)}
    for name, point in before.items():
        assert after[name]["taken_from"]
        assert after[name]["runs"] == point["runs"]
        assert after[name]["metrics"] == point["metrics"]
        assert (after[name]["sla"], after[name]["passed"]) == (point["sla"], True)
    assert after[f"{SECOND}-short-c1"]["taken_from"] is None


def test_every_point_is_there(half):
    half.run("--llmperf-resume")
    half.run("--llmperf-resume", "--junit-xml=junit.xml").assert_outcomes(passed=4)
    assert servers(half) == [f"{FIRST}.log", f"{SECOND}.log"]
    assert (half.pytester.path / "junit.xml").read_text().count("llmperf.taken_from") == 4


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_suite_goes_on(grid, signum):
    grid.edit_plan("[1, 2]}}}", "[1, 50]}}}")  # the second server is interrupted before its points are measured
    started = Started(grid)
    until(lambda: len(stored(grid)) == 2 or started.process.poll() is not None, "the first server's points")
    started.end_with(signum)
    assert len(stored(grid)) == 2
    grid.run("--llmperf-resume").assert_outcomes(passed=4)
    assert [name for name in servers(grid) if name.startswith(f"{FIRST}.")] == [f"{FIRST}.log"]
    assert [bool(point["taken_from"]) for point in grid.points().values()] == [True, True, False, False]
    assert all(point["passed"] for point in grid.points().values())


def test_a_capacity_is_resumed_and_the_other_searched(suite):
    suite.write(plan=edited(SEARCHES, "[1, 2]}}}", "[1, 100]}}}"), test=SLA_ONLY)
    started = Started(suite)
    until(lambda: stored(suite) or started.process.poll() is not None, "the first server's capacity")
    started.end_with(signal.SIGINT)
    first = suite.points()[f"{FIRST}-short"]
    suite.edit_plan("decode-ms-per-step: {sweep: [1, 100]}", "decode-ms-per-step: {sweep: [1, 2]}")
    result = suite.run("--llmperf-resume")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["llmperf: 2 points on 2 servers*, 1 point resumed from *"])
    taken, searched = suite.report()["points"]
    assert taken["taken_from"]
    assert [row["level"] for row in taken["capacity"]["searches"][0]["levels"]] == [1, 2]
    assert all(taken[key] == first[key] for key in ("capacity", "runs", "metrics", "server", "load"))
    assert searched["taken_from"] is None
    assert searched["capacity"]["holds"] == 2
    assert servers(suite)[0] == f"{FIRST}.log"
    assert f"{FIRST}.2.log" not in servers(suite)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("requests: 6", "requests: 7", "requests was 6, is 7"),
        ("runs: 1", "runs: 2", "runs was 1, is 2"),
        ("step: modelled,", "step: modelled, max-num-seqs: 3,", "max-num-seqs was None, is 3"),
    ],
)
def test_what_has_changed_is_measured_again_and_says_why(half, old, new, why):
    half.edit_plan(old, new)
    result = half.run("--llmperf-resume", "-k", "step_1")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"{FIRST}-short-c1 is measured again, not resumed: {why}"])
    assert all(point["taken_from"] is None for point in half.points().values())


def test_a_capacity_that_is_asked_otherwise_is_searched_again(suite):
    suite.write(plan=SEARCHES, test=SLA_ONLY)
    suite.run("-k", "step_1").assert_outcomes(passed=1)
    suite.edit_plan("1:2', sla: {ttft_p50: '<= 1 min'}", "1:3', sla: {ttft_p50: '<= 2 min'}")
    result = suite.run("--llmperf-resume", "-k", "step_1")
    result.stdout.fnmatch_lines(["*again, not resumed: concurrency was [[]1, 2], is [[]1, 3]; sla was *"])


def test_a_server_without_a_capacity_is_not_asked_again_for_a_baseline(suite):
    suite.write(plan=edited(SEARCHES, "1 min", "0.001 ms"), test=edited(SLA_ONLY, "sla", "baseline"))
    suite.run("--llmperf-accept", "-k", "step_1").assert_outcomes(failed=1)
    result = suite.run("--llmperf-accept", "--llmperf-resume", "-k", "step_1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 point resumed from *"])


def test_a_file_that_is_not_whole_is_passed_over(half):
    first, second = stored(half)
    first.write_bytes(first.read_bytes()[:100])
    second.with_name(f"{second.name}.1.partial").write_bytes(b"half")
    result = half.run("--llmperf-resume", "-k", "step_1")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*c1.json.gz cannot be read: *; it is passed over", "*.partial is not whole: *"])
    assert [bool(point["taken_from"]) for point in half.points().values()] == [False, True]


def test_another_machines_points_are_measured_again(half):
    for path in stored(half):
        data = json.loads(gzip.decompress(path.read_bytes()))
        data["sides"][0]["environment"]["cpu"] = "another"
        path.write_bytes(gzip.compress(json.dumps(data).encode()))
    result = half.run("--llmperf-resume", "-k", "step_1")
    result.stdout.fnmatch_lines(["*is measured again, not resumed: cpu was 'another', is *"])


def test_nothing_to_resume(grid):
    result = grid.run("--llmperf-resume", "-k", "step_1")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["--llmperf-resume: no measured points in *out, so everything is measured"])


def test_the_newest_session_is_continued(grid):
    grid.pytester.runpytest_inprocess("-k", "step_1").assert_outcomes(passed=2)
    grid.pytester.runpytest_inprocess("--llmperf-resume", "-k", "step_1").stdout.fnmatch_lines(
        ["*2 points resumed from *llmperf-results/20*"]
    )
    sessions = [path for path in (grid.pytester.path / "llmperf-results").glob("20*") if not path.is_symlink()]
    assert len(sessions) == 1


def test_a_server_that_a_test_asks_otherwise_comes_up(half):
    half.write(test=SLA_ONLY + "    assert llm_server.url.startswith('http://127.0.0.1')\n")
    half.run("--llmperf-resume", "-k", "step_1").assert_outcomes(passed=2)
    assert servers(half) == [f"{FIRST}.2.log", f"{FIRST}.log"]


def test_a_baseline_takes_in_a_session_once(suite):
    args = ("-k", "tp1pp1-short")
    suite.run("--llmperf-update-baselines", *args).assert_outcomes(passed=1)
    (path,) = suite.baselines()
    before = path.read_text()
    result = suite.run("--llmperf-update-baselines", "--llmperf-resume", *args)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*was recorded from these very runs"])
    assert path.read_text() == before
    suite.run("--llmperf-accept", "--llmperf-resume", *args).assert_outcomes(passed=1)
    assert json.loads(path.read_text())["rolling"] == json.loads(before)["rolling"]


def test_what_another_engine_measured_is_measured_again_as_of_this_session(suite):
    args = ("-k", "tp1pp1-short")
    suite.write(test=edited(TEST, "    result =", "    assert llm_server.url\n    result ="))
    suite.run("--llmperf-update-baselines", *args).assert_outcomes(passed=1)
    (kept,) = stored(suite)
    point = json.loads(gzip.decompress(kept.read_bytes()))
    point["session"] = "2020-01-01T00:00:00Z"
    point["sides"][-1]["environment"]["engine_version"] = "0.0"
    kept.write_bytes(gzip.compress(json.dumps(point).encode()))
    result = suite.run("--llmperf-accept", "--llmperf-resume", *args)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*is measured again, not resumed: engine_version was '0.0', is *"])
    (path,) = suite.baselines()
    (session,) = json.loads(path.read_text())["sessions"]
    assert not session["started"].startswith("2020")


def test_a_duet_is_resumed_with_its_reference(suite):
    suite.write(
        test=edited(SLA_ONLY, '"plan.yaml"', '"plan.yaml", duet={"a": "tp1pp1", "b": "tp4pp2"}, loads=["short"]')
    )
    suite.run().assert_outcomes(passed=1)
    (before,) = suite.report()["points"]
    suite.run("--llmperf-resume").assert_outcomes(passed=1)
    (after,) = suite.report()["points"]
    assert after["taken_from"]
    assert {**after, "taken_from": None} == before
    assert servers(suite) == ["tp1pp1.log", "tp4pp2.log"]


def test_a_file_is_no_session(grid):
    grid.output.write_text("")
    result = grid.run("--llmperf-resume")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmperf-resume*is a file, not the folder of a session"])


def test_a_baseline_that_needs_more_runs_keeps_those_that_are_there(suite):
    gated = edited(SLA_ONLY, "load_point, sla):", "load_point, baseline):")
    check = "    result = load_driver.run(llm_server, load_point)\n    baseline.check(result, missing='skip')\n"
    suite.write(plan=ONE_RUN, test=edited(gated, "    sla.check(load_driver.run(llm_server, load_point))\n", check))
    suite.run("-k", "step_1-short-c1").assert_outcomes(passed=1)
    (requests,) = (suite.output / "requests").glob("*.jsonl")
    before = requests.read_text()
    result = suite.run("-k", "step_1-short-c1", "--llmperf-resume", "--llmperf-update-baselines", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 run kept, and 4 added, since 5 are needed now*"])
    after = requests.read_text()
    assert after.startswith(before)
    assert [*dict.fromkeys(json.loads(line)["run"] for line in after.splitlines())] == [1, 2, 3, 4, 5]
    (path,) = suite.baselines()
    (session,) = json.loads(path.read_text())["sessions"]
    assert sum(map(len, session["launches"])) == 5
