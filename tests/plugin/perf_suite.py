"""A small performance suite in a folder of its own, run by a pytest of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import any_machine
import httpcore  # noqa: F401  # see Suite.run
import pytest

import pytest_llmperf.session.fixtures  # noqa: F401  # see Suite.run

PLAN = """
model: embedded
runs: 2
servers:
  tp1pp1: {engine: embedded, args: {step: modelled, decode-ms-per-step: 1, max-num-seqs: 4}}
  tp4pp2: {engine: embedded, args: {step: modelled, decode-ms-per-step: 2, max-num-seqs: 4}}
loads:
  short: {input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 10, warmup_requests: 1}
  rate: {input_tokens: 8, output_tokens: 4, request_rate: {sweep: "100:200"}, requests: 10, warmup_requests: 1}
sla: {error_rate: "<= 0"}
"""

TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla, baseline):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    baseline.check(result)
"""

INI = """
[pytest]
addopts = -p no:cacheprovider
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""


def edited(text: str, old: str, new: str) -> str:
    """The text with another wording, which it must have: an edit that changes nothing tests nothing."""
    assert old in text, f"{old!r} is not in:\n{text}"
    return text.replace(old, new)


def line_of(test: str, call: str) -> str:
    """Where a warning of that call is shown, as `test_perf.py:8`."""
    (line,) = [number for number, text in enumerate(test.splitlines(), 1) if call in text]
    return f"test_perf.py:{line}"


def lay_out(folder: Path, plan: str, test: str) -> None:
    """The files of a suite."""
    shutil.copy(any_machine.__file__, folder / "conftest.py")
    (folder / "tox.ini").write_text(INI)
    (folder / "plan.yaml").write_text(plan)
    (folder / "test_perf.py").write_text(test)


def run_outside_ci(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A session in a process of its own, whose results several tests look at."""
    environ = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    command = [sys.executable, "-m", "pytest", *args]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


class Suite:
    """The suite's folder, and its runs."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.output = pytester.path / "out"
        lay_out(pytester.path, PLAN, TEST)

    def write(self, plan: str | None = None, test: str | None = None) -> None:
        if plan is not None:
            (self.pytester.path / "plan.yaml").write_text(plan)
        if test is not None:
            (self.pytester.path / "test_perf.py").write_text(test)

    def edit_plan(self, old: str, new: str) -> None:
        self.write(plan=edited((self.pytester.path / "plan.yaml").read_text(), old, new))

    def run(self, *args: str) -> pytest.RunResult:
        """In this process; the plugin's modules stay imported (numpy and httpx cannot be imported twice)."""
        return self.pytester.runpytest_inprocess(f"--llmperf-output={self.output}", *args)

    def run_apart(self, *args: str) -> pytest.RunResult:
        """In a process of its own."""
        return self.pytester.runpytest_subprocess(f"--llmperf-output={self.output}", *args)

    def report(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.output / "report.json").read_text())
        return document

    def points(self) -> dict[str, dict[str, Any]]:
        return {point["id"]: point for point in self.report()["points"]}

    def baselines(self) -> list[Path]:
        return sorted((self.pytester.path / "baselines").rglob("*.json"))
