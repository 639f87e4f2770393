"""Two servers measured in turns, from outside: verdicts, order, reports, mistakes, and servers that die."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest
from perf_suite import edited, lay_out, line_of, run_outside_ci
from test_interrupts import LENIENT, Started

# The verdict's plumbing is tested here, on machines that may be busy: changes are large, and so are margins.
PLAN = """
model: embedded
servers:
  old: {engine: embedded, args: {step: modelled, decode-ms-per-step: 3, max-num-seqs: 4}}
  same: {engine: embedded, args: {step: modelled, decode-ms-per-step: 3, max-num-seqs: 4}}
  slow: {engine: embedded, args: {step: modelled, decode-ms-per-step: 20, max-num-seqs: 4}}
  big: {engine: embedded, gpus: 99}
  half: {engine: embedded, args: {dtype: half}, unlocked: [dtype]}
loads:
  short: {input_tokens: 8, output_tokens: 4, concurrency: 4, requests: 30, warmup_requests: 1}
  rate: {input_tokens: 8, output_tokens: 4, request_rate: 200, requests: 30, warmup_requests: 1}
margins: {itl_p50: 60 %, itl_mean: 60 %, ttft_p50: 900 %, ttft_mean: 900 %, output_token_throughput: 90 %}
"""
TEST = """
@pytest.mark.llmperf(plan="plan.yaml", duet={duet}, {more})
def {name}(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
    assert len(result.reference.runs) == len(result.runs)
"""


def function(name: str, old: str, new: str, more: str = 'loads=["short"]') -> str:
    return TEST.format(name=name, duet={"a": old, "b": new}, more=more)


def write(suite, *functions: str, plan: str = PLAN) -> None:
    suite.write(plan=plan, test="\n".join(["import pytest", *functions]))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """One session of three duets, with an option that records baselines."""
    folder: Path = tmp_path_factory.mktemp("duet")
    functions = [
        function("test_slower", "old", "slow"),
        function("test_faster", "slow", "old"),
        function("test_equal", "old", "same", "runs=1"),
    ]
    lay_out(folder, PLAN, "\n".join(["import pytest", *functions]))
    options = ["--llmperf-output=out", "--update-baselines", "--junitxml=junit.xml", "-rA"]
    done = run_outside_ci(folder, *options)
    points = json.loads((folder / "out" / "report.json").read_text())["points"]
    return SimpleNamespace(folder=folder, output=done.stdout, points={p["test"].partition("::")[2]: p for p in points})


def test_a_slower_server_fails_against_the_old_one(judged):
    point = judged.points["test_slower[old-vs-slow-short]"]
    assert point["regression"]["verdict"] == "FAIL", judged.output
    assert {metric["reference"] for metric in point["regression"]["metrics"]} == {"duet"}
    assert ": FAIL against old\n" in judged.output
    assert "note: decode-ms-per-step was 3, is 20" in judged.output
    assert "next: look for what slow does that old does not" in judged.output


def test_a_faster_server_is_improved(judged):
    point = judged.points["test_faster[slow-vs-old-short]"]
    assert (point["regression"]["verdict"], point["passed"]) == ("IMPROVED", True)
    assert "IMPROVED slow-vs-old-short: ITL p50 -" in judged.output
    assert "--llmperf-accept" not in judged.output


def test_equal_servers_do_not_fail(judged):
    for load in ("short", "rate"):
        point = judged.points[f"test_equal[old-vs-same-{load}]"]
        assert point["passed"], judged.output
        assert len(point["runs"]) >= 3, "though the marker asks for one"


def test_a_slower_server_in_a_report_warns_at_the_tests_line(suite):
    write(suite, function("test_slower", "old", "slow"))
    result = suite.run("--llmperf-gate=report-only", "-Werror")
    result.assert_outcomes(passed=1, warnings=1)
    where = line_of((suite.pytester.path / "test_perf.py").read_text(), "baseline.check")
    result.stdout.fnmatch_lines([f"*{where}: ReportOnlyWarning: old-vs-slow-short: *: FAIL against old"])


def test_runs_take_turns_in_both_orders(judged):
    point = judged.points["test_slower[old-vs-slow-short]"]
    runs = [(run["started"], "A") for run in point["duet"]["runs"]] + [(run["started"], "B") for run in point["runs"]]
    order = "".join(side for _, side in sorted(runs))
    assert order == ("ABBA" * len(order))[: len(order)]
    assert len(order) >= 8, "a FAIL has at least four runs of each side"


def test_loads_of_a_duet_take_turns_too(judged):
    short, rate = (judged.points[f"test_equal[old-vs-same-{load}]"] for load in ("short", "rate"))
    assert short["runs"][0]["started"] < rate["runs"][0]["started"] < short["runs"][1]["started"]


def test_both_servers_are_in_the_report(judged):
    point = judged.points["test_slower[old-vs-slow-short]"]
    assert point["id"] == "old-vs-slow-short"
    assert (point["server"]["name"], point["duet"]["server"]["name"]) == ("slow", "old")
    assert point["metrics"]["itl_ms"]["p50"] > 2 * point["duet"]["metrics"]["itl_ms"]["p50"]
    requests = judged.folder / "out" / "requests"
    for end, block in ((".jsonl", point), (".old.jsonl", point["duet"])):
        lines = (requests / f"test_perf.py.test_slower-old-vs-slow-short{end}").read_text().splitlines()
        assert len({json.loads(line)["run"] for line in lines}) == len(block["runs"])
    assert {path.name for path in (judged.folder / "out" / "servers").iterdir()} >= {"old.log", "slow.log"}


def test_both_servers_are_in_the_table_and_in_junit(judged):
    assert "\n old-vs-slow-sh" in judged.output
    assert "\n   against old " in judged.output
    found = ElementTree.parse(judged.folder / "junit.xml").iter("property")
    values = [(one.get("name"), one.get("value")) for one in found]
    assert ("llmperf.duet", "old") in values
    assert "llmperf.duet.itl_ms.p50" in dict(values)
    assert ("llmperf.regression", "FAIL") in values


def test_update_options_record_nothing_and_say_so(judged):
    assert not (judged.folder / "baselines").exists()
    assert (
        "--llmperf-update-baselines: nothing to record for duets, which have no baseline; they are judged as ever"
        in judged.output
    )


def test_ids_can_be_selected(suite):
    write(suite, function("test_serving", "old", "slow", ""))
    result = suite.run("--collect-only", "-q", "-k", "old-vs-slow-short")
    result.stdout.fnmatch_lines(["test_perf.py::test_serving?old-vs-slow-short?", "1/2 tests collected*"])


@pytest.mark.parametrize(
    ("duet", "more", "message"),
    [
        ({"a": "old", "b": "slo"}, "", "*test_perf.py: the plan has no server 'slo'; did you mean 'slow'?"),
        (
            {"a": "old", "b": "old"},
            "",
            "*test_perf.py: *marker's duet needs two servers, given 'old' for both",
        ),
        (
            {"a": "old"},
            "",
            "*test_perf.py: *marker's duet needs the old server and the new one, as in *'a'*",
        ),
        ({"a": "old", "b": 3}, "", "*test_perf.py: *marker's duet needs the old server*"),
        (
            {"a": "old", "b": "slow", "c": "same"},
            "",
            "*marker's duet needs the old server*",
        ),
        ("old", "", "*the llmperf marker's duet needs the old server and the new one*given 'old'"),
        ({"a": "old", "b": "slow"}, 'servers=["old"]', "*the llmperf marker's duet names its servers itself; *"),
        (
            {"a": "old", "b": "half"},
            "",
            "*duet: old and half differ in arguments that change *output*dtype*",
        ),
    ],
)
def test_mistakes_are_named_with_the_file(suite, duet, more, message):
    write(suite, TEST.format(name="test_serving", duet=repr(duet), more=more))
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(("option", "outcome"), [((), "skipped"), (("--llmperf-strict",), "errors")])
def test_too_few_gpus_for_both(suite, option, outcome):
    write(suite, function("test_serving", "old", "big"))
    result = suite.run("-rs", *option)
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*old and big up at the same time need 0 + 99 GPUs, found *"])


def test_a_dry_run_shows_both_commands(suite):
    write(suite, function("test_serving", "old", "slow"))
    suite.run("--llmperf-dry-run").stdout.fnmatch_lines(
        [
            "old-vs-slow: both up at the same time, measured in turns",
            "old: 0 GPUs needed",
            "*--decode-ms-per-step 3*",
            "slow: 0 GPUs needed",
            "*--decode-ms-per-step 20*",
            "  short: *3 runs x 30 requests*on each",
        ]
    )


@pytest.mark.parametrize("dying", ["old", "same"])
def test_a_server_that_dies_ends_the_duet_with_its_name(suite, dying):
    """In its second run; what was measured before is kept."""
    line = f"  {dying}: {{engine: embedded, args: {{"
    write(suite, function("test_serving", "old", "same"), plan=edited(PLAN, line, f"{line}fault-die-after: 50, "))
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*ServerError: server '{dying}' died; exit code *"])
    (point,) = suite.report()["points"]
    assert f"server '{dying}' died" in point["error"]
    assert {len(point["runs"]), len(point["duet"]["runs"])} <= {1, 2}
    assert point["duet"]["runs"][0]["metrics"]["requests"]["failed"] == 0


def test_an_interrupt_keeps_what_was_measured_of_both(suite):
    plan = edited(PLAN, "requests: 30", "requests: 40")
    write(suite, function("test_serving", "old", "same", 'loads=["short"], runs=50'), plan=plan)
    started = Started(suite, *LENIENT)
    started.wait_for("a run is over")
    output = started.end_with(2)
    assert started.process.returncode == pytest.ExitCode.INTERRUPTED, output
    (point,) = suite.report()["points"]
    assert point["error"] == "interrupted"
    assert point["duet"]["runs"][0]["metrics"]["requests"]["sent"] == 40
