"""The history: what is kept of a report, how it is found again, and what it says."""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_llmperf.cli.main import main
from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.history.analysis import differences, trends
from pytest_llmperf.history.database import FoundPoint, is_history, open_history
from pytest_llmperf.history.session import (
    HistoryError,
    HistoryPoint,
    HistoryRun,
    HistorySession,
    session_json,
    session_of,
    stored_session,
)
from pytest_llmperf.report.history.page import history_page

START = datetime(2026, 1, 1, tzinfo=UTC)


def point(name: str = "tp4-short", *, measured: datetime = START, itl: float = 10.0, **changes: object) -> HistoryPoint:
    runs = tuple(HistoryRun(n, 1, True, {"itl_p50": itl * (1 + 0.001 * n)}) for n in (1, 2, 3))
    facts = {
        "test": f"test_a.py::test_serving[{name}]",
        "name": name,
        "environment": "h100x8-vllm",
        "engine": "vllm 0.11.0",
        "measured": measured,
        "verdict": "PASS",
        "reasons": (),
        "parameters": {"server.args.tensor-parallel-size": "4", "load.concurrency": "8"},
        "values": {"itl_p50": itl},
        "dialect": {},
        "runs": runs,
    }
    return HistoryPoint(**{**facts, **changes})


def session(number: int = 0, *points: HistoryPoint, **changes: object) -> HistorySession:
    facts = {
        "id": f"{number:032x}",
        "started": START + timedelta(days=number),
        "commit": f"{number:02d}" * 20,
        "version": "0.1.0",
        "points": points or (point(measured=START + timedelta(days=number)),),
    }
    return HistorySession(**{**facts, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def test_a_session_comes_back_whole(path):
    given = session(7, point(), point("tp8-short", verdict="FAIL", reasons=("sla:ttft_p99",), measured=None, runs=()))
    with open_history(path, write=True) as history:
        history.add(given)
    with open_history(path) as history:
        assert list(history.sessions()) == [given]
        assert history.session(given.id[:31]) == given


def test_a_session_twice_is_one_and_its_points_keep_their_numbers(path):
    with open_history(path, write=True) as history:
        history.add(session(1, point(verdict="MEASURED")))
        history.add(session(2))
        history.add(session(1, point(verdict="PASS"), point("tp8-short")))
        old, new = history.of_session(session(1).id)
        assert (old.number, old.point.name, old.point.verdict) == (1, "tp4-short", "PASS")
        assert new.number > 2
        assert len(list(history.sessions())) == 2


def test_what_another_file_holds_takes_the_place_of_earlier_states_only(path):
    def taken(*points: HistoryPoint, **changes: object) -> dict[str, tuple[str, int]]:
        history.take_over(session(1, *points, **changes))
        (kept,) = history.sessions()
        assert kept.commit == session(1).commit
        return {one.name: (one.verdict, len(one.runs)) for one in kept.points}

    whole = point()
    more = (*whole.runs, HistoryRun(4, 1, True, {"itl_p50": 10.0}))
    with open_history(path, write=True) as history:
        history.add(session(1, whole, point("tp8-short")))
        # A copy that was made before the session ended: without a point, and with one that was not whole.
        older = taken(point(runs=whole.runs[:1], verdict="ERROR"), commit=None)
        assert older == {"tp4-short": ("PASS", 3), "tp8-short": ("PASS", 3)}
        assert taken(point(verdict="ERROR"))["tp4-short"] == ("PASS", 3), "interrupted before it was judged"
        assert taken(point(runs=more, verdict="FAIL"))["tp4-short"] == ("FAIL", 4)
        assert taken(point("tp16-short"))["tp16-short"] == ("PASS", 3)


def test_sessions_of_other_time_zones_are_in_the_order_of_time(path):
    east, west = (START.astimezone(timezone(timedelta(hours=hours))) for hours in (9, -8))
    with open_history(path, write=True) as history:
        history.take_over(session(2, started=west + timedelta(hours=1)))
        history.take_over(session(1, started=east))
        assert [one.id for one in history.sessions()] == [session(1).id, session(2).id]


def test_points_are_found_by_name_and_parameters(path):
    with open_history(path, write=True) as history:
        history.add(session(1, point(), point("tp8-short", parameters={"load.concurrency": "16"})))
        assert [f.point.name for f in history.newest(name="tp8")] == ["tp8-short"]
        assert [f.point.name for f in history.newest(parameters={"concurrency": "8"})] == ["tp4-short"]
        assert [f.point.name for f in history.newest(parameters={"load.concurrency": "16"})] == ["tp8-short"]
        assert list(history.newest(parameters={"currency": "16"})) == []


def test_runs_that_a_later_session_resumed_count_once(path):
    with open_history(path, write=True) as history:
        history.add(session(1, point(measured=START)))
        history.add(session(2, point(measured=START), point("tp8-short", measured=START)))
        assert [found.number for found in history.named("tp4-short")] == [1]
        assert len(list(history.everything())) == 2


def test_a_point_that_a_later_session_completed_has_all_of_its_runs(path):
    whole = point(measured=START)
    with open_history(path, write=True) as history:
        history.add(session(1, point(measured=START, runs=whole.runs[:1], verdict="ERROR")))
        history.add(session(2, whole))
        history.add(session(3, whole))
        (found,) = history.named("tp4-short")
        assert (found.number, found.point) == (2, whole)


def test_a_change_of_level_is_found_with_its_commits(path):
    with open_history(path, write=True) as history:
        for day in range(16):
            itl = (10.0 if day < 9 else 11.5) * (1 + 0.002 * math.sin(day))
            history.add(session(day, point(measured=START + timedelta(days=day), itl=itl)))
        (trend,) = trends(history.named("tp4-short"), [parse_quantity("itl_p50")])
    (step,) = trend.steps
    assert (step.before.number, step.after.number, step.worse) == (9, 10, True)
    assert step.change == pytest.approx(0.15, abs=0.005)
    assert step.commits == "080808080..090909090"


def test_of_many_points_no_more_than_one_is_in_memory():
    def points():
        for day in range(5):
            yield FoundPoint(day, "s", START, None, point(measured=START + timedelta(days=day)))
            held.append(sum(type(one) is HistoryPoint for one in gc.get_objects()))

    held: list[int] = []
    before = sum(type(one) is HistoryPoint for one in gc.get_objects())
    (trend,) = trends(points(), [parse_quantity("itl_p50")])
    assert len(trend.levels) == len(held) == 5
    assert max(held) <= before + 1


def test_two_points_are_compared_by_the_gates_statistic(path):
    with open_history(path, write=True) as history:
        history.add(session(1, point(itl=10.0), point("b", itl=12.0), point("c", itl=10.05)))
        one, slower, same = (history.point(number) for number in (1, 2, 3))
    quantities = [parse_quantity("itl_p50"), parse_quantity("ttft_p50")]
    (found,) = differences(one, slower, quantities)
    assert found.verdict == "worse"
    assert found.change == pytest.approx(0.2)
    assert found.interval[0] < 0.2 < found.interval[1]
    assert [d.verdict for d in differences(slower, one, quantities)] == ["better"]
    assert [d.verdict for d in differences(one, same, quantities)] == ["same"]


def test_exported_sessions_are_read_back():
    given = session(3)
    assert stored_session(json.loads(json.dumps(session_json(given))), "a file") == given
    with pytest.raises(HistoryError, match=r"a file: started: Field required"):
        stored_session({"id": "1"}, "a file")


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ([], "schema is None"),
        ({"schema": "llmperf.report/9"}, "schema is 'llmperf.report/9'"),
        ({"schema": "llmperf.report/1"}, "r.json is no whole report: KeyError: 'points'"),
        ({"schema": "llmperf.report/1", "points": [3], "environments": {}}, "r.json is no whole report"),
    ],
)
def test_what_is_no_report_is_refused(report, message):
    with pytest.raises(HistoryError, match=message):
        session_of(report, "r.json")


