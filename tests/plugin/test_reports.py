"""What a run leaves behind: JUnit properties, JSON, request lines, terminal table."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from perf_suite import TEST, edited


def _properties(suite, name: str) -> dict[str, str]:
    root = ElementTree.parse(suite.pytester.path / "junit.xml").getroot()
    case = next(case for case in root.iter("testcase") if case.get("name") == name)
    return {prop.get("name"): prop.get("value") for prop in case.iter("property")}


def test_junit_has_flat_properties_with_units(suite):
    suite.run("-k", "tp1pp1-short", "--junitxml=junit.xml", "--llmperf-update-baselines").assert_outcomes(passed=1)
    properties = _properties(suite, "test_serving[tp1pp1-short]")
    assert float(properties["llmperf.ttft_ms.p99"]) > 0
    assert float(properties["llmperf.itl_ms.mean"]) > 0
    assert float(properties["llmperf.output_token_throughput_tok_s"]) > 0
    assert properties["llmperf.itl_ms.n"] == "50", "five runs of 10: what a baseline takes"
    assert properties["llmperf.requests.failed"] == "0"
    assert properties["llmperf.simulated"] == "True"
    assert properties["llmperf.sla"] == "PASS"
    assert properties["llmperf.valid"] == "True"


def test_junit_of_a_failed_test_has_its_numbers_too(suite):
    suite.edit_plan('error_rate: "<= 0"', 'ttft_p99: "<= 1 us", e2e_p50: "<= 1 us", error_rate: "<= 0"')
    result = suite.run("-k", "tp1pp1-short", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*tp1pp1-short: TTFT p99 is * ms; the limit is at most 0.001 ms, and 1 more: FAIL against the SLA",
            "*ttft_p99: * ms, limit <= 0.001 ms (+*%), n = 20",
            "*e2e_p50: *",
        ]
    )
    properties = _properties(suite, "test_serving[tp1pp1-short]")
    assert properties["llmperf.sla"] == "FAIL"
    assert float(properties["llmperf.ttft_ms.p50"]) > 0


def test_json_report_follows_the_schema(suite):
    suite.run("-k", "short", "--llmperf-update-baselines", f"--llmperf-json={suite.pytester.path / 'x' / 'r.json'}")
    report = suite.report()
    assert report == json.loads((suite.pytester.path / "x" / "r.json").read_text())
    assert report["schema"] == "llmperf.report/1"
    assert report["environment"]["simulated"] is True
    assert [point["id"] for point in report["points"]] == ["tp1pp1-short", "tp4pp2-short"]
    point = report["points"][0]
    assert point["valid"] is True
    assert point["invalid_reasons"] == []
    assert point["timestamps"] in ("kernel", "user")
    assert point["server"]["args"]["max-num-seqs"] == 4
    assert point["load"]["concurrency"] == 2
    assert [run["metrics"]["requests"] for run in point["runs"]] == [
        {"sent": 10, "ok": 10, "failed": 0, "cancelled": 0}
    ] * 5
    assert point["reruns"] == ["a baseline, which takes 5 runs"] * 3
    assert set(point["metrics"]["ttft_ms"]) == {
        *("mean", "std", "min", "max", "n"),
        *(f"p{p}" for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)),
    }
    assert point["metrics"]["output_token_throughput"]["unit"] == "tok/s"
    assert point["metrics"]["output_tokens"]["mean"] == 4
    assert point["sla"]["verdict"] == "PASS"
    assert point["regression"]["verdict"] == "NOT CHECKED"


def test_every_request_is_on_disk(suite):
    suite.run("-k", "tp1pp1-rate-100rps", "--llmperf-update-baselines")
    path = suite.output / "requests" / "test_perf.py.test_serving-tp1pp1-rate-100rps.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["run"] for line in lines] == [run for run in range(1, 6) for _ in range(10)]
    for line in lines:
        assert line["due_ns"] <= line["chunk_ns"][0] <= line["end_ns"]
        assert line["output_tokens"] == 4


def test_latest_points_at_the_last_output(suite):
    suite.pytester.runpytest_inprocess("-k", "tp1pp1-short", "--llmperf-update-baselines").assert_outcomes(passed=1)
    latest = suite.pytester.path / "llmperf-results" / "latest"
    assert latest.is_symlink()
    assert json.loads((latest / "report.json").read_text())["points"][0]["id"] == "tp1pp1-short"


def test_terminal_table_names_points_verdicts_and_the_simulation(suite):
    result = suite.run("-k", "short", "--llmperf-update-baselines")
    result.stdout.fnmatch_lines(
        [
            "*= llmperf =*",
            "SIMULATED step times, simulated-embedded*",
            "*tp1pp1-short *PASS*",
            "*tp4pp2-short *PASS*",
            "report: *",
        ]
    )


def test_verbose_terminal_has_every_statistic(suite):
    result = suite.run("-v", "-k", "tp1pp1-short", "--llmperf-update-baselines")
    result.stdout.fnmatch_lines(
        ["*Time to first token (ms) *", "*Inter-token latency (ms) *", "*Output token throughput*"]
    )


def test_nothing_is_printed_or_written_without_llmperf_tests(suite):
    suite.write(test="def test_a(): pass")
    result = suite.run()
    result.assert_outcomes(passed=1)
    assert "llmperf" not in "\n".join(line for line in result.outlines if not line.startswith(("plugins:", "rootdir:")))
    assert not suite.output.exists()


def test_nothing_heavy_is_imported_without_llmperf_tests(suite):
    (suite.pytester.path / "conftest.py").unlink()  # it imports what it changes
    suite.write(
        test="""
