"""What a holder writes of others: their words are visible, of one line and bounded, and no secret is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_llmperf.servers.deployments import holder

HOSTILE = "\x1b[31mred\nLEFT BEHIND: nothing " + "x" * 100_000


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
