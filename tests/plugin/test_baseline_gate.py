"""The baseline gate from outside: record, compare, refuse."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from perf_suite import INI, PLAN, TEST, edited, lay_out, line_of, run_outside_ci

POINT = ("-k", "tp1pp1-short")


STEP = ("decode-ms-per-step: 1, ", "decode-ms-per-step: 4, ")
FOUR_AT_ONCE = ("concurrency: 2, requests: 10", "concurrency: 4, requests: 24")
# The verdict's plumbing is tested here, on machines that may be busy: changes are large, and so are margins.
WIDE = "margins: {itl_p50: 200 %, itl_mean: 200 %, ttft_p50: 900 %, ttft_mean: 900 %, output_token_throughput: 200 %}\n"
ANYTHING = edited(edited(WIDE, "200 %", "9999 %"), "900 %", "9999 %")
SLOWER = ("decode-ms-per-step: 4, ", "decode-ms-per-step: 40, ")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A folder of baselines for one point, recorded once for all tests here."""
    folder = tmp_path_factory.mktemp("recording")
    lay_out(folder, edited(edited(PLAN, *STEP), *FOUR_AT_ONCE), TEST)
    done = run_outside_ci(folder, *POINT, "--llmperf-update-baselines")
    assert done.returncode == 0, done.stdout
    return folder / "baselines"


@pytest.fixture
def recorded(suite, recording):
    """A suite that has that baseline, and the server that it was recorded with."""
    suite.edit_plan(*STEP)
    suite.edit_plan(*FOUR_AT_ONCE)
    suite.edit_plan("sla:", f"{WIDE}sla:")
    shutil.copytree(recording, suite.pytester.path / "baselines")
    return suite


def test_a_missing_baseline_fails_and_names_the_flag(suite):
    result = suite.run(*POINT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no baseline for this point in this environment*--llmperf-update-baselines*"])
    assert suite.baselines() == []


def test_an_unchanged_server_passes(recorded):
    recorded.run(*POINT).assert_outcomes(passed=1)
    # On a busy machine doubt may remain, and a recording made beside other work be beaten.
    assert recorded.points()["tp1pp1-short"]["regression"]["verdict"] in {"PASS", "INCONCLUSIVE", "IMPROVED"}


def test_a_slower_configuration_fails_with_metric_values_and_margin(recorded):
    recorded.edit_plan(*SLOWER)
    result = recorded.run(*POINT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*tp1pp1-short: ITL p50 +* %, * and * more: FAIL against the baseline",
            "*FAIL ITL p50 +* %: * ms, baseline * ms (90 % interval +* % to +* %, tolerated 200 %)",
            "* baseline |[x2-5]*····*|",
            "* now |*",
            "* ms * ms  (x: a run, 2: two runs)",
            "*against the baseline of * UTC*: 1 session, 5 runs; the baseline is provisional: *",
            "*note: decode-ms-per-step was 4, is 40*",
            "*this machine: load average * cores, other processes took * cores*",
            "*next: look for what changed*--llmperf-accept*",
            "FAILED test_perf.py::test_serving*tp1pp1-short* - ITL p50 +* %, *",
            "*= llmperf =*",
            "1 point: 1 FAIL",
            "FAIL tp1pp1-short: ITL p50 +* %: * ms, baseline * ms*",
            "report: *",
        ]
    )
    point = recorded.points()["tp1pp1-short"]
    assert point["regression"]["verdict"] == "FAIL"
    verdicts = {metric["quantity"]: metric["verdict"] for metric in point["regression"]["metrics"]}
    assert verdicts["itl_mean"] == "FAIL"
    assert verdicts["output_token_throughput"] == "FAIL"
    assert verdicts["ttft_p99"] == "NOT GATED"