import sys

def test_a():
    ours = {name for name in sys.modules if name.startswith("pytest_llmperf")}
    light = {"plugin", "search_plugin", "session", "session.command_line", "session.stash"}
    assert ours == {"pytest_llmperf", *(f"pytest_llmperf.{name}" for name in light)}
    assert not {"numpy", "pandas", "httpx", "grpc", "pynvml", "pydantic", "yaml", "rich"} & set(sys.modules)
"""
    )
    suite.run_apart("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_p_no_llmperf_turns_the_plugin_off(suite):
    suite.write(test="def test_a(): pass")
    suite.pytester.runpytest_subprocess("-p", "no:llmperf").assert_outcomes(passed=1)


def test_secrets_reach_no_file_and_no_output(suite, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-t0ken")
    suite.edit_plan("decode-ms-per-step: 2, max-num-seqs: 4}", "max-num-seqs: 4}, env: {HF_TOKEN: '${MY_TOKEN}'}")
    suite.edit_plan('error_rate: "<= 0"', 'ttft_p99: "<= 1 us"')
    result = suite.run("-v", "-k", "tp4pp2-short", "--junitxml=junit.xml", "-o", "junit_logging=all")
    result.assert_outcomes(failed=1)
    assert "s3cr3t" not in result.stdout.str() + result.stderr.str()
    files = [path for path in suite.pytester.path.rglob("*") if path.is_file()]
    assert not [path for path in files if "s3cr3t" in path.read_text(errors="replace")]


def test_a_dialect_is_reported_beside_our_metrics(suite):
    result = suite.run("-v", "-k", "tp1pp1-short", "--llmperf-update-baselines", "--llmperf-dialect=guidellm")
    (point,) = suite.points().values()
    assert point["dialect"]["name"] == "guidellm"
    assert point["dialect"]["metrics"]["request_latency"]["n"] == 5 * (10 + 2)
    assert point["metrics"]["ttft_ms"]["n"] == 50
    result.stdout.fnmatch_lines(["*by the definitions of guidellm*", "*request_latency*"])


def test_an_unknown_dialect_is_a_mistake_of_usage(suite):
    result = suite.run("--llmperf-dialect=klingon")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*'klingon' is not one of vllm, genai-perf, aiperf, guidellm, compressa*"])


def test_workers_share_a_load(suite):
    result = suite.run("-k", "tp1pp1-short", "--llmperf-update-baselines", "--llmperf-workers=2", "--llmperf-runs=1")
    result.assert_outcomes(passed=1)
    (point,) = suite.points().values()
    assert point["runs"][0]["workers"] == 2
    assert point["runs"][0]["metrics"]["requests"] == {"sent": 10, "ok": 10, "failed": 0, "cancelled": 0}


def test_a_number_of_workers_that_is_none_is_a_mistake_of_usage(suite):
    result = suite.run("--llmperf-workers=many")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*'many' is neither 'auto' nor a whole number of at least 1*"])


def test_stable_windows_are_the_result(suite):
    suite.edit_plan("requests: 10, warmup_requests: 1}", "stability: {window: 10, within: 9999 %}, warmup_requests: 1}")
    suite.run("-k", "tp1pp1-short", "--llmperf-update-baselines").assert_outcomes(passed=1)
    (point,) = suite.points().values()
    assert point["stability"]["reached"] is True
    assert point["runs"][2]["run"] == point["stability"]["windows"]
    assert len(point["runs"]) == 5, "the three that agreed, and two more for the baseline"


def test_a_phase_gives_a_curve_over_the_prompts_lengths(suite):
    suite.edit_plan("input_tokens: 8, output_tokens: 4, concurrency", "input_tokens: {sweep: [50, 400]}, concurrency")
    suite.edit_plan("concurrency: 2, requests: 10", "phase: prefill, concurrency: 1, requests: 5")
    suite.edit_plan("step: modelled, decode-ms-per-step: 1", "step: modelled, prefill-ms-per-token: 0.2")
    result = suite.run("-k", "tp1pp1-short", "--llmperf-update-baselines")
    result.assert_outcomes(passed=2)
    (curve,) = suite.report()["curves"]
    assert (curve["phase"], [point["input_tokens"] for point in curve["points"]]) == ("prefill", [50, 400])
    short, long = (point["ttft_p50"]["value"] for point in curve["points"])
    assert long > short
    result.stdout.fnmatch_lines(["*prefill by prompt length: tp1pp1-short*", "*input tokens*", "*50 *", "*400 *"])


OLD = '{"passed": true}'


@pytest.mark.parametrize(
    ("words", "edit"),
    [
        ((), ("plan.yaml", "model: embedded", "modle: embedded")),
        ((), ("test_perf.py", "import pytest", "import pytset")),
        ((), ("conftest.py", "import", "imprt")),
        (("--llmperf-runs=none",), None),
        (("-k", "nothing"), None),
    ],
    ids=["plan", "test", "conftest", "option", "nothing-selected"],
)
def test_an_earlier_report_is_set_aside_by_a_session_that_writes_none(suite, words, edit):
    folder = suite.pytester.path
    reports = [suite.output / "report.json", folder / "report.json", folder / "page.html"]
    suite.output.mkdir()
    for path in reports:
        path.write_text(OLD)
    if edit:
        name, old, new = edit
        (folder / name).write_text(edited((folder / name).read_text(), old, new))
    result = suite.run_apart("--llmperf-json=report.json", "--llmperf-html=page.html", *words)
    assert result.ret not in (0, 1)
    assert not any(path.exists() for path in reports)
    assert [path.with_name(f"{path.name}.old").read_text() for path in reports] == [OLD] * 3


def test_the_newest_folder_is_not_that_of_a_session_before_a_plan_error(suite):
    suite.pytester.runpytest_subprocess("-k", "tp1pp1-short", "--llmperf-runs=1", "--llmperf-update-baselines")
    newest = suite.pytester.path / "llmperf-results" / "latest"
    folder = newest.resolve()
    assert (newest / "report.json").exists()
    suite.edit_plan("model: embedded", "modle: embedded")
    suite.pytester.runpytest_subprocess()
    assert not newest.exists()
    assert (folder / "report.json").exists()


@pytest.mark.parametrize(("words", "code"), [(("-k", "typo"), 5), (("--setup-plan",), 0)])
def test_the_newest_folder_stays_that_of_a_session_before_one_that_is_to_measure_nothing(suite, words, code):
    folder = suite.pytester.path / "llmperf-results"
    (folder / "2026-01-01").mkdir(parents=True)
    (folder / "2026-01-01" / "report.json").write_text(OLD)
    (folder / "latest").symlink_to("2026-01-01")
    assert suite.pytester.runpytest_subprocess(*words).ret == code
    assert (folder / "latest" / "report.json").read_text() == OLD
    assert len(list(folder.iterdir())) == 2


def test_a_test_file_that_cannot_be_imported_ends_the_session_before_it_measures(suite):
    (suite.pytester.path / "test_broken.py").write_text("import nothing\n")
    report = suite.pytester.path / "report.json"
    report.write_text(OLD)
    result = suite.run_apart("--llmperf-json=report.json", "--llmperf-parallel=2")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*beside others*")
    assert report.with_name("report.json.old").read_text() == OLD


RUN_AGAIN = """
import pytest

