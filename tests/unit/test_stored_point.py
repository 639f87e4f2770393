"""A stored point comes back exactly, and what is no such point is refused with a reason."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import HEALTH, result

from pytest_llmperf.resume import read_points, write_point
from pytest_llmperf.stored_point import SCHEMA, StoredPoint, StoredPointError, StoredSide, parse_point, point_json

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
    )
    run = replace(run, records=(record,), client=replace(HEALTH, connect_ms=number), spoiled=(text,))
    stored = replace(POINT, sides=(StoredSide(RESULT.environment, (run,)), *POINT.sides))
    assert parse_point(point_json(stored), "f") == stored


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"schema": "llmp', "f is not whole"),
        (b"[]", "f has the schema None; this version reads llmperf.point/1"),
        (b'{"schema": "llmperf.point/9"}', "f has the schema 'llmperf.point/9'"),
        (b'{"schema": "llmperf.point/1"}', "f: test: Field required"),
        (json.dumps({**json.loads(point_json(POINT)), "sides": 3}).encode(), "f: sides: Input should be"),
    ],
)
def test_what_is_no_point(text, message):
    with pytest.raises(StoredPointError, match=message.replace("[", r"\[")):
        parse_point(text, "f")


def test_a_file_is_whole_or_not_there(tmp_path):
    write_point(tmp_path, "one", POINT)
    write_point(tmp_path, "one", replace(POINT, reruns=()))
    assert read_points(tmp_path) == ({POINT.test: replace(POINT, reruns=())}, [])
    assert [path.name for path in (tmp_path / "points").iterdir()] == ["one.json.gz"]
