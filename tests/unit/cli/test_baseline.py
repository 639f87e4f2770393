"""`llmperf baseline …` from outside: what it prints, changes and refuses."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from samples import result, steady_run

from pytest_llmperf.cli.main import main
from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.gate.baselines.file import read_baseline, write_baseline
from pytest_llmperf.gate.baselines.growth import ANCHOR_SESSIONS, appended, recorded, stored_session
from pytest_llmperf.gate.baselines.model import baseline_path

SLUG = "h200x1-embedded"
SHORT = "perf/test_a.py::test_serving[seqs2-short]"
LONG = "perf/test_a.py::test_serving[seqs2-long]"
START = datetime(2026, 1, 2, tzinfo=UTC)
MARGINS = {parse_quantity("itl_p50"): 0.05, parse_quantity("output_token_throughput"): 0.05}


def llmperf(*args):
    return CliRunner().invoke(main, ["baseline", *map(str, args)])


def measured(slowness, count=3):
    # Sessions differ a little, as real ones do; two runs of one do too.
    return result([steady_run(n, slowness * (1 + n / 1000)) for n in range(count)])


def baseline(path, test, slownesses):
    found = measured(slownesses[0], 5)
    held = recorded(path, test, found, stored_session(found, START, "a" * 40), MARGINS)
    for day, slowness in enumerate(slownesses[1:], start=1):
        found = measured(slowness)
        held = appended(held, found, stored_session(found, START + timedelta(days=day), f"{day}" * 40))
    return replace(held, point_id=test.partition("[")[2].rstrip("]"))


def noisy(day, level=1.0):
    return level * (1 + (day * 7 % 5) / 1000)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    made = tmp_path_factory.mktemp("original")
    levels = [noisy(day, 1.0 if day < 7 else 1.1) for day in range(13)]
    for test, slownesses in ((SHORT, [1.0]), (LONG, levels)):
        write_baseline(baseline(baseline_path(made, SLUG, test), test, slownesses))
    return made


@pytest.fixture
def folder(original, tmp_path):
    """Baselines of two points: one of a single session, one of 13 whose steps became 10 % slower at the eighth."""
    return shutil.copytree(original, tmp_path / "baselines")


def file(folder, test):
    return baseline_path(folder, SLUG, test)


def test_list_is_a_row_per_baseline(folder):
    done = llmperf("list", folder)
    assert done.exit_code == 0, done.output
    short, long = (next(row for row in done.output.splitlines() if name in row) for name in ("-short", "-long"))
    assert short.split()[:6] == [SLUG, "seqs2-short", "1", "×", "5", "1"]
    assert "provisional" in short
    assert "2026-01-02 00:00  aaaaaaaaa" in short
    assert " 8 × 3 " in long
    assert " 5 (17 runs) " in long
    assert "2026-01-14" in long
    assert "provisional" not in long


def test_list_tells_what_cannot_be_read_and_shows_the_rest(folder):
    file(folder, SHORT).write_text("{")
    done = llmperf("list", folder)
    assert done.exit_code == 1
    assert "seqs2-long" in done.output
    assert f"Error: baseline {file(folder, SHORT)} is damaged" in done.output


def test_list_of_nothing(tmp_path):
    assert llmperf("list", tmp_path).output == f"no baselines in {tmp_path}\n"


def test_show_has_environment_values_and_pictures(folder):
    done = llmperf("show", "seqs2-long", "--folder", folder)
    assert done.exit_code == 0, done.output
    assert "NVIDIA H200, EPYC" in done.output
    assert "engine       embedded 0.1, model m" in done.output
    assert "arguments    max-num-seqs=2" in done.output
    assert "2026-01-14 00:00 × 3" in done.output
    assert "itl_p50" in done.output
    assert any(line.startswith("ttft") and "█" in line and "n=480" in line for line in done.output.splitlines())


def test_show_of_a_file_without_histograms(folder):
    path = file(folder, SHORT)
    data = json.loads(path.read_text())
    for run in data["sessions"][0]["launches"][0]:
        run["histograms"] = {}
    path.write_text(json.dumps(data))
    done = llmperf("show", path)
    assert done.exit_code == 0, done.output
    assert "█" not in done.output


def test_show_of_an_unknown_point(folder):
    done = llmperf("show", "tp9", "--folder", folder)
    assert done.exit_code == 1
    assert "there is no baseline called 'tp9'" in done.output


def report(tmp_path, *tests, slugs=(SLUG,)):
    path = tmp_path / "report.json"
    document = {"environments": {slug: {} for slug in slugs}, "points": [{"test": test} for test in tests]}
    path.write_text(json.dumps(document))
    return path


def test_prune_deletes_what_no_test_asks_for(folder, tmp_path):
    done = llmperf("prune", folder, "--keep-from", report(tmp_path, LONG), "--yes")
    assert done.exit_code == 0, done.output
    assert f"delete {file(folder, SHORT)}: no test of" in done.output
    assert [path.exists() for path in (file(folder, SHORT), file(folder, LONG))] == [False, True]


def test_prune_only_says_what_it_would_do(folder, tmp_path):
    done = llmperf("prune", folder, "--keep-from", report(tmp_path, LONG), "--dry-run")
    assert done.exit_code == 0
    assert "delete" in done.output
    assert file(folder, SHORT).exists()


def test_prune_asks(folder, tmp_path):
    arguments = ["baseline", "prune", str(folder), "--keep-from", str(report(tmp_path, LONG))]
    assert CliRunner().invoke(main, arguments, input="n\n").exit_code == 1
    assert file(folder, SHORT).exists()
    assert CliRunner().invoke(main, arguments, input="y\n").exit_code == 0
    assert not file(folder, SHORT).exists()


def test_prune_leaves_other_environments_alone_unless_told(folder, tmp_path):
    kept = report(tmp_path, LONG, slugs=("b200x8-vllm",))
    assert llmperf("prune", folder, "--keep-from", kept, "--yes").output == "nothing to prune\n"
    assert llmperf("prune", folder, "--keep-from", kept, "--yes", "--all-environments").exit_code == 0
    assert not file(folder, SHORT).exists()


def test_prune_by_the_report_of_a_profile_deletes_nothing(folder, tmp_path):
    kept = report(tmp_path, "profile-c1")
    done = llmperf("prune", folder, "--keep-from", kept, "--yes")
    assert done.exit_code == 1
    assert f"{kept} is not of a pytest run, so it does not tell which tests there are" in done.output
    assert len(list(folder.rglob("*.json"))) == 2


def test_prune_of_nothing(tmp_path):
    done = llmperf("prune", tmp_path / "none", "--keep-from", report(tmp_path, LONG), "--all-environments")
    assert done.output == "nothing to prune\n"


def test_prune_drops_sessions_beyond_the_window(folder, tmp_path):
    path = file(folder, LONG)
    before = read_baseline(path)
    write_baseline(replace(before, rolling=before.sessions))
    done = llmperf("prune", folder, "--keep-from", report(tmp_path, LONG, SHORT), "--yes")
    assert f"trim {path}: 5 sessions beyond the window" in done.output
    assert read_baseline(path) == before


def test_prune_without_a_report(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = llmperf("prune", folder)
    assert done.exit_code == 1
    assert "there is no report llmperf-results/latest/report.json" in done.output
    assert "--keep-from" in done.output


def test_accept_makes_the_rolling_sessions_the_anchor(folder):
    done = llmperf("accept", "seqs2-long", "--folder", folder)
    assert done.exit_code == 0, done.output
    held = read_baseline(file(folder, LONG))
    assert held.anchor == held.rolling[-ANCHOR_SESSIONS:]
    assert "anchor of 5 sessions" in done.output
    assert "is the anchor already" in llmperf("accept", "--all", "--folder", folder).output


@pytest.mark.parametrize("args", [(), ("seqs2-long", "--all")])
def test_accept_wants_points_or_all(folder, args):
    done = llmperf("accept", *args, "--folder", folder)
    assert done.exit_code == 2
    assert "name the points to accept, or give --all" in done.output


def test_migrate_tells_what_it_did_and_what_it_could_not(folder):
    file(folder, SHORT).write_text('{"schema": "llmperf.baseline/1"}')
    done = llmperf("migrate", folder)
    assert done.exit_code == 1
    assert "0 migrated, 1 were up to date" in done.output
    assert "is damaged" in done.output


def test_trend_names_the_session_and_its_commit(folder):
    done = llmperf("trend", "--folder", folder)
    assert done.exit_code == 0, done.output
    assert "1 of the 12 sessions that a trend needs" in done.output
    assert "ITL p50 +10.1 % since 2026-01-09 00:00 at 777777777" in done.output, done.output


def test_trend_of_a_steady_history(folder):
    path = file(folder, LONG)
    write_baseline(baseline(path, LONG, [noisy(day) for day in range(13)]))
    assert "seqs2-long: no change over 13 sessions" in llmperf("trend", "seqs2-long", "--folder", folder).output


def test_trend_of_what_gates_nothing(folder):
    path = file(folder, LONG)
    write_baseline(replace(read_baseline(path), margins={}))
    assert "seqs2-long: no metric is gated" in llmperf("trend", path).output