@pytest.mark.parametrize(
    ("passed", "error", "verdict"),
    [(True, None, "PASS"), (False, "no baseline for this point", "ERROR"), (None, "skipped: no GPU", "SKIPPED")],
)
def test_a_test_that_failed_within_its_limits_is_no_pass(passed, error, verdict):
    checks = [{"quantity": "ttft_p99", "verdict": "PASS"}]
    found = {"test": "a.py::t", "id": "t", "passed": passed, "error": error, "sla": {"checks": checks}}
    report = {"schema": "llmperf.report/1", "llmperf": "1", "started": START.isoformat(), "environments": {}}
    (kept,) = session_of({**report, "points": [found]}, "r.json").points
    assert kept.verdict == verdict


def test_the_file_of_another_program_is_left_alone(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (a)")
    with pytest.raises(HistoryError, match="another program"), open_history(path, write=True):
        pass
    path.write_bytes(b"no database at all, but long enough to be one" * 30)
    with pytest.raises(HistoryError, match="not a database"), open_history(path):
        pass


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE points SET \"values\" = '[1]'", "point 1: values: "),
        ('UPDATE points SET "values" = \'{"itl_p50": NaN}\'', "point 1: values.itl_p50: "),
        ('UPDATE runs SET "values" = \'{"itl_p50": Infinity}\'', "point 1: runs.0.values.itl_p50: "),
        ("UPDATE runs SET \"values\" = 'null'", "point 1: runs.0.values: "),
        ("UPDATE points SET parameters = 'no JSON'", "history "),
        ("UPDATE points SET dialect = 'null'", "point 1: dialect: "),
        ("UPDATE points SET verdict = x'ff'", "point 1: verdict: "),
        ("UPDATE points SET measured = '2026-01-01'", "point 1: measured: "),
        ("UPDATE sessions SET started = '2026-01-01T00:00:00'", "has no time zone"),
        ("DROP TABLE runs", "no such table: runs"),
    ],
)
def test_a_damaged_history_is_told_with_the_file_and_what_is_wrong(path, damage, message):
    with open_history(path, write=True) as history:
        history.add(session())
    with sqlite3.connect(path) as sql:
        sql.execute(damage)
    with open_history(path) as history, pytest.raises(HistoryError) as error:
        list(history.sessions())
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_newer_files_version_is_named(path):
    with open_history(path, write=True):
        pass
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(HistoryError, match="newer llmperf: its version is 99"), open_history(path):
        pass


