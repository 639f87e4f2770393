"""Baseline files: what is written reads back; what is damaged, foreign or from elsewhere is refused with the cure."""

import json
import math
import os
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import failed, result, run, steady_run

from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.file import MOST_SESSIONS, held_test, read_baseline, write_baseline
from pytest_llmperf.gate.baselines.growth import appended, recorded, stored_session
from pytest_llmperf.gate.baselines.parse import parse_baseline
from pytest_llmperf.gate.baselines.text import baseline_text

NODEID = "perf/test_a.py::test_serving[seqs2-short]"
MARGINS = {parse_quantity("itl_p50"): 0.05, parse_quantity("output_token_throughput"): 0.05}
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATH = Path("slug/seqs2-short.json")
ROOT = Path(__file__).parents[4]


def made(found=None, path=PATH, launches=None, sha="abc"):
    found = found or result()
    return recorded(path, NODEID, found, stored_session(found, START, sha, launches), MARGINS)


def grown():
    """Two sessions: one of two launches, and one that was appended."""
    baseline = made(result([steady_run(n) for n in range(5)]), launches=(3, 2))
    later = result([steady_run(n, 1.01) for n in range(4)])
    return appended(baseline, later, stored_session(later, START + timedelta(days=1), None))


TEXT = baseline_text(grown())
PLAIN = json.loads(TEXT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "slug" / "seqs2-short.json"


def written(path: Path, found=None) -> Path:
    write_baseline(made(found, path))
    return path


@given(
    slowness=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=4),
    sha=st.none() | st.text(max_size=40),
    args=st.dictionaries(st.text(max_size=9), st.none() | st.booleans() | st.integers() | st.text(max_size=9)),
    margins=st.dictionaries(st.sampled_from(sorted(MARGINS)), st.floats(0, 10)),
)
@settings(max_examples=30, deadline=None)
def test_what_is_written_reads_back(slowness, sha, args, margins):
    found = result([steady_run(n, s) for n, s in enumerate(slowness)])
    session = replace(stored_session(found, START, sha), args=args)
    baseline = recorded(PATH, NODEID, found, session, margins)
    try:
        text = baseline_text(baseline)
        text.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8
    assert parse_baseline(text, PATH) == baseline


def test_launches_and_shared_sessions_read_back():
    baseline = grown()
    again = parse_baseline(TEXT, PATH)
    assert again == baseline
    assert [len(launch) for launch in again.rolling[0].launches] == [3, 2]
    assert TEXT.count('"launches"') == 2, "sessions that are rolling and anchor are stored once"


def test_missing_values_stay_missing(path):
    (values,) = read_baseline(written(path, result([run([failed()] * 4)]))).runs
    assert values[parse_quantity("ttft_p50")] is None
    assert values[parse_quantity("error_rate")] == 1.0


def test_a_metric_of_a_run_is_a_line():
    lines = [line.strip() for line in TEXT.splitlines()]
    assert sum(line.startswith('"ttft_ms": {"mean"') for line in lines) == 8
    assert TEXT.endswith("}\n")


def test_the_same_baseline_gives_the_same_text():
    assert baseline_text(parse_baseline(TEXT, PATH)) == TEXT


def test_nothing_but_the_file_is_left(path):
    written(path)
    written(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "broken",
    [
        lambda found: result(memory_gib=math.nan),
        lambda found: replace(
            found, summaries=tuple(replace(s, scalars={"error_rate": -1.0}) for s in found.summaries)
        ),
    ],
)
def test_a_write_that_cannot_be_read_leaves_the_old_file(path, broken):
    before = written(path).read_text()
    with pytest.raises(BaselineError, match=r"seqs2-short\.json"):
        written(path, broken(result()))
    assert path.read_text() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "slug").write_text("a file")
    with pytest.raises(BaselineError, match="cannot be written"):
        written(tmp_path / "slug" / "point.json")


def test_a_reader_never_sees_half_a_file(path):
    """The old file, opened before, stays whole: the new one takes its name, not its place."""
    with written(path).open() as reader:
        written(path, result([steady_run(slowness=2.0)]))
        assert json.load(reader)["schema"] == "llmperf.baseline/2"
        assert os.fstat(reader.fileno()).st_nlink == 0


