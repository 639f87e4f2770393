"""What a session gathers and writes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from samples import point, result, steady_run

from pytest_llmperf.errors import PlanError
from pytest_llmperf.report.files import write_report
from pytest_llmperf.runner.outcomes import RunFolder, default_output, file_name


@pytest.fixture
def session(tmp_path):
    return RunFolder(tmp_path / "out")


def request_runs(session, test="a.py::t[s]"):
    path = session.output / "requests" / f"{file_name(test)}.jsonl"
    return [json.loads(line)["run"] for line in path.read_text().splitlines()]


def test_nothing_is_made_before_something_is_written(session):
    session.note("a.py::t[s]", "s", error="x")
    assert not session.output.exists()


def test_facts_add_up(session):
    session.note("a.py::t[s]", "s", result=result())
    outcome = session.note("a.py::t[s]", "s", passed=True)
    assert outcome.result is not None
    assert outcome.passed
    assert list(session.outcomes) == ["a.py::t[s]"]


def test_every_runs_requests_are_kept(session):
    session.save_requests("a.py::t[s]", steady_run(0, requests=2), point())
    session.save_requests("a.py::t[s]", steady_run(1, requests=2), point())
    assert request_runs(session) == [1, 1, 2, 2]


def test_requests_of_an_earlier_session_are_replaced(session):
    session.save_requests("a.py::t[s]", steady_run(0, requests=2), point())
    later = RunFolder(session.output)
    later.save_requests("a.py::t[s]", steady_run(0, requests=3), point())
    assert request_runs(later) == [1, 1, 1]


def test_the_report_is_written_twice(session, tmp_path):
    session.note("a.py::t[s]", "s", result=result())
    write_report(session, tmp_path / "deep" / "report.json")
    text = (session.output / "report.json").read_text()
    assert text == (tmp_path / "deep" / "report.json").read_text()
    assert json.loads(text)["schema"] == "llmperf.report/1"


def test_the_latest_session_has_a_link(tmp_path):
    for _ in range(2):
        session = RunFolder(default_output(tmp_path))
        write_report(session)
        assert (tmp_path / "llmperf-results" / "latest").resolve() == session.output


def test_results_stay_out_of_git_unless_the_user_says_otherwise(tmp_path):
    write_report(RunFolder(default_output(tmp_path)))
    ignored = tmp_path / "llmperf-results" / ".gitignore"
    assert ignored.read_text().endswith("\n*\n")
    ignored.write_text("")
    write_report(RunFolder(default_output(tmp_path)))
    assert ignored.read_text() == ""


def test_a_folder_that_the_user_chose_gets_nothing_else(session):
    write_report(session)
    assert [path.name for path in session.output.parent.iterdir()] == ["out"]


def test_no_link_beside_a_folder_that_the_user_chose(session, tmp_path):
    (tmp_path / "latest").symlink_to("elsewhere")
    write_report(session)
    assert (tmp_path / "latest").readlink().name == "elsewhere"


@pytest.mark.parametrize(
    ("test", "name"),
    [("perf/test_a.py::test_b[tp2-short]", "perf.test_a.py.test_b-tp2-short"), ("a.py::T::t", "a.py.T.t")],
)
def test_file_names(test, name):
    assert file_name(test) == name


def test_sessions_that_begin_at_once_have_a_folder_each(tmp_path):
    folder = tmp_path / "llmperf-results" / "2026-01-02_03-04-05"
    one, other = RunFolder(folder, is_new=True), RunFolder(folder, is_new=True)
    one.claim()
    other.claim()
    assert one.output == folder
    assert other.output.parent == folder.parent
    assert other.output != folder
    one.release()
    other.release()


def test_a_folder_that_another_session_writes_to_is_refused(session):
    session.claim()
    with pytest.raises(PlanError, match="another session is writing there"):
        RunFolder(session.output).claim()
    session.release()
    later = RunFolder(session.output)
    later.claim()
    later.release()


def test_what_cannot_be_written_is_in_a_spare_folder(session):
    (session.output / "requests" / f"{file_name('a.py::t[s]')}.jsonl").mkdir(parents=True)
    session.save_requests("a.py::t[s]", steady_run(0, requests=2), point())
    (note,) = session.notes
    path = Path(note.rpartition("it is in ")[2])
    assert len(path.read_text().splitlines()) == 2
    assert not session.is_whole


def test_a_later_attempt_that_measures_nothing_takes_nothing_away(session):
    session.note("a.py::t[s]", "s", result=result())
    session.note("a.py::t[s]", "s", result=replace(result(), runs=()), error="the second attempt failed")
    assert session.outcomes["a.py::t[s]"].result.runs
    assert session.outcomes["a.py::t[s]"].error == "the second attempt failed"


def test_a_test_that_is_measured_again_is_judged_anew(session):
    session.note("a.py::t[s]", "s", result=result(), sla=(), reruns=("in doubt",))
    session.note("a.py::t[s]", "s", passed=False)
    outcome = session.note("a.py::t[s]", "s", result=result())
    assert (outcome.sla, outcome.passed, outcome.reruns) == (None, None, ())
