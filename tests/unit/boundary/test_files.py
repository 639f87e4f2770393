"""Files are whole or as they were, and nothing outside of their folder is touched."""

import os

import pytest

from pytest_llmperf.boundary.files import inside, open_end, open_new, write_at, write_whole
from pytest_llmperf.boundary.secrets import remember


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("MINE")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_a_link_is_replaced_and_not_followed(folder, victim):
    (folder / "report.json").symlink_to(victim)
    write_whole(folder / "report.json", "new")
    assert victim.read_text() == "MINE"
    assert (folder / "report.json").read_text() == "new"
    assert not (folder / "report.json").is_symlink()


def test_a_link_to_a_folder_leads_nowhere(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "requests").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="leads out of"):
        inside(folder, "requests", "a.jsonl")


@pytest.mark.parametrize("names", [("..", "a"), ("a", "..", "..", "b"), ("/etc", "x"), ("..",)])
def test_names_that_lead_out(folder, names):
    with pytest.raises(OSError, match="leads out of"):
        inside(folder, *names)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    write_whole(inside(tmp_path / "latest", "servers", "a.log"), "x")
    assert (folder / "servers" / "a.log").read_text() == "x"


def test_what_was_there_stays_when_writing_fails(folder):
    (folder / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(folder / "a", "x")
    assert os.listdir(folder) == ["a"]


def test_a_new_file_takes_the_place_of_a_link(folder, victim):
    (folder / "log").symlink_to(victim)
    with open_new(folder / "log") as file:
        file.write(b"x")
    assert victim.read_text() == "MINE"


def test_nothing_is_added_through_a_link(folder, victim):
    (folder / "a.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        open_end(folder / "a.jsonl")


def test_a_path_of_the_user_may_be_a_link(folder, victim):
    (folder / "mine.json").symlink_to(victim)
    write_at(folder / "mine.json", "x")
    assert victim.read_text() == "x"
    assert (folder / "mine.json").is_symlink()


def test_a_device_is_written_to(folder):
    write_at(folder / os.path.relpath("/dev/null", folder), "x")
    assert not os.path.isfile("/dev/null")


def test_secrets_and_half_surrogates_are_not_written(folder):
    remember("k3y-in-a-file")
    write_whole(folder / "a", "k3y-in-a-file \ud800")
    assert (folder / "a").read_text() == "*** \\ud800"