@pytest.mark.parametrize("order", [("sla", "baseline"), ("baseline", "sla")])
def test_one_assertion_lists_limits_and_regression_whichever_is_asked_first(recorded, order):
    recorded.edit_plan(*SLOWER)
    recorded.edit_plan('error_rate: "<= 0"', 'itl_p50: "<= 1 ms"')
    calls = [f"    {name}.check(result)\n" for name in order]
    recorded.write(test=edited(TEST, "    sla.check(result)\n    baseline.check(result)\n", "".join(calls)))
    result = recorded.run(*POINT, "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: tp1pp1-short: ITL p50 is * ms; the limit is at most 1 ms: FAIL against the SLA; *",
            "*FAIL itl_p50: * ms, limit <= 1 ms*",
            "*FAIL ITL p50 +* %: * ms, baseline * ms *",
        ]
    )
    point = recorded.points()["tp1pp1-short"]
    assert (point["sla"]["verdict"], point["regression"]["verdict"]) == ("FAIL", "FAIL")
    assert "Captured stderr (llm server)" not in result.stdout.str()
    message = ElementTree.parse(recorded.pytester.path / "junit.xml").getroot().find(".//failure").get("message")
    assert message.startswith("ITL p50 is ")
    assert "FAIL ITL p50 +" in message


def _multiply_inter_token_latencies(suite, *factors):
    """Of the baseline's runs, and let only their median be judged."""
    (path,) = suite.baselines()
    baseline = json.loads(path.read_text())
    for run, factor in zip(baseline["sessions"][0]["launches"][0], factors, strict=True):
        itl = run["distributions"]["itl_ms"]
        itl.update({name: factor * value for name, value in itl.items() if name != "n"})
    path.write_text(json.dumps(baseline))
    suite.edit_plan(WIDE, edited(ANYTHING, "itl_p50: 9999 %", "itl_p50: 30 %"))


def test_a_server_that_was_much_slower_is_improved(recorded):
    _multiply_inter_token_latencies(recorded, 10, 10, 10, 10, 10)
    result = recorded.run(*POINT)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["IMPROVED tp1pp1-short: ITL p50 -* %: *", "*accept the new level with --llmperf-accept"]
    )


def test_a_change_within_the_plans_margins_passes(recorded):
    recorded.edit_plan("decode-ms-per-step: 4, ", "decode-ms-per-step: 5, ")
    recorded.run(*POINT).assert_outcomes(passed=1)


def test_the_file_holds_runs_and_environment(recorded):
    (path,) = recorded.baselines()
    assert path.relative_to(recorded.pytester.path).parts == (
        *("baselines", "simulated-embedded", "test_perf", "test_serving-tp1pp1-short.json"),
    )
    data = json.loads(path.read_text())
    assert data["schema"] == "llmperf.baseline/2"
    (session,) = data["sessions"]
    assert session["environment"]["cpu_cores"] > 0
    assert session["environment"]["simulated"] is True
    assert data["identity"]["trace_hash"]
    assert [len(launch) for launch in session["launches"]] == [5], "though the plan asks for 2"
    assert path.read_text().endswith("}\n")


def test_a_changed_load_is_not_comparable(recorded):
    recorded.edit_plan("output_tokens: 4, concurrency", "output_tokens: 5, concurrency")
    result = recorded.run(*POINT)
    result.assert_outcomes(failed=1)
    sentence = "*is not comparable: output_tokens was 4, is 5. If the change is meant*"
    result.stdout.fnmatch_lines([f"llmperf: tp1pp1-short: baseline {sentence}", sentence])


def test_another_way_of_measuring_the_same_load_is_told(recorded):
    recorded.edit_plan("concurrency: 4,", "stream_usage: last-chunk, concurrency: 4,")
    recorded.run(*POINT).assert_outcomes(passed=1)
    notes = recorded.points()["tp1pp1-short"]["regression"]["notes"]
    assert "stream_usage was 'every-chunk', is 'last-chunk'" in notes


