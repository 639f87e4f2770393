"""`llmperf search` from the shell, against real server processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from perf_suite import edited

from pytest_llmperf.cli.main import main
from pytest_llmperf.plan.file import load_plan

# Steps of 10 to 60 ms: what is best no busy machine can hide, and the client keeps up with it.
PLAN = """
model: embedded
servers:
  grid:
    engine: embedded
    args:
      step: modelled
      step-overhead-ms: 0
      decode-ms-per-step: {sweep: [60, 40, 20, 10]}
      max-num-seqs: {sweep: [1, 4]}
loads:
  chat: {input_tokens: 8, output_tokens: 4, concurrency: 4, requests: 8, warmup_requests: 1}
searches:
  best: {server: grid, loads: chat}
  bounded: {server: grid, loads: chat, objective: ttft_p50, constraints: {output_token_throughput: ">= 1 ktok/s"}}
  none: {server: grid, loads: chat, constraints: {itl_p50: "<= 0.01 ms"}, trials: 2}
  memory: {server: grid, loads: chat, constraints: {gpu_memory: "<= 40 GB"}}
  failing: {server: broken, loads: chat, mode: brute}
"""
BROKEN = """
  broken: {engine: embedded, args: {step: modelled, max-num-batched-tokens: {sweep: [1, 2048]}}}
loads:
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "plan.yaml").write_text(edited(PLAN, "loads:\n", BROKEN.lstrip("\n")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def search(folder):
    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["search", "plan.yaml", "--output", "out", *args])

    return run


def document(name: str) -> dict:
    return json.loads(Path(f"out/search-{name}.json").read_text())


def test_the_best_configuration_is_found_and_can_be_taken_away(search, tmp_path):
    pytest.importorskip("plotly")
    result = search("--search=best", "--json=r.json", "--csv=r.csv", "--html=r.html")
    assert result.exit_code == 0, result.output
    assert "best: grid.decode_ms_per_step_10.seqs4 is the best: output_token_throughput" in result.output
    found = json.loads(Path("r.json").read_text())
    assert found == document("best")
    assert (found["schema"], found["configurations"], found["brute_force_runs"]) == ("llmperf.search/1", 8, 8)
    assert found["ranked"][0]["values"] == {"decode-ms-per-step": 10, "max-num-seqs": 4}
    assert found["runs"] == sum(row["runs"] for row in found["ranked"])
    with Path("r.csv").open() as file:
        assert [row["server"] for row in csv.DictReader(file)] == [row["server"] for row in found["ranked"]]
    best = load_plan(Path("out/search-best.best.yaml"))
    (config,) = best.server_configs()
    assert config.args == found["ranked"][0]["config"]["args"]
    assert "--decode-ms-per-step 10 --max-num-seqs 4" in found["command"]
    assert "grid.decode_ms_per_step_10.seqs4" in Path("r.html").read_text()


def test_a_file_that_cannot_be_written_is_no_success(search, folder):
    result = search("--search=best", "--trials=1", "--json=plan.yaml/r.json")
    assert result.exit_code == 1, result.output
    assert "Error: plan.yaml/r.json was not written: " in result.output
    assert document("best")["best"]


def test_brute_force_agrees(search):
    result = search("--search=best", "--mode=brute")
    assert result.exit_code == 0, result.output
    found = document("best")
    assert (len(found["ranked"]), found["best"]) == (8, "grid.decode_ms_per_step_10.seqs4")


def test_a_limit_decides_before_the_objective(search):
    result = search("--search=none")
    assert result.exit_code == 1, result.output
    assert "none of 2 configurations tried keeps all limits" in result.output
    found = document("none")
    assert {row["standing"] for row in found["ranked"]} == {"broken"}
    assert all(max(check["excess"] or 0 for check in row["checks"]) > 1 for row in found["ranked"])
    assert found["best"] is None
    assert any("trials: 2 ended the search" in note for note in found["notes"])


def test_a_configuration_that_does_not_come_up_is_a_failed_trial(search):
    """A budget of one token a step is less than its 16 requests."""
    result = search("--search=failing")
    assert result.exit_code == 0, result.output
    rows = {row["server"]: row for row in document("failing")["ranked"]}
    assert rows["broken.tokens2048"]["rank"] == 1
    assert rows["broken.tokens1"]["standing"] == "failed"
    assert "--max-num-batched-tokens is 1; allowed: at least --max-num-seqs (16)" in rows["broken.tokens1"]["why"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "plan.yaml has several searches; choose one with --search: best, bounded, none, memory, failing"),
        (("--search=bset",), "plan.yaml has no search 'bset'; did you mean 'best'?"),
        (("--search=memory",), "limits gpu_memory, which cannot be told here:"),
        (("--search=best", "--resume"), "--resume: no search-best.checkpoint.json in out"),
    ],
)
def test_mistakes_are_usage_errors(search, args, message):
    result = search(*args)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_without_optuna_its_mode_says_what_to_install(search, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    result = search("--search=best", "--mode=optuna")
    assert result.exit_code == 2, result.output
    assert "pip install 'pytest-llmperf[search]'" in result.output


def test_a_page_needs_its_libraries_before_the_search_begins(search, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    result = search("--search=best", "--html=r.html")
    assert result.exit_code == 2, result.output
    assert "--html needs plotly and jinja2: pip install 'pytest-llmperf[report]'" in result.output


def test_a_dry_run_starts_nothing(search, folder):
    result = search("--search=bounded", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "search bounded: quick over 8 configurations of grid, for ttft_p50" in result.output
    assert "output_token_throughput >= 1000 tok/s" in result.output
    assert not (folder / "out").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_search_goes_on_without_measuring_again(search, folder, signum):
    main_anywhere = (
        "import any_machine; any_machine.pytest_configure(); from pytest_llmperf.cli.main import main; main()"
    )
    command = [sys.executable, "-c", main_anywhere, "search", "plan.yaml"]
    process = subprocess.Popen(
        [*command, "--search=best", "--output=out"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    checkpoint = folder / "out" / "search-best.checkpoint.json"
    deadline = time.monotonic() + 60
    while not (checkpoint.exists() and len(json.loads(checkpoint.read_text())["trials"]) > 1):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signum)
    output = process.communicate(timeout=60)[0]
    before = json.loads(checkpoint.read_text())["trials"]
    if signum != signal.SIGKILL:
        assert process.returncode == 130, output
        assert "is the best so far" in output
        assert document("best")["interrupted"] is True
    result = search("--search=best", "--resume")
    assert result.exit_code == 0, result.output
    after, found = json.loads(checkpoint.read_text())["trials"], document("best")
    assert all(after[name]["runs"][: len(trial["runs"])] == trial["runs"] for name, trial in before.items())
    assert (found["best"], found["interrupted"]) == ("grid.decode_ms_per_step_10.seqs4", False)
    assert (
        f"continued: {sum(len(trial['runs']) for trial in before.values())} runs were measured before" in result.output
    )


def test_a_changed_plan_is_not_continued(search, folder):
    assert search("--search=best", "--trials=1").exit_code == 0
    text = (folder / "plan.yaml").read_text()
    (folder / "plan.yaml").write_text(edited(text, "requests: 8", "requests: 9"))
    result = search("--search=best", "--resume")
    assert result.exit_code == 2, result.output
    assert "the plan has changed: loads.chat.requests was 8, is 9" in " ".join(result.output.split())
    (folder / "plan.yaml").write_text(edited(text, "[60, 40, 20, 10]", "[60, 40, 20, 10, 5]"))
    grown = search("--search=best", "--resume")
    assert grown.exit_code == 0, grown.output
    assert document("best")["configurations"] == 10
