"""What a session says while it measures: on a terminal, into a file, quiet and verbose."""

import os
import pty
import re
import subprocess
import sys

import pytest


def on_terminal(suite, *args):
    """Everything that pytest writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    command = [sys.executable, "-m", "pytest", f"--llmperf-output={suite.output}", *args]
    environment = {**plain, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=suite.pytester.path, env=environment
    ) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # nobody has the other end any more
                break
        assert process.wait(60) == 0, text.decode()
    os.close(ours)
    return text.decode()


def into_file(suite, *args):
    path = suite.pytester.path / "output.txt"
    plain = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    command = [sys.executable, "-m", "pytest", f"--llmperf-output={suite.output}", *args]
    with path.open("wb") as file:
        subprocess.run(command, stdout=file, stderr=file, cwd=suite.pytester.path, env=plain, check=True)
    return path.read_bytes().decode()


PLAN = """
model: embedded
runs: 2
servers:
  tp1pp1: {engine: embedded, args: {step: modelled, decode-ms-per-step: 2, max-num-seqs: 4}}
  tp4pp2: {engine: embedded, args: {step: modelled, decode-ms-per-step: 2, max-num-seqs: 4}}
loads:
  short: {input_tokens: 8, output_tokens: 30, concurrency: 2, requests: 20, warmup_requests: 1}
"""
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point):
    load_driver.run(llm_server, load_point)
"""


@pytest.fixture
def live_suite(suite):
    suite.write(plan=PLAN, test=TEST)
    return suite


def test_a_terminal_has_a_line_that_replaces_itself_and_leaves_nothing(live_suite):
    text = on_terminal(live_suite, "--color=no")
    shown = [part.rstrip() for part in re.split(r"[\r\n]", text) if part.startswith("llmperf ")]
    assert any(re.match(r"llmperf 0/2 points, .*tp1pp1-short run 1/2, \d+/\d+ requests", line) for line in shown)
    assert any(re.match(r"llmperf 1/2 points, .* left$", line) for line in shown)
    assert all(len(line) < 80 for line in shown)
    lines = [line.rpartition("\r")[2].rstrip() for line in re.sub(r"\r+\n", "\n", text).split("\n")]
    assert not [line for line in lines if re.match(r"llmperf .*requests", line)], "each was overwritten"
    assert "\x1b" not in text


def test_a_file_has_a_plain_line_per_point(live_suite):
    text = into_file(live_suite)
    assert not re.search(r"[\r\x1b]", text)
    assert len(re.findall(r"^llmperf: tp\dpp\d-short measured in 2 runs; [12]/2 points", text, re.MULTILINE)) == 2
    assert not re.search(r"\d+/\d+ requests", text)


def test_verbose_has_a_plain_line_per_run_and_ci_is_no_terminal(live_suite, monkeypatch):
    monkeypatch.setenv("CI", "1")
    text = live_suite.run("-v", "-k", "tp1pp1").stdout.str()
    assert len(re.findall(r"^llmperf: tp1pp1-short run [12]/2 in ", text, re.MULTILINE)) == 2


def test_quiet_says_nothing(live_suite):
    text = live_suite.run("-q", "-k", "tp1pp1").stdout.str()
    assert not re.search(r"^llmperf", text, re.MULTILINE)