def test_another_endpoint_is_not_comparable_and_says_so(recorded):
    recorded.edit_plan("concurrency: 4,", "endpoint: completions, concurrency: 4,")
    result = recorded.run(*POINT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is not comparable: *endpoint was 'chat', is 'completions'*"])


DEAD = """
from dataclasses import replace

import pytest
from pytest_llmperf.metrics.result import make_result

def dead(run):
    \"\"\"The run, had all of its requests failed.\"\"\"
    lost = dict(chunk_ns=(), chunk_tokens=None, first_output_ns=None, output_tokens=None, error="HTTP 500")
    return replace(run, index=2, records=tuple(replace(r, **lost) if r.phase == "measured" else r for r in run.records))

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    found = load_driver.run(llm_server, load_point)
    runs = (*found.runs, dead(found.runs[0]))
    sla.check(make_result(found.point_id, found.server, found.load, found.environment, runs))
"""


def test_a_run_without_a_value_fails_the_limit(suite):
    """Many failed requests are allowed, and what the others say keeps the limit."""
    suite.write(test=DEAD)
    suite.edit_plan('sla: {error_rate: "<= 0"}', 'sla: {error_rate: "<= 50 %", ttft_p99: "<= 1 h"}')
    result = suite.run(*POINT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*TTFT p99 has no value in 1 of 3 runs*: FAIL against the SLA",
            "*ttft_p99: no value in 1 of 3 runs, limit <= *",
        ]
    )
    (check,) = [one for one in suite.points()["tp1pp1-short"]["sla"]["checks"] if one["quantity"] == "ttft_p99"]
    assert (check["verdict"], check["value"], check["reason"]) == ("FAIL", None, "no value in 1 of 3 runs")


ALIKE = """
import pytest

@pytest.mark.parametrize("how", ["a/b", "a-b", "a b"])
@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, baseline, how):
    baseline.check(load_driver.run(llm_server, load_point))
"""


def test_tests_whose_names_differ_in_a_slash_have_a_baseline_each(suite):
    suite.write(test=ALIKE)
    suite.run(*POINT, "--llmperf-update-baselines").assert_outcomes(passed=3)
    held = {json.loads(path.read_text())["test"] for path in suite.baselines()}
    assert held == {f"test_perf.py::test_serving[tp1pp1-short-{how}]" for how in ("a/b", "a-b", "a b")}
    assert len(list((suite.output / "requests").iterdir())) == 3


