"""A stored point comes back exactly, and what is no such point is refused with a reason."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from capacity_samples import loads, searched
from hypothesis import given
from hypothesis import strategies as st
from samples import HEALTH, result, steady_run

from pytest_llmperf.metrics.capacity.bracket import LevelTrial, concluded
from pytest_llmperf.report.media import report_document
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.runner.program import PlannedTest
from pytest_llmperf.runner.resume.files import newest_session, read_points, write_point
from pytest_llmperf.runner.resume.stored_point import (
    SCHEMA,
    StoredPoint,
    StoredPointError,
    StoredSide,
    parse_point,
    point_json,
)
from pytest_llmperf.runner.resumed import ResumedPoint
from pytest_llmperf.runner.tasks.capacity import capacity_result
from pytest_llmperf.servers.duet import Duet

RESULT = result()
NOW = datetime(2026, 11, 21, 10, 30, 1, 234567, UTC)
POINT = StoredPoint(
    SCHEMA, "a.py::t[x-y]", {"runs": 3}, NOW, NOW, (StoredSide(RESULT.environment, RESULT.runs),), ("doubt",)
)
floats = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.integers(0, 2**62)).map(tuple),
    floats,
    st.none() | st.tuples(*[st.integers(0, 2**62)] * 4),
    st.text(),
)
def test_round_trip(chunks, number, times, text):
    from pytest_llmperf.records import ServerTimes

    run = RESULT.runs[0]
    record = replace(
        run.records[0],
        chunk_ns=chunks,
        chunk_tokens=None,
        error=text,
        server_ns=None if times is None else ServerTimes(*times),
        answers=2,
        chunk_answers=(0, 1) * len(chunks),
        first_chunk_tokens=(number, 1.0),
        hidden_tokens=len(chunks),
        unknown_fields=(text,),
        usage_doubt=text,
        end_told=not chunks,
    )
    run = replace(run, records=(record,), client=replace(HEALTH, connect_ms=number), spoiled=(text,))
    stored = replace(POINT, sides=(StoredSide(RESULT.environment, (run,)), *POINT.sides))
    assert parse_point(point_json(stored), "f") == stored


(RATE,) = loads()
CONFIG = RESULT.server
(DIED, INVALID) = (
    LevelTrial(64.0, verdict, True, "it did", repeats=2, sent=7, failed=3) for verdict in ("DIED", "INVALID")
)


def resolved(server):
    """The capacity as a test that was planned on this server."""
    return PlannedTest(POINT.test, f"{server.name}-s", POINT.test, server, RATE, 3)


UPWARDS = searched(RATE.capacity, 1000).trials


@pytest.mark.parametrize(
    "searches",
    [
        pytest.param((searched(RATE.capacity, 43.0), searched(RATE.capacity, 47.0)), id="found"),
        pytest.param((searched(RATE.capacity, 1000),), id="bound"),
        pytest.param((searched(RATE.capacity, 0.5),), id="none"),
        pytest.param((concluded((*UPWARDS[:6], DIED), RATE.capacity),), id="died"),
        pytest.param((concluded((*UPWARDS[:6], INVALID), RATE.capacity),), id="invalid"),
        pytest.param((concluded(UPWARDS[:2], RATE.capacity, DIED),), id="ended-by-an-earlier-one"),
    ],
)
def test_a_capacity_is_rebuilt_as_it_was(searches):
    levels = tuple(search.holds or search.trials[0].level for search in searches)
    runs = tuple(replace(steady_run(n, 1 + n / 7), trace_hash="search") for n in range(len(searches)))
    side = StoredSide(RESULT.environment, runs, levels, searches)
    shown = list(zip(levels, runs, strict=True))
    original = capacity_result(f"{CONFIG.name}-s", CONFIG, RATE, RESULT.environment, searches, shown)
    point = parse_point(point_json(replace(POINT, sides=(side,))), "f")
    rebuilt = ResumedPoint(point).result(resolved(CONFIG))
    assert rebuilt == original
    assert rebuilt.capacity.sentence == original.capacity.sentence
    before, after = (report_document([Outcome(POINT.test, r.point_id, r)], NOW) for r in (original, rebuilt))
    assert json.dumps(after) == json.dumps(before)


def test_a_capacity_of_a_duet_has_its_reference():
    sides = tuple(
        StoredSide(RESULT.environment, (steady_run(),), (search.holds,), (search,))
        for search in (searched(RATE.capacity, threshold) for threshold in (43.0, 86.0))
    )
    duet = Duet(CONFIG, RESULT.server.model_copy(update={"name": "b"}))
    stored = parse_point(point_json(replace(POINT, sides=sides)), "f")
    rebuilt = ResumedPoint(stored).result(resolved(duet))
    assert (rebuilt.reference.server, rebuilt.server) == (duet.a, duet.b)
    assert rebuilt.reference.capacity.value * 2 == pytest.approx(rebuilt.capacity.value, rel=0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"schema": "llmp', "f is not whole"),
        (b"[]", "f has the schema None; this version reads llmperf.point/3"),
        (b'{"schema": "llmperf.point/1"}', "f has the schema 'llmperf.point/1'"),
        (b'{"schema": "llmperf.point/9"}', "f has the schema 'llmperf.point/9'"),
        (b'{"schema": "llmperf.point/3"}', "f: test: Field required"),
        (json.dumps({**json.loads(point_json(POINT)), "sides": 3}).encode(), "f: sides: Input should be"),
        (point_json(POINT).replace(b'"levels":[]', b'"levels":[8]'), "f: sides.0: Value error, 1 levels for 2 runs"),
    ],
)
def test_what_is_no_point(text, message):
    with pytest.raises(StoredPointError, match=message.replace("[", r"\[")):
        parse_point(text, "f")


@pytest.mark.parametrize(("earlier", "later"), [("zz", "2026-01-02"), ("2026-01-02", "2026-01-01")])
def test_the_session_that_measured_last_is_continued(tmp_path, earlier, later):
    for name, time in ((later, 2), (earlier, 1)):
        write_point(tmp_path / name, "one", POINT)
        os.utime(tmp_path / name / "points", (time, time))
    (tmp_path / "latest").symlink_to(earlier)
    (tmp_path / "empty").mkdir()
    assert newest_session(tmp_path) == tmp_path / later


def test_a_file_is_whole_or_not_there(tmp_path):
    write_point(tmp_path, "one", POINT)
    write_point(tmp_path, "one", replace(POINT, reruns=()))
    assert read_points(tmp_path) == ({POINT.test: replace(POINT, reruns=())}, [])
    assert [path.name for path in (tmp_path / "points").iterdir()] == ["one.json.gz"]
