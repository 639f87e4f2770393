"""Answers from outside: limits on scores, regressions of them, the output guard, and where texts go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from perf_suite import TEST, edited, lay_out, run_outside_ci

from pytest_llmperf.cli.history import history

WIDE = "{itl_p50: 9999 %, itl_mean: 9999 %, ttft_p50: 9999 %, ttft_mean: 9999 %, output_token_throughput: 9999 %}"
PLAN = f"""
model: embedded
runs: 3
servers:
  a: {{engine: embedded, args: {{step: modelled, decode-ms-per-step: 1, max-num-seqs: 4}}}}
loads:
  q:
    prompts: {{file: data.jsonl}}
    output_tokens: 6
    concurrency: 4
    requests: 24
    answers: {{scores: [exact, chrf], guard: true, store_texts: guard}}
    sla: {{accuracy_exact: ">= 80 %"}}
margins: {WIDE}
"""
SECRET = "Confidential"
SAID = "second tower press camera gun particularly"  # what the modelled engine answers anything with
NO_LIMIT = ('    sla: {accuracy_exact: ">= 80 %"}\n', "")
OTHER_WEIGHTS = ("max-num-seqs: 4", "max-num-seqs: 4, seed: 5")


def lay_out_data(folder: Path) -> None:
    """Twelve prompts, of which the engine answers ten as the file has it."""
    lines = [
        {"prompt": f"{SECRET} question {number}", "output": "no" if number < 2 else SAID, "references": ["never"]}
        for number in range(12)
    ]
    (folder / "data.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A folder of baselines, recorded once for all tests here."""
    folder = tmp_path_factory.mktemp("recording")
    lay_out(folder, PLAN, TEST)
    lay_out_data(folder)
    done = run_outside_ci(folder, "--llmperf-update-baselines")
    assert done.returncode == 0, done.stdout
    return folder / "baselines"


@pytest.fixture
def recorded(suite, recording):
    suite.write(plan=PLAN)
    lay_out_data(suite.pytester.path)
    shutil.copytree(recording, suite.pytester.path / "baselines")
    return suite


def history_of(suite) -> tuple[str, str]:
    return "--history", str(suite.pytester.path / "llmperf-history.sqlite")


