"""The marker llmperf_search and its fixture, in a pytest of its own against real server processes."""

from __future__ import annotations

import json
import signal
import xml.etree.ElementTree as ElementTree

import pytest
from perf_suite import edited
from test_interrupts import Started, until

PLAN = """
model: embedded
servers:
  grid:
    engine: embedded
    args: {step: modelled, step-overhead-ms: 0, decode-ms-per-step: {sweep: [60, 25, 10]}, max-num-seqs: 4}
  many: {engine: embedded, gpus: {sweep: [900, 1000]}}
loads:
  chat: {input_tokens: 8, output_tokens: 5, concurrency: 4, requests: 12, warmup_requests: 1}
searches:
  best: {server: grid}
  tight: {server: grid, constraints: {itl_p50: "<= 0.01 ms"}, trials: 1}
  huge: {server: many}
"""
TEST = """
import pytest

@pytest.mark.llmperf_search(plan="plan.yaml")
def test_search(llmperf_search):
    result = llmperf_search.run()
    assert result.best
    assert result.best.values == {"decode-ms-per-step": 10}
    assert result.best.objective.low > 40
    assert [found.rank for found in result.ranked] == [1, 2, 3]
    assert [point.name for front in result.pareto for point in front.points if point.on_front]
"""


@pytest.fixture
def searching(suite):
    suite.write(plan=PLAN, test=TEST)
    return suite


def test_a_search_is_a_test(searching):
    junit = searching.pytester.path / "junit.xml"
    result = searching.run("-k", "best", f"--junitxml={junit}", "-v")
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(["*test_search[[]best[]] PASSED*"])
    result.stdout.fnmatch_lines(["*llmperf search*", "best: grid.decode_ms_per_step_10 is the best: *"])
    properties = {one.get("name"): one.get("value") for one in ElementTree.parse(junit).iter("property")}
    assert properties["llmperf.search.best"] == "grid.decode_ms_per_step_10"
    assert properties["llmperf.search.best.decode-ms-per-step"] == "10"
    assert float(properties["llmperf.search.best.objective_tok_s"]) > 40
    (found,) = searching.report()["searches"]
    assert (found["search"], found["best"]) == ("best", "grid.decode_ms_per_step_10")
    folder = searching.output / "search-test_perf.py.test_search-best"
    points = json.loads((folder / "report.json").read_text())["points"]
    assert {point["error"] for point in points} == {None}
    assert (folder / "search-best.best.yaml").exists()


def test_a_search_that_finds_nothing_fails_the_users_assertion(searching):
    result = searching.run("-k", "tight")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["E*SearchResult('tight: none of 1 configurations tried keeps all limits')*"])


@pytest.mark.parametrize(("args", "outcome"), [((), "skipped"), (("--llmperf-strict",), "failed")])
def test_a_machine_that_can_run_none_of_them(searching, args, outcome):
    result = searching.run("-k", "huge", "-rs", *args)
    result.assert_outcomes(**{outcome: 1, "deselected": 2})
    result.stdout.fnmatch_lines(["*2 configurations, and none can run here: needs 900 GPUs, found *"])


def test_a_session_that_could_search_nothing_says_so_and_is_over(searching):
    for _ in range(2):
        searching.run("-k", "huge", "--llmperf-html=page.html").assert_outcomes(skipped=1, deselected=2)
        assert searching.report()["points"] == []
        assert (searching.pytester.path / "page.html").exists()


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('"plan.yaml"', "takes keywords only"),
        ("", "needs plan='….yaml', given None"),
        ('plan="plan.yaml", search="bset"', "the plan has no search 'bset'; did you mean 'best'?"),
        ('plan="plan.yaml", serach="best"', "has no 'serach'; did you mean 'search'?"),
    ],
)
def test_a_wrong_marker_is_told_before_anything_runs(searching, marker, message):
    searching.write(test=edited(TEST, 'plan="plan.yaml"', marker))
    result = searching.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_perf.py: the llmperf_search marker*{message}*".replace("[", "[[]")])


def test_a_dry_run_says_what_would_be_tried(searching):
    result = searching.run("-k", "best", "--llmperf-dry-run")
    result.stdout.fnmatch_lines(["search best: quick over 3 configurations of grid, for output_token_throughput"])
    assert not searching.output.exists()


def test_the_html_report_has_the_search(searching):
    pytest.importorskip("plotly")
    page = searching.pytester.path / "report.html"
    searching.run("-k", "best", f"--llmperf-html={page}").assert_outcomes(passed=1, deselected=2)
    text = page.read_text()
    assert "grid.decode_ms_per_step_10 is the best" in text
    assert "Objective by trial" in text


def test_a_search_that_is_terminated_reports_how_far_it_came(searching):
    searching.edit_plan("requests: 12", "requests: 12000")
    copy = searching.pytester.path / "copy.json"
    copy.write_text("{}")
    started = Started(searching, "-k", "best", f"--llmperf-json={copy}")
    until(lambda: started.process.poll() is not None or [*searching.output.glob("search-*/servers/*")], "a server")
    assert not copy.exists()
    output = started.end_with(signal.SIGTERM)
    assert started.process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "no report was written" not in output
    (found,) = json.loads(copy.read_text())["searches"]
    assert found["interrupted"] is True


def test_a_search_is_continued(searching):
    searching.run("-k", "best").assert_outcomes(passed=1, deselected=2)
    result = searching.run("-k", "best", "--llmperf-resume")
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(["note: continued: * runs were measured before, 0 now"])