@pytest.mark.parametrize("option", [(), ("--llmperf-accept",), ("--llmperf-update-baselines",)])
def test_the_baseline_of_another_test_is_refused(recorded, option):
    (path,) = recorded.baselines()
    text = edited(path.read_text(), "test_serving[", "test_other[")
    path.write_text(text)
    result = recorded.run(*POINT, *option)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is that of test_perf.py::test_other[[]*, not of test_perf.py::test_serving[[]*"])
    assert path.read_text() == text


def test_a_damaged_file_fails_and_is_named(recorded):
    (path,) = recorded.baselines()
    path.write_text(path.read_text()[:200])
    result = recorded.run(*POINT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{path.name}*"])


def test_a_newer_schema_fails_and_says_so(recorded):
    (path,) = recorded.baselines()
    path.write_text(edited(path.read_text(), "llmperf.baseline/2", "llmperf.baseline/99"))
    recorded.run(*POINT).stdout.fnmatch_lines(["*has schema 'llmperf.baseline/99'*"])


@pytest.mark.parametrize("allowed", ["", "sla: {error_rate: '<= 50 %'}\n"])
def test_a_server_that_refuses_requests_passes_no_baseline_unless_a_limit_allows_it(suite, allowed):
    suite.edit_plan("max-num-seqs: 4}}\n  tp4", "max-num-seqs: 4, fault-status-every: 4}}\n  tp4")
    suite.edit_plan('sla: {error_rate: "<= 0"}\n', allowed)
    suite.write(test=edited(TEST, "    sla.check(result)\n", ""))
    result = suite.run("-k", "tp1pp1-rate-100rps", "--llmperf-update-baselines", "--llmperf-runs=1")
    result.assert_outcomes(failed=not allowed, passed=bool(allowed))
    assert len(suite.baselines()) == bool(allowed)
    result.stdout.fnmatch_lines(["*of 50 requests failed: * x HTTP 503: *"])


def test_a_failed_test_never_writes(suite):
    suite.edit_plan('error_rate: "<= 0"', 'ttft_p99: "<= 1 us"')
    suite.run(*POINT, "--llmperf-update-baselines").assert_outcomes(failed=1)
    assert suite.baselines() == []


def test_a_test_that_fails_after_its_check_never_writes(suite):
    suite.write(test=(suite.pytester.path / "test_perf.py").read_text() + "    assert False\n")
    suite.run(*POINT, "--llmperf-update-baselines").assert_outcomes(failed=1)
    assert suite.baselines() == []


def _sessions(suite):
    (path,) = suite.baselines()
    return json.loads(path.read_text())["sessions"]


def test_an_update_adds_the_first_runs_of_a_session_that_passes(recorded):
    recorded.edit_plan(WIDE, ANYTHING)
    result = recorded.run(*POINT, "--update-baselines", "--llmperf-runs=4")
    result.assert_outcomes(passed=1)
    assert recorded.points()["tp1pp1-short"]["regression"]["verdict"] == "PASS"
    result.stdout.fnmatch_lines(["session added to baseline *tp1pp1-short.json*"])
    assert [sum(map(len, session["launches"])) for session in _sessions(recorded)] == [5, 3]


def test_an_update_adds_nothing_that_fails(recorded):
    before = _sessions(recorded)
    recorded.edit_plan(*SLOWER)
    recorded.run(*POINT, "--update-baselines").assert_outcomes(failed=1)
    assert _sessions(recorded) == before


def test_a_new_level_is_accepted_whatever_the_verdict(recorded):
    before = _sessions(recorded)
    recorded.edit_plan(*SLOWER)
    result = recorded.run(*POINT, "--llmperf-accept")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["accepted baseline *tp1pp1-short.json*"])
    after = _sessions(recorded)
    assert len(after) == 1
    assert after != before
    recorded.run(*POINT).assert_outcomes(passed=1)


def test_an_accepted_level_takes_as_many_runs_as_a_baseline(recorded):
    """A budget that ends before them leaves the old baseline as it is."""
    before = _sessions(recorded)
    result = recorded.run(*POINT, "--llmperf-accept", "--llmperf-budget=10ms")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the result has 2 runs; a baseline takes 5, so nothing was recorded"])
    assert _sessions(recorded) == before


def test_a_budget_that_ends_before_a_baseline_is_whole_leaves_none(suite):
    suite.run(*POINT, "--llmperf-update-baselines", "--llmperf-budget=10ms").assert_outcomes(failed=1)
    assert suite.baselines() == []


@pytest.fixture
def undecidable(recorded):
    """A baseline whose runs are so far apart that no number of further runs settles it."""
    _multiply_inter_token_latencies(recorded, 0.05, 20, 0.05, 20, 1)
    return recorded


@pytest.mark.parametrize(("option", "outcome"), [(None, "passed"), ("fail", "failed"), ("xfail", "xfailed")])
def test_what_becomes_of_doubt(undecidable, option, outcome):
    result = undecidable.run(*POINT, *([f"--llmperf-inconclusive={option}"] if option else []))
    assert undecidable.points()["tp1pp1-short"]["regression"]["verdict"] == "INCONCLUSIVE"
    result.assert_outcomes(**{outcome: 1}, warnings=1 if option is None else 0)
    result.stdout.fnmatch_lines(["tp1pp1-short: 10 more runs", "* tp1pp1-short: ITL p50 *"])
    assert len(undecidable.points()["tp1pp1-short"]["runs"]) == 12


DOUBT = """
from pytest_llmperf.gate.judge import Judge
from pytest_llmperf.metrics.stats.compliance import SlaCheck

Judge.sla = lambda self, result: tuple(SlaCheck(one, 0.0, 1, "INCONCLUSIVE") for one in result.load.sla)
"""


@pytest.mark.parametrize(
    ("first", "change", "told"),
    [
        ("sla", SLOWER, "*ITL p50 +*: FAIL against the baseline"),
        (
            "sla",
            ("output_tokens: 4, concurrency", "output_tokens: 5, concurrency"),
            "*is not comparable: output_tokens was 4, is 5*",
        ),
        ("baseline", ('error_rate: "<= 0"', 'itl_p50: "<= 1 us"'), "*: FAIL against the SLA; *"),
    ],
    ids=["slower", "not comparable", "limit"],
)
def test_doubt_of_one_gate_hides_no_failure_of_the_other(recorded, first, change, told):
    """An xfail ends the test before the other gate is asked."""
    words = ["--llmperf-inconclusive=xfail"]
    recorded.edit_plan(*change)
    if first == "sla":
        conftest = recorded.pytester.path / "conftest.py"
        conftest.write_text(conftest.read_text() + DOUBT)
    else:
        _multiply_inter_token_latencies(recorded, 0.05, 20, 0.05, 20, 1)
        words.append("--llmperf-budget=10ms")
        checks = "    sla.check(result)\n", "    baseline.check(result)\n"
        recorded.write(test=edited(TEST, "".join(checks), "".join(reversed(checks))))
    result = recorded.run_apart(*POINT, *words)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([told])


def test_doubt_warns_at_the_tests_line(undecidable):
    result = undecidable.run(*POINT, "--llmperf-budget=10ms", "-Werror")
    result.assert_outcomes(passed=1, warnings=1)
    where = line_of(TEST, "baseline.check")
    result.stdout.fnmatch_lines([f"*{where}: InconclusiveWarning: tp1pp1-short: *: INCONCLUSIVE against the baseline*"])


def test_a_budget_ends_the_runs_and_names_what_is_undecided(undecidable):
    result = undecidable.run(*POINT, "--llmperf-budget=10ms")
    result.stdout.fnmatch_lines(["the budget of 0.01 s is spent; undecided: tp1pp1-short"])
    assert len(undecidable.points()["tp1pp1-short"]["runs"]) == 2
    assert undecidable.report()["notes"] == ["the budget of 0.01 s is spent; undecided: tp1pp1-short"]


@pytest.mark.parametrize("where", ["option", "plan"])
def test_a_report_never_fails(recorded, where):
    recorded.edit_plan(*SLOWER)
    if where == "plan":
        recorded.edit_plan("sla:", "gate: report-only\nsla:")
    result = recorded.run(*POINT, *(["--llmperf-gate=report-only"] if where == "option" else []), "-Werror")
    result.assert_outcomes(passed=1, warnings=1)
    assert recorded.points()["tp1pp1-short"]["regression"]["verdict"] == "FAIL"
    result.stdout.fnmatch_lines(
        [f"*{line_of(TEST, 'baseline.check')}: ReportOnlyWarning: tp1pp1-short: *: FAIL against the baseline"]
    )


def test_a_report_of_refused_requests_never_fails(suite):
    suite.edit_plan("max-num-seqs: 4}}\n  tp4", "max-num-seqs: 4, fault-status-every: 4}}\n  tp4")
    suite.write(test=edited(edited(TEST, "    sla.check(result)\n", ""), ", sla", ""))
    recording = ("-k", "tp1pp1-rate-100rps", "--llmperf-update-baselines", "--llmperf-gate=report-only")
    result = suite.run(*recording, "--llmperf-runs=1", "-Werror")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*test_perf.py:*: ReportOnlyWarning: tp1pp1-rate-100rps: too many requests failed*"])


def test_a_report_without_a_verdict_never_fails(undecidable):
    result = undecidable.run(*POINT, "--llmperf-gate=report-only", "--llmperf-inconclusive=fail", "--llmperf-runs=2")
    assert undecidable.points()["tp1pp1-short"]["regression"]["verdict"] == "INCONCLUSIVE"
    result.assert_outcomes(passed=1, warnings=1)


def test_limits_in_doubt_warn_at_the_tests_line(suite):
    suite.edit_plan("max-num-seqs: 4}}\n  tp4", "max-num-seqs: 4, fault-status-every: 3}}\n  tp4")
    suite.edit_plan('error_rate: "<= 0"', 'error_rate: "<= 50 %"')
    suite.write(test=edited(edited(TEST, "    baseline.check(result)\n", ""), ", baseline", ""))
    result = suite.run("-k", "tp1pp1-rate-100rps", "--llmperf-budget=10ms", "-Werror")
    assert suite.points()["tp1pp1-rate-100rps"]["sla"]["verdict"] == "INCONCLUSIVE"
    result.assert_outcomes(passed=1, warnings=1)
    where = line_of(TEST, "sla.check")
    result.stdout.fnmatch_lines([f"*{where}: InconclusiveWarning: tp1pp1-rate-100rps: INCONCLUSIVE against the SLA*"])


@pytest.mark.parametrize("where", ["marker", "ini"])
def test_margins_of_marker_and_ini(recorded, where):
    recorded.edit_plan(*SLOWER)
    wide = dict.fromkeys(("itl_p50", "itl_mean", "ttft_p50", "ttft_mean", "output_token_throughput"), "9999 %")
    if where == "marker":
        recorded.write(test=edited(TEST, 'plan="plan.yaml"', f'plan="plan.yaml", margins={wide}'))
    else:
        recorded.edit_plan(WIDE, "")
        lines = "".join(f"\n    {name}={margin}" for name, margin in wide.items())
        recorded.pytester.makeini(f"{INI}llmperf_margins ={lines}\n")
    recorded.run(*POINT).assert_outcomes(passed=1)
    margins = {m["quantity"]: m["margin"] for m in recorded.points()["tp1pp1-short"]["regression"]["metrics"]}
    assert margins["itl_p50"] == pytest.approx(99.99)


@pytest.mark.parametrize(
    ("test", "ini", "message"),
    [
        ('margins={"itl_p51": "3 %"}', "", "*the llmperf marker's margins: *itl_p51*did you mean*"),
        ("margins=3", "", "*the llmperf marker's margins: a mapping of metrics to margins is needed*given 3"),
        ("", "llmperf_margins = itl_p50=much\n", "*ini llmperf_margins: *'much'*"),
    ],
)
def test_margins_that_are_none(suite, test, ini, message):
    suite.write(test=edited(TEST, 'plan="plan.yaml"', f'plan="plan.yaml", {test}'))
    suite.pytester.makeini(INI + ini)
    result = suite.run(*POINT)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--llmperf-gate=lax", "*--llmperf-gate (ini llmperf_gate): 'lax' is not one of default, strict, report-only"),
        ("--llmperf-inconclusive=no", "*--llmperf-inconclusive *'no' is not one of pass, fail, xfail"),
        ("--llmperf-relaunch=now", "*--llmperf-relaunch *'now' is not one of auto, never, always"),
        (
            "--llmperf-budget=20",
            "*--llmperf-budget (ini llmperf_budget): '20' has no unit; write it as one of: *20 min*",
        ),
        ("--llmperf-gpu-wait=x", "*--llmperf-gpu-wait (ini llmperf_gpu_wait): 'x' is not a number with a unit*"),
        ("--llmperf-gpu-busy=300%", "*--llmperf-gpu-busy *'300%' is more than all of it*"),
        ("--llmperf-gpu-busy=-5%", "*--llmperf-gpu-busy *'-5%' is less than nothing; write a share from 0% to 100%"),
        ("--llmperf-gate=strict,report-only", "*'strict,report-only' is not one of default, strict, report-only"),
        ("--llmperf-inconclusive=fail,xfail", "*'fail,xfail' is not one of pass, fail, xfail"),
        ("--llmperf-dialect=vllm,aiperf", "*'vllm,aiperf' is not one of vllm, *"),
    ],
)
def test_options_that_are_none(suite, option, message):
    result = suite.run(*POINT, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_server_is_launched_anew_for_every_run_if_asked_for(suite):
    suite.run(*POINT, "--llmperf-update-baselines", "--llmperf-relaunch=always").assert_outcomes(passed=1)
    assert [run["launch"] for run in suite.points()["tp1pp1-short"]["runs"]] == [1, 2, 3, 4, 5]
    (session,) = _sessions(suite)
    assert [len(launch) for launch in session["launches"]] == [1] * 5


@pytest.mark.parametrize("variable", ["CI", "BUILD_NUMBER"])
@pytest.mark.parametrize("flag", ["--llmperf-update-baselines", "--llmperf-accept"])
def test_an_update_in_ci_is_refused(suite, monkeypatch, variable, flag):
    monkeypatch.setenv(variable, "true")
    result = suite.run(*POINT, flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{flag} is refused in CI ({variable} is set)*--llmperf-allow-ci-update*"])


@pytest.mark.parametrize(("selection", "told"), [((), True), (("-k", "not tp4pp2"), False)])
def test_a_baseline_that_no_test_asks_for_is_told_after_a_full_run(recorded, selection, told):
    recorded.edit_plan("  short: ", "  brief: ")
    recorded.edit_plan(
        '  rate: {input_tokens: 8, output_tokens: 4, request_rate: {sweep: "100:200"}',
        "  slow: {input_tokens: 8, output_tokens: 4, request_rate: 100",
    )
    result = recorded.run(*selection, "--llmperf-gate=report-only", "--llmperf-runs=1", "--llmperf-budget=1ms")
    assert ("no test asks for baseline" in result.stdout.str()) is told
    assert any("test_serving-tp1pp1-short.json" in note for note in recorded.report()["notes"]) is told


def test_an_update_in_ci_can_be_meant(suite, monkeypatch):
    monkeypatch.setenv("CI", "true")
    suite.run(*POINT, "--llmperf-update-baselines", "--llmperf-allow-ci-update").assert_outcomes(passed=1)
    assert len(suite.baselines()) == 1


def test_update_new_records_what_is_missing_and_compares_the_rest(recorded):
    (path,) = recorded.baselines()
    before = path.read_text()
    recorded.edit_plan(*SLOWER)
    result = recorded.run("-k", "short", "--llmperf-update-new")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines_random(["new baseline *tp4pp2-short.json", "FAILED *tp1pp1-short*"])
    assert path.read_text() == before
    assert len(recorded.baselines()) == 2


def test_update_new_in_ci_is_refused(suite, monkeypatch):
    monkeypatch.setenv("CI", "1")
    result = suite.run(*POINT, "--llmperf-update-new")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmperf-update-new is refused in CI (CI is set)*"])


def test_an_empty_ci_variable_is_no_ci(suite, monkeypatch):
    monkeypatch.setenv("CI", "")
    suite.run(*POINT, "--llmperf-update-baselines").assert_outcomes(passed=1)


def test_missing_baseline_can_be_skipped_on_purpose(suite):
    test = (suite.pytester.path / "test_perf.py").read_text()
    suite.write(test=edited(test, "baseline.check(result)", 'baseline.check(result, missing="skip")'))
    suite.run(*POINT).assert_outcomes(passed=1)
    assert suite.points()["tp1pp1-short"]["regression"]["verdict"] == "NOT CHECKED"


def test_an_invalid_run_passes_neither_sla_nor_baseline(suite):
    shorter = "output_tokens: 100, extra_body: {max_completion_tokens: 60}, concurrency: 2"
    suite.edit_plan("output_tokens: 4, concurrency: 2", shorter)
    result = suite.run(*POINT, "--llmperf-update-baselines")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*INVALID, so neither limits nor baseline can pass", "*other than the 100 output tokens*"]
    )
    assert suite.baselines() == []


def test_a_relative_baseline_folder_counts_from_where_pytest_was_started(suite):
    suite.run(*POINT, "--llmperf-update-baselines", "--llmperf-baselines=elsewhere").assert_outcomes(passed=1)
    assert (suite.pytester.path / "elsewhere" / "simulated-embedded").is_dir()


def test_what_cannot_be_compared_is_told_before_anything_is_measured(recorded):
    (path,) = [path for path in recorded.baselines() if path.stem.endswith("tp1pp1-short")]
    elsewhere = recorded.pytester.path / "baselines" / "h200x1-vllm" / path.name
    elsewhere.parent.mkdir()
    path.rename(elsewhere)
    told = f"llmperf: tp1pp1-short: no baseline for this point * of this name there is {elsewhere}; record it with *"
    recorded.run(*POINT, "--llmperf-dry-run").stdout.fnmatch_lines([told, "in all: 1 start, 2 runs, *"])
    path.write_text("{}")
    told = "llmperf: tp1pp1-short: baseline *tp1pp1-short.json is damaged *"
    recorded.run(*POINT, "--llmperf-dry-run", "-q").stdout.fnmatch_lines([told])
    quiet = recorded.run(*POINT, "--llmperf-dry-run", "--llmperf-accept")
    quiet.stdout.no_fnmatch_line("*tp1pp1-short.json*")


def test_a_dry_run_knows_from_the_baseline_how_long_it_takes(recorded):
    recorded.run(*POINT, "--llmperf-dry-run").stdout.fnmatch_lines(
        ["in all: 1 start, 2 runs, * requests, about * s of load"]
    )