def files_with(folder: Path, text: str) -> set[str]:
    """Names of the files below a folder that hold a text."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.name for path in found if text.encode() in path.read_bytes()}


def test_the_same_answers_pass_and_stand_beside_their_speed(recorded):
    result = recorded.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["answers (mean score over prompts)*", "*a-q*exact*83.3%*12*", "*runs agree*100.0%*"])
    (answers,) = recorded.report()["answers"]
    assert (answers["scores"]["exact"]["value"], answers["scores"]["exact"]["n"]) == (0.833333, 12)
    assert (answers["runs_agree"], answers["changed"], answers["differences"]) == (1.0, 0, [])
    point = recorded.points()["a-q"]
    assert point["metrics"]["accuracy_exact"] == {"value": 0.833333, "unit": "ratio"}
    verdicts = {metric["quantity"]: metric["verdict"] for metric in point["regression"]["metrics"]}
    assert {verdicts[name] for name in ("accuracy_exact", "accuracy_chrf", "output_agreement")} == {"PASS"}


def test_other_answers_fail_by_score_and_by_guard_and_show_where_they_differ(recorded):
    recorded.edit_plan(*OTHER_WEIGHTS)
    recorded.edit_plan(*NO_LIMIT)
    result = recorded.run("--junitxml=junit.xml", "--llmperf-html=report.html")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*FAIL Output agreement: 0.0% of the answers to 12 prompts are those of the baseline's runs*100.0%*",
            "*note: output guard: no locked argument changed, but the answers did; *belongs in the plan's `locked`*",
            "a-q: 12 prompts of the output guard have an answer of no baseline run",
            f"  prompt *, from character *: baseline '*{SAID[-9:]}', now '*'",
        ]
    )
    compared = CliRunner().invoke(history, ["compare", *history_of(recorded), "1", "1"])
    assert "accuracy_exact: 0.0% -> 0.0% (+0.0 points)" in compared.output
    trend = CliRunner().invoke(history, ["trend", *history_of(recorded), "a-q", "accuracy_exact"])
    assert trend.exit_code == 0, trend.output
    assert "FAIL Accuracy exact: 0.0%, baseline 83.3%: -83.3 points" in result.stdout.str()
    junit = (recorded.pytester.path / "junit.xml").read_text()
    assert 'name="llmperf.accuracy_exact" value="0.0"' in junit
    assert SECRET not in junit
    assert SAID[-9:] not in junit, "the text of an answer is in the report alone"
    assert SAID[-9:] in (recorded.pytester.path / "report.html").read_text()


def test_a_limit_on_a_score_fails(recorded):
    recorded.edit_plan(">= 80 %", ">= 92 %")
    result = recorded.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*accuracy_exact: 0.8333, limit >= 0.92 (-9.4 %), n = 12; 90 % interval 0.562 to 0.970 over 12 prompts"]
    )


def test_a_changed_locked_argument_is_not_compared_and_the_guard_says_whether_it_mattered(recorded):
    recorded.edit_plan("model: embedded\n", "model: embedded\nlocked: {dtype: float16}\n")
    recorded.edit_plan(*NO_LIMIT)
    result = recorded.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*not comparable: dtype was None, is 'float16'; by the output guard 12 of 12 prompts have an answer of no*"]
    )


def test_without_being_asked_for_no_text_is_anywhere(suite):
    suite.write(plan=edited(PLAN, ", store_texts: guard", ""))
    lay_out_data(suite.pytester.path)
    suite.run("--llmperf-update-baselines", "--llmperf-allow-ci-update", "--junitxml=j.xml").assert_outcomes(passed=1)
    assert files_with(suite.pytester.path, SAID[-9:]) == {"data.jsonl"}
    assert files_with(suite.pytester.path, SECRET) == {"data.jsonl"}
    assert len(suite.baselines()) == 1


def test_all_texts_are_in_the_request_lines_where_asked_and_redacted(suite):
    plan = edited(PLAN, "store_texts: guard", "store_texts: all, redact: ['Confidential \\w+']")
    suite.write(plan=plan, test=TEST.replace("    baseline.check(result)\n", ""))
    lay_out_data(suite.pytester.path)
    suite.run("--junitxml=j.xml").assert_outcomes(passed=1)
    (lines,) = (suite.output / "requests").glob("*.jsonl")
    first = json.loads(lines.read_text().splitlines()[0])
    assert first["prompt"].startswith("*** ")
    assert first["text"].strip() == SAID
    assert "never" in first["references"]
    assert files_with(suite.pytester.path, SECRET) == {
        "data.jsonl",
        "plan.yaml",
        "report.json",
        "llmperf-history.sqlite",
    }
    assert files_with(suite.output, f"{SECRET} question") == set(), "the pattern alone, as part of the plan"


def test_an_extra_that_is_not_installed_costs_the_tests_that_need_it(suite):
    plain = "  plain: {input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 10}\n"
    suite.write(plan=edited(PLAN, "margins:", f"{plain}margins:"))
    lay_out_data(suite.pytester.path)
    hidden = "import sys\n\nsys.modules['sacrebleu'] = None\n"
    conftest = suite.pytester.path / "conftest.py"
    conftest.write_text(conftest.read_text() + hidden)
    result = suite.run_apart("--llmperf-update-baselines", "--llmperf-runs=1")
    result.assert_outcomes(passed=1, errors=1)
    cure = "*answers: chrf: sacrebleu is not installed: pip install 'pytest-llmperf[[]answers[]]'*"
    result.stdout.fnmatch_lines([f"llmperf: load q cannot be measured here: {cure}", "*ERROR*a-q*", cure])
    assert suite.points()["a-plain"]["passed"]