def test_a_missing_file_names_the_flag(path):
    with pytest.raises(BaselineError, match=r"no baseline for this point .*seqs2-short\.json.*-update-baselines"):
        read_baseline(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"schema": 3}',
        '{"schema": "llmperf.baseline/x"}',
        "\x00",
        "[" * 100_000,
        "9" * 9999,
    ],
)
def test_a_damaged_file(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(BaselineError, match=r"seqs2-short\.json is damaged .*restore it from git"):
        read_baseline(path)


def test_a_file_that_is_no_text(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BaselineError, match="is damaged"):
        read_baseline(path)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(BaselineError, match="is damaged"):
        read_baseline(tmp_path)


@given(length=st.integers(0, len(TEXT) - 2))
@settings(max_examples=40, deadline=None)
def test_a_truncated_file(length):
    with pytest.raises(BaselineError, match="is damaged"):
        parse_baseline(TEXT[:length], PATH)


def first_run(data):
    return data["sessions"][0]["launches"][0][0]


def rows(data):
    return first_run(data)["distributions"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.update(sessions=[]), "it holds no run"),
        (lambda data: data["sessions"][0].update(launches=[]), "a launch without runs"),
        (lambda data: data["sessions"][0].update(launches=[[]]), "a launch without runs"),
        (lambda data: data["sessions"].append(data["sessions"][0]), "two sessions have the same id"),
        (lambda data: data.update(rolling=[]), "rolling names no session"),
        (lambda data: data.update(anchor=[]), "anchor names no session"),
        (lambda data: data["rolling"].append(data["rolling"][0]), "rolling names a session twice"),
        (lambda data: data["anchor"].append("x"), "anchor names the session x, which is not there"),
        (lambda data: data["sessions"].append({**data["sessions"][0], "id": "x"}), "x is neither rolling nor anchor"),
        (lambda data: data["sessions"][0].update(started="2026-01-02T03:04:05"), "started: Input should have timezone"),
        (lambda data: data["sessions"][0].update(started=3), "started"),
        (lambda data: data.update(margins={"ttft": 0.1}), "needs a statistic"),
        (lambda data: data.update(notes="quick"), "notes: Extra inputs"),
        (lambda data: rows(data).pop("ttft_ms"), "a run has no 'ttft_ms'"),
        (lambda data: rows(data)["ttft_ms"].pop("p50"), "'p50' is missing"),
        (lambda data: rows(data)["ttft_ms"].update(p50="12.5"), "p50: Input should be a valid number"),
        (lambda data: rows(data)["ttft_ms"].update(p50=True), "p50: Input should be a valid number"),
        (lambda data: rows(data)["ttft_ms"].update(p50=None), "p50: Input should be a valid number"),
        (lambda data: rows(data)["ttft_ms"].update(p50=-3), "ttft_ms p50 is -3, which cannot be negative"),
        (lambda data: rows(data)["ttft_ms"].update(p50=math.nan), "NaN is not a number"),
        (lambda data: rows(data)["ttft_ms"].update(p50=math.inf), "Infinity is not a number"),
        (lambda data: rows(data)["ttft_ms"].update(n=2.5), "'ttft_ms' with its n"),
        (lambda data: first_run(data)["requests"].pop("ok"), "no 'ok'"),
        (lambda data: first_run(data)["scalars"].pop("goodput"), "a run has no 'goodput'"),
        (lambda data: first_run(data)["scalars"].update(request_throughput=-1), "cannot be negative"),
        (lambda data: first_run(data)["histograms"].pop("itl_ms"), "histogram of itl does not hold"),
        (lambda data: first_run(data)["histograms"]["itl_ms"].popitem(), "histogram of itl does not hold"),
        (lambda data: first_run(data)["histograms"]["itl_ms"].update({"x": 1}), "valid integer"),
    ],
)
def test_a_file_edited_by_hand(change, told):
    data = deepcopy(PLAIN)
    change(data)
    with pytest.raises(BaselineError, match=f"is damaged .*{told}"):
        parse_baseline(json.dumps(data), PATH)


def test_a_number_too_large_is_none():
    with pytest.raises(BaselineError, match="1e999 is not a number"):
        parse_baseline(TEXT.replace('"memory_gib": 128.0', '"memory_gib": 1e999'), PATH)


