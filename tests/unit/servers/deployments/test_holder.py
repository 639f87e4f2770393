"""What a holder writes of others: their words are visible, of one line and bounded, and no secret is in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llmperf.servers.deployments import holder

HOSTILE = "\x1b[31mred\nLEFT BEHIND: nothing " + "x" * 100_000

DROPPED = """
import os, signal
from pytest_llmperf.servers.deployments.holder import Stopped, ignore_signals, stop_on_signals

stop_on_signals()
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    if not os.fork():
        os._exit(0)
    while True:
        signal.pause()
except Stopped:
    ignore_signals()
    print("heard")
os.kill(os.getpid(), signal.SIGALRM)
print("ended")
"""


def test_words_of_others_stay_in_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    holder.log(HOSTILE)
    holder.log_error("kubernetes", ValueError(HOSTILE))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(r"\x1b[31mred LEFT BEHIND" in line and len(line) < 5000 for line in lines)


def test_facts_of_others_may_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.deployed.json"
    holder.write_facts(path, {"identity": {"images": {HOSTILE: HOSTILE}, "n": [1, HOSTILE, None]}})
    (log,) = [tmp_path / "a.log"]
    found = holder.identity(log)
    ((name, image),) = found["images"].items()
    assert name == image == found["n"][1]
    assert image.isprintable()
    assert len(image) == 4000


def test_settings_hide_what_they_refer_to_and_nothing_of_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_NAMESPACE", "team-a-4711")
    path = tmp_path / "a.settings.json"
    given = {"namespace": "team-a-4711", "values": {"x": "${A_NAMESPACE}", "y": "${NOT_SET_ANYWHERE}"}}
    holder.write_settings(path, given)
    assert json.loads(path.read_text()) == holder.read_settings(path) == given
    holder.log("it is team-a-4711")
    assert "it is ***" in capsys.readouterr().err


def test_a_signal_that_python_drops_is_heard_again():
    """What a handler raises in a hook of a fork goes to no one, and the deployment would stay."""
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=60, check=True)
    assert "Exception ignored" in done.stderr
    assert done.stdout == "heard\nended\n"
