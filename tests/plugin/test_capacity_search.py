"""Capacity searches on the embedded engine, whose capacity is known, through pytest."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from perf_suite import edited

# Four sequences at once, 10 ms per step: a fifth request in flight waits for one of them to end, some 80 ms.
PLAN = """
model: embedded
runs: 1
servers:
  a: {engine: embedded, args: {step: modelled, decode-ms-per-step: 10, max-num-seqs: 4}}
loads:
  slots: {input_tokens: 8, output_tokens: 8, capacity: {concurrency: "1:32"}, requests: 24, warmup_requests: 1}
sla: {ttft_mean: "<= 70 ms"}
"""
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
"""


@pytest.fixture
def searching(suite):
    suite.write(plan=PLAN, test=TEST)
    return suite


def test_the_capacity_of_the_engine_is_found_and_reported(searching):
    result = searching.run("--junitxml=junit.xml", "--llmperf-export=csv", "--llmperf-html=r.html")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*a-slots: capacity by level*", "a-slots: capacity * requests in flight (*"])
    point = searching.points()["a-slots"]
    found = point["capacity"]
    assert 4 <= found["holds"] <= 8, "each further request in flight adds a fourth of an answer's 80 ms to the wait"
    assert found["holds"] < found["breaks"] <= 10
    levels = [row["level"] for row in found["searches"][0]["levels"]]
    assert levels[:3] == [1, 2, 4]
    lines = (searching.output / "requests" / "test_perf.py.test_serving-a-slots.jsonl").read_text().splitlines()
    assert {json.loads(line)["level"] for line in lines} == set(levels)
    assert point["metrics"]["capacity_concurrency"]["value"] == found["value"]
    properties = {p.get("name"): p.get("value") for p in ElementTree.parse("junit.xml").iter("property")}
    assert float(properties["llmperf.capacity"]) == found["value"]
    (table,) = (searching.output / "export").rglob("capacity.csv")
    assert len(table.read_text().splitlines()) == len(levels) + 1
    assert "capacity" in (searching.pytester.path / "r.html").read_text()


def test_a_baseline_is_recorded_and_judged(searching):
    searching.write(test=edited(edited(TEST, "sla)", "sla, baseline)"), "sla.check(result)", "baseline.check(result)"))
    searching.edit_plan("sla:", "margins: {capacity: 900 %}\nsla:")
    searching.edit_plan('{concurrency: "1:32"}, requests: 24', '{concurrency: "2:12", within: 50 %}, requests: 16')
    searching.run("--llmperf-update-baselines").assert_outcomes(passed=1)
    (path,) = searching.baselines()
    (session,) = json.loads(path.read_text())["sessions"]
    assert [run["scalars"]["capacity_concurrency"] > 3 for run in session["launches"][0]] == [True] * 5
    searching.run("--llmperf-runs=2").assert_outcomes(passed=1)
    (metric,) = searching.points()["a-slots"]["regression"]["metrics"]
    assert (metric["quantity"], metric["verdict"]) == ("capacity_concurrency", "PASS")


def test_a_server_that_meets_the_limit_nowhere_fails(searching):
    searching.edit_plan("70 ms", "0.01 ms")
    result = searching.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no capacity: even 1 request in flight does not hold (ttft_mean *"])
    assert searching.points()["a-slots"]["metrics"]["capacity_concurrency"]["value"] is None


def test_a_range_that_holds_to_its_end_is_a_bound(searching):
    searching.edit_plan("1:32", "1:2")
    result = searching.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["a-slots: capacity is at least 2 requests in flight: the end of the range still holds"]
    )


def test_a_server_that_dies_at_a_level_has_a_capacity_below_it(searching):
    searching.edit_plan("max-num-seqs: 4", "max-num-seqs: 4, fault-die-after: 70")
    result = searching.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["a-slots: the server gave out at * requests in flight: server 'a' died; exit code *"])
    found = searching.points()["a-slots"]["capacity"]
    assert found["searches"][0]["ended"] == "died"
    assert found["searches"][0]["levels"][-1]["verdict"] == "DIED"


def test_a_dry_run_says_how_much_at_most(searching):
    searching.run("--llmperf-dry-run").stdout.fnmatch_lines(
        ["  slots: capacity over concurrency 1 to 32 (within 5%) that meets ttft_mean <= 70 ms, * at most 10 levels*"]
    )