def test_a_timer_may_fire_early():
    data = deepcopy(PLAIN)
    rows(data)["queued_ms"] = {**rows(data)["ttft_ms"], "min": -0.001}
    values = parse_baseline(json.dumps(data), PATH).rolling[0].runs[0].values
    assert values[parse_quantity("queued_min")] == -0.001


FREE = ("load", "args", "output_args", "margins")
"""Mappings of a user's own words: another entry is another file, not a wrong one."""


def places(value, way=()):
    """Every place of a file but in what is free."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if key == "measuring":  # earlier versions had none, and what it does not tell is told to be unknown
            continue
        yield (*way, key)
        if key not in FREE:
            yield from places(child, (*way, key))


PLACES = sorted(places(PLAIN), key=str)
KEYS = [way for way in PLACES if isinstance(way[-1], str)]
OTHER_TYPES = [None, True, -7, 3.5, "text", [], [1], {}, {"a": 1}]


def parent_of(data, way):
    for key in way[:-1]:
        data = data[key]
    return data


def equal_or_refused(data):
    try:
        read = parse_baseline(json.dumps(data), PATH)
    except BaselineError:
        return
    assert read == parse_baseline(TEXT, PATH)


@given(way=st.sampled_from(KEYS))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_without_any_key_it_is_the_same_or_refused(way):
    data = deepcopy(PLAIN)
    del parent_of(data, way)[way[-1]]
    equal_or_refused(data)


def kind(value):
    """What JSON tells apart: a number is a number with or without a fraction."""
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


@given(way=st.sampled_from(PLACES), other=st.sampled_from(OTHER_TYPES))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_with_a_value_of_another_type_it_is_the_same_or_refused(way, other):
    data = deepcopy(PLAIN)
    parent = parent_of(data, way)
    may_be_absent = parent[way[-1]] is None or other is None
    if kind(parent[way[-1]]) != kind(other) and not may_be_absent and way[-1] not in FREE:
        parent[way[-1]] = other
        equal_or_refused(data)


@given(text=st.text() | st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x)).map(json.dumps))
def test_no_text_gives_another_error(text):
    with pytest.raises(BaselineError):
        parse_baseline(text, PATH)


@pytest.mark.parametrize("schema", ["llmperf.baseline/3", "other.baseline/2"])
def test_a_file_of_another_schema(schema):
    with pytest.raises(BaselineError, match=f"has schema '{schema}'; this .* reads llmperf.baseline/2; upgrade"):
        parse_baseline(TEXT.replace("llmperf.baseline/2", schema), PATH)


def test_an_older_schema_names_the_command():
    with pytest.raises(BaselineError, match=r"has schema llmperf.baseline/1, .*`llmperf baseline migrate slug/seqs2"):
        parse_baseline('{"schema": "llmperf.baseline/1"}', PATH)


def test_the_committed_baselines_can_be_read():
    files = list((ROOT / "baselines").rglob("*.json"))
    assert files
    for file in files:
        assert read_baseline(file).rolling


def test_more_sessions_than_a_baseline_can_have_are_refused_before_they_are_parsed(path):
    written(path)
    document = json.loads(path.read_text())
    (session,) = document["sessions"]
    session["args"] = {"told": '"git_sha"' * MOST_SESSIONS}
    ids = [f"{number}" for number in range(MOST_SESSIONS + 1)]
    for kept, problem in ((ids[1:], None), (ids, f"has 201 `sessions`, more than 200.*{path.name}|--llmperf-accept")):
        document |= {"rolling": kept, "anchor": kept[:1], "sessions": [{**session, "id": name} for name in kept]}
        path.write_text(json.dumps(document))
        if problem is None:
            assert len(read_baseline(path).rolling) == MOST_SESSIONS
        else:
            with pytest.raises(BaselineError, match=problem):
                read_baseline(path)
            assert held_test(path) is None


def test_no_session_is_added_that_would_make_the_file_unreadable(path):
    written(path)
    held = read_baseline(path)
    (session,) = held.rolling
    full = [replace(session, id=f"{number:03}") for number in range(MOST_SESSIONS)]
    write_baseline(replace(held, rolling=tuple(full[:1]), anchor=tuple(full)))
    new = replace(session, id="new", started=START + timedelta(days=1))
    with pytest.raises(BaselineError, match="has 201 `sessions`, more than 200"):
        write_baseline(appended(read_baseline(path), result(), new))
    assert len(read_baseline(path).anchor) == MOST_SESSIONS
