"""`--llmperf-history` and `llmperf history`."""

from __future__ import annotations

import csv
import json
import sqlite3

import pytest
from click.testing import CliRunner
from perf_suite import TEST, edited

from pytest_llmperf.cli.main import main
from pytest_llmperf.history.database import open_history

NO_BASELINE = edited(TEST, "    baseline.check(result)\n", "")


def llmperf(*args: object) -> str:
    done = CliRunner().invoke(main, list(map(str, args)))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def measured(suite):
    """A suite that was run once."""
    suite.write(test=NO_BASELINE)
    suite.run("-k", "short", "--llmperf-runs=2")
    return suite


def test_every_session_is_kept_beside_the_baselines(measured):
    path = measured.pytester.path / "llmperf-history.sqlite"
    shown = llmperf("history", "list", "--history", path, "--show-metrics", "--show-parameters")
    assert "tp1pp1-short" in shown
    assert "load.concurrency: 2" in shown
    assert "PASS" in shown
    table = measured.pytester.path / "all.csv"
    llmperf("history", "list", "--history", path, "--param-filter", "decode-ms-per-step=2", "--csv-file", table)
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["point"], row["verdict"]) == ("tp4pp2-short", "PASS")
    assert float(row["itl_p50"]) > 0
    assert "per run" in llmperf("history", "show", 1, "--history", path)
    assert "itl_p50" in llmperf("history", "compare", 1, 2, "--history", path)
    assert "no change of level over 1 session" in llmperf(
        "history", "trend", "tp1pp1-short", "itl_p50", "--history", path
    )


def test_the_history_can_be_elsewhere_and_off(suite):
    suite.write(test=NO_BASELINE)
    suite.run("-k", "tp1pp1-short", "--llmperf-history=off", "--llmperf-runs=1")
    assert not list(suite.pytester.path.glob("*.sqlite"))
    suite.run("-k", "tp1pp1-short", "--llmperf-history=deep/er.sqlite", "--llmperf-runs=1")
    assert (suite.pytester.path / "deep" / "er.sqlite").is_file()


def test_a_history_that_cannot_be_written_costs_no_verdict(suite):
    suite.write(test=NO_BASELINE)
    with sqlite3.connect(suite.pytester.path / "llmperf-history.sqlite") as other:
        other.execute("CREATE TABLE theirs (a)")
    result = suite.run("-k", "tp1pp1-short", "--llmperf-runs=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*history was not written: *is a SQLite file of another program*"])


def test_reports_exports_and_histories_are_taken_over_once(measured, tmp_path):
    path, own = measured.pytester.path / "llmperf-history.sqlite", tmp_path / "own.sqlite"
    report = measured.output / "report.json"
    assert "1 session" in llmperf("history", "import", report, "--history", own)
    assert "1 session" in llmperf("history", "merge", path, "--history", own)
    exported = tmp_path / "all.jsonl"
    llmperf("history", "export", "--history", own, "-o", exported)
    (line,) = exported.read_text().splitlines()
    assert len(json.loads(line)["points"]) == 2
    assert "1 session" in llmperf("history", "import", exported, "--history", own)
    assert len(llmperf("history", "export", "--history", own).splitlines()) == 1
    assert "nothing to prune" in llmperf("history", "prune", "--days", 1, "--yes", "--history", own)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("list",), "there is no history"),
        (("trend", "a", "nonsense"), "unknown metric 'nonsense'"),
        (("list", "--param-filter", "x"), "'x' is not KEY=VALUE"),
        (("prune", "--days", "9" * 20), "is not in the range"),
        (("prune", "--days", "1"), "there is no history"),
        (("import", __file__), "neither a report, nor an export, nor a database"),
    ],
)
def test_mistakes_are_told(tmp_path, args, message):
    done = CliRunner().invoke(main, ["history", *args, "--history", str(tmp_path / "h.sqlite")])
    assert done.exit_code != 0
    assert message in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "9" * 30), "too large"),
        (("compare", "\u00b2", "\u00b2"), "no session begins with"),
        (("import", "h.sqlite"), "h.sqlite is a history itself; `llmperf history merge h.sqlite`"),
        (("html",), "no point that was measured"),
        (("table",), "no point with these metrics"),
        (("table", "--report", "empty.jsonl"), "empty.jsonl is neither a report"),
        (("export", "-o", "h.sqlite/below"), "h.sqlite"),
    ],
)
def test_mistakes_with_an_empty_history_are_told(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    with open_history(tmp_path / "h.sqlite", write=True):
        (tmp_path / "empty.jsonl").write_text("\n\n")
    done = CliRunner().invoke(main, ["history", *args, "--history", "h.sqlite"])
    assert done.exit_code == 1
    assert message in done.output
    assert "unexpected" not in done.output


@pytest.mark.parametrize(
    ("form", "holds"),
    [
        ("terminal", "experiments"),
        ("markdown", "| experiment | metric | tp1pp1 | tp4pp2 |"),
        ("csv", "short,output_token_throughput,tok/s,tp4pp2,"),
        ("html", '<th scope="col">tp4pp2</th>'),
    ],
)
def test_experiments_by_configurations_as_a_table(measured, form, holds):
    path = measured.pytester.path / "llmperf-history.sqlite"
    of_history = llmperf("history", "table", "--history", path, "--format", form)
    of_report = llmperf("history", "table", "--report", measured.output / "report.json", "--format", form)
    assert holds in of_history
    assert of_history == of_report