def test_a_history_is_known_by_its_first_bytes(path, tmp_path):
    with open_history(path, write=True) as history:
        history.add(session())
    (tmp_path / "text").write_text("SQLite format 3")
    assert is_history(path)
    assert not is_history(tmp_path / "text")


def test_a_missing_history_is_not_made_by_reading(path):
    with pytest.raises(HistoryError, match="there is no history"), open_history(path):
        pass
    assert not path.exists()


def _add_some(path: Path, first: int) -> None:
    for number in range(first, first + 10):
        with open_history(path, write=True) as history:
            history.add(session(number))


def test_sessions_may_write_at_the_same_time(path):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_add_some, args=(path, first)) for first in (0, 100, 200, 300)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    with open_history(path) as history:
        assert len(list(history.sessions())) == 40


def test_what_was_not_committed_is_not_there(path):
    broken = session(1, point(), point("x", runs=(HistoryRun(1, 1, True, {"itl_p50": object()}),)))  # type: ignore[dict-item]
    with open_history(path, write=True) as history:
        with pytest.raises(HistoryError, match="JSON serializable"):
            history.add(broken)
        assert list(history.sessions()) == []
        history.add(session(2))
        assert len(list(history.sessions())) == 1


def test_a_list_is_broken_between_words_where_it_is_narrow(path):
    with open_history(path, write=True) as history:
        long = {"environment": "simulated-embedded-h200x8", "verdict": "INCONCLUSIVE"}
        history.add(session(1, point("tp4-chat-long-c8", measured=START, **long)))
    done = CliRunner().invoke(main, ["history", "list", "--history", str(path)], env={"COLUMNS": "80"})
    assert max(map(len, done.output.splitlines())) <= 80
    words = ("2026-01-01", "00:00", "010101010", "chat-", "long-", "simulated-", "embedded-", "h200x8", "INCONCLUSIVE")
    assert [word for word in (*words, "…") if word not in done.output] == ["…"]


def test_a_page_of_all_trends(path):
    pytest.importorskip("plotly")
    with open_history(path, write=True) as history:
        for day in range(3):
            history.add(session(day, point("<b>tp4</b>-short", measured=START + timedelta(days=day))))
        page = history_page(list(trends(history.everything(), [parse_quantity("itl_p50")])), START)
    assert "1 points, 0 of 1 metrics changed their level" in page
    assert "<b>tp4</b>" not in page
    assert "12 are needed to tell a change of level" in page
