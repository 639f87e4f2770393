"""`llmperf calibrate` from the shell, against real server processes."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from click.testing import CliRunner, Result

from pytest_llmperf.cli.main import main
from pytest_llmperf.plan.file import load_plan

# One slot whose steps have stalls: no run of this length knows its own mean.
PLAN = """model: embedded
servers:
  noisy:
    engine: embedded
    args: {step: modelled, decode-ms-per-step: 2, stall-rate-per-s: 8, stall-ms: 40}
loads:
  short:
    input_tokens: 8
    output_tokens: 4
    concurrency: 1
    requests: 60  # a try
"""


@pytest.fixture
def calibrate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["calibrate", "plan.yaml", "--output", "out", *args])

    return run


def test_the_plan_gets_a_diff_that_applies(calibrate, tmp_path):
    found = calibrate()
    assert found.exit_code == 0, found.output
    assert "noisy-short: 2 launches of 3 runs" in found.output
    assert "-    requests: 60  # a try" in found.output
    assert (tmp_path / "plan.yaml").read_text() == PLAN
    points = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert [len(point["runs"]) for point in points] == [3, 3]
    assert "itl_mean" in points[0]["runs"][0]["own_errors"]
    patch = found.output[found.output.index("--- plan.yaml") :]
    if shutil.which("patch") is None:
        pytest.skip("there is no patch to apply it with")
    subprocess.run(["patch", "-p0", "plan.yaml"], input=patch, text=True, check=True, cwd=tmp_path)
    assert load_plan(tmp_path / "plan.yaml").load("short").requests > 60


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--load", "shrot"), "the plan has no load 'shrot'; did you mean 'short'?"),
        (("--server", "nosy"), "the plan has no server 'nosy'; did you mean 'noisy'?"),
    ],
    ids=["load", "server"],
)
def test_a_wrong_name_is_told(calibrate, args, message):
    found = calibrate(*args)
    assert found.exit_code == 2
    assert message in found.output
