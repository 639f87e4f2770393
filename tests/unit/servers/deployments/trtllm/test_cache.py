"""Folders that are made once for equal inputs, and never half."""

import json

import pytest

from pytest_llmperf.servers.deployments.trtllm.cache import cached
from pytest_llmperf.servers.deployments.trtllm.steps import StepError, Steps

FILES = ["config.json", "rank0.engine"]


@pytest.fixture
def steps(tmp_path):
    found = Steps(tmp_path, ["build"])
    found.begin("build")
    return found


def made(tmp_path, steps, facts, files=tuple(FILES), fails=None):
    """The folder, and how often something was made for it."""
    calls = []

    def make(out):
        calls.append(out)
        for name in files:
            (out / name).write_text("x")
        if fails:
            raise fails

    return cached(tmp_path / "engines" / "m", facts, FILES, steps, make), len(calls)


def test_equal_facts_are_made_once(tmp_path, steps, capsys):
    first, calls = made(tmp_path, steps, {"a": 1, "b": 2})
    again, more = made(tmp_path, steps, {"b": 2, "a": 1})
    other, others = made(tmp_path, steps, {"a": 1, "b": 3})
    assert first == again != other
    assert (calls, more, others) == (1, 0, 1)
    assert "step 1/1 build: made before for the same inputs" in capsys.readouterr().out
    assert json.loads(first.with_name(f"{first.name}.json").read_text()) == {"a": 1, "b": 2}


def test_one_that_lost_a_file_is_made_anew(tmp_path, steps):
    folder, _ = made(tmp_path, steps, {})
    (folder / "rank0.engine").unlink()
    again, calls = made(tmp_path, steps, {})
    assert (again, calls) == (folder, 1)


@pytest.mark.parametrize("failure", [StepError("no", "more"), SystemExit(143), OSError(28, "No space left on device")])
def test_what_is_broken_off_is_not_there(tmp_path, steps, failure):
    with pytest.raises(type(failure)):
        made(tmp_path, steps, {}, fails=failure)
    assert [path.suffix for path in (tmp_path / "engines").iterdir()] == [".lock"]


def test_a_program_that_ends_well_without_its_files_has_failed(tmp_path, steps):
    with pytest.raises(StepError, match=r"made no rank0\.engine"):
        made(tmp_path, steps, {}, files=["config.json"])


def test_the_rest_of_a_killed_one_is_no_obstacle(tmp_path, steps):
    folder, _ = made(tmp_path, steps, {})
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    again, calls = made(tmp_path, steps, {})
    assert (again, calls) == (folder, 1)
    assert not folder.with_name(f"{folder.name}.partial").exists()