attempts = []


@pytest.fixture
def fragile(baseline):
    yield
    assert len(attempts) > 1


@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline, fragile):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
    attempts.append(1)
    assert len(attempts) == 1
"""


def test_a_test_that_is_run_again_has_its_last_attempts_properties_and_no_earlier_ones_baseline(suite):
    pytest.importorskip("pytest_rerunfailures")
    suite.write(test=RUN_AGAIN)
    result = suite.run_apart("-k", "tp1pp1-short", "--reruns=1", "--junitxml=junit.xml", "--llmperf-accept")
    result.stdout.fnmatch_lines(["new baseline *"])
    result.stdout.no_fnmatch_line("accepted baseline *")
    for case in ElementTree.parse(suite.pytester.path / "junit.xml").getroot().iter("testcase"):
        names = [prop.get("name") for prop in case.iter("property")]
        assert "llmperf.sla" in names
        assert len(names) == len(set(names))


def test_a_test_that_fails_before_its_last_call_has_no_properties_of_an_earlier_one(suite):
    pytest.importorskip("pytest_rerunfailures")
    fails = edited(RUN_AGAIN, "    yield\n    assert len(attempts) > 1\n", "    assert not attempts\n")
    suite.write(test=edited(fails, "len(attempts) == 1", "not attempts"))
    suite.run_apart("-k", "tp1pp1-short", "--reruns=1", "--junitxml=junit.xml", "--llmperf-accept")
    first, last = ElementTree.parse(suite.pytester.path / "junit.xml").iter("testcase")
    assert last.find("error") is not None
    assert [len(list(case.iter("property"))) > 0 for case in (first, last)] == [True, False]


@pytest.mark.parametrize("words", [("--collect-only",), ("--llmperf-dry-run",), ("-m", "not llmperf")])
def test_a_session_that_is_to_write_none_leaves_an_earlier_report(suite, words):
    suite.write(test=TEST + "\n\ndef test_other():\n    pass\n")
    suite.output.mkdir()
    (suite.output / "report.json").write_text(OLD)
    assert suite.run_apart(*words).ret == 0
    assert (suite.output / "report.json").read_text() == OLD
