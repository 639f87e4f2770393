"""A folder of baselines: what no test asks for, and schema 1 files brought up to date."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from samples import failed, result, run, steady_run

from pytest_llmperf.definitions import METRICS, parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.file import assert_holds, read_baseline, stored_path, write_baseline
from pytest_llmperf.gate.baselines.folder import Measured, find_baseline, migrate, read_measured, unused
from pytest_llmperf.gate.baselines.growth import recorded, stored_session
from pytest_llmperf.gate.baselines.migration import is_old
from pytest_llmperf.gate.baselines.model import baseline_path, differences, former_path

SLUG = "h200x1-embedded"
TESTS = ("perf/test_a.py::test_serving[seqs2-short]", "perf/test_a.py::test_serving[seqs4-short]")
STARTED = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def folder(tmp_path):
    for slug in (SLUG, "a100x1-embedded"):
        for test in TESTS:
            found = result(slug=slug)
            session = stored_session(found, datetime.fromisoformat(STARTED), "abc")
            write_baseline(recorded(baseline_path(tmp_path, slug, test), test, found, session, {}))
    return tmp_path


def test_a_full_run_tells_what_is_unused(folder):
    assert unused(folder, [SLUG], TESTS) == ()
    assert unused(folder, [SLUG], TESTS[:1]) == (baseline_path(folder, SLUG, TESTS[1]),)


def test_other_environments_are_not_judged(folder):
    assert unused(folder, ["b200x1-embedded"], []) == ()
    assert {path.relative_to(folder).parts[0] for path in unused(folder, [SLUG], [])} == {SLUG}


def test_half_written_files_are_no_baselines(folder):
    (folder / SLUG / ".half.json").write_text("{")
    assert unused(folder, [SLUG], TESTS) == ()


def test_environments_and_tests_of_a_report(tmp_path):
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"environments": {SLUG: {}}, "points": [{"test": test} for test in TESTS]}))
    assert read_measured(report) == Measured((SLUG,), TESTS)


@pytest.mark.parametrize("text", [None, "", "[]", '{"environments": {}}', '{"environments": {}, "points": [{}]}'])
def test_what_is_no_report(tmp_path, text):
    report = tmp_path / "report.json"
    if text is not None:
        report.write_text(text)
    with pytest.raises(BaselineError, match=r"report\.json is no report|there is no report .*report\.json"):
        read_measured(report)


@pytest.mark.parametrize("name", ["test_serving-seqs2-short", TESTS[0]])
def test_a_name_in_two_environments_asks_for_the_path(folder, name):
    with pytest.raises(BaselineError, match=f"2 baselines are called '{re.escape(name)}'; give one of these paths"):
        find_baseline(folder, name)


@pytest.mark.parametrize("name", ["seqs2-short", "test_serving-seqs2-short", TESTS[0]])
def test_a_baseline_is_found_by_point_file_and_test(folder, name):
    only = folder / "only"
    only.mkdir()
    (folder / SLUG).rename(only / SLUG)
    assert find_baseline(only, name).test == TESTS[0]


def test_a_path_is_a_name(folder):
    path = baseline_path(folder, SLUG, TESTS[0])
    assert find_baseline(Path("nowhere"), str(path)).path == path


def test_an_unknown_name_tells_what_there_is(folder):
    with pytest.raises(
        BaselineError, match=r"no baseline called 'tp9'; give one of these paths:\n .*seqs2-short\.json"
    ):
        find_baseline(folder, "tp9")
    with pytest.raises(BaselineError, match="none in nowhere"):
        find_baseline(Path("nowhere"), "tp9")


# Names of earlier versions, under which two tests could have one file

PLAIN, SLASH = "perf/test_a.py::test_serving[a-b]", "perf/test_a.py::test_serving[a/b]"


@pytest.fixture
def former(tmp_path):
    """The file that an earlier version gave both tests; it holds the one with a slash."""
    path = former_path(tmp_path, SLUG, SLASH)
    assert path == baseline_path(tmp_path, SLUG, PLAIN)
    session = stored_session(result(), datetime.fromisoformat(STARTED), "abc")
    write_baseline(recorded(path, SLASH, result(), session, {}))
    return path


def test_a_baseline_is_found_under_its_former_name(former, tmp_path):
    assert stored_path(tmp_path, SLUG, SLASH) == former
    assert unused(tmp_path, [SLUG], [SLASH]) == ()
    assert find_baseline(tmp_path, "a/b").test == SLASH


def test_another_tests_baseline_is_never_taken_for_ones_own(former, tmp_path):
    with pytest.raises(BaselineError, match=f"{re.escape(SLASH)}, not of {re.escape(PLAIN)}; `llmperf baseline migr"):
        assert_holds(stored_path(tmp_path, SLUG, PLAIN), PLAIN)
    blank = "perf/test_a.py::test_serving[a b]"
    assert stored_path(tmp_path, SLUG, blank) == baseline_path(tmp_path, SLUG, blank)


def test_migrating_gives_every_test_its_own_file(former, tmp_path):
    own = baseline_path(tmp_path, SLUG, SLASH)
    assert migrate(former) == own
    assert (former.exists(), stored_path(tmp_path, SLUG, SLASH)) == (False, own)
    assert migrate(own) is None
    assert_holds(stored_path(tmp_path, SLUG, PLAIN), PLAIN)


def test_a_file_that_is_there_already_is_not_written_over(former, tmp_path):
    own = baseline_path(tmp_path, SLUG, SLASH)
    own.write_text(former.read_text())
    with pytest.raises(BaselineError, match="are both baselines of"):
        migrate(former)
    assert former.exists()


def test_a_file_of_ones_own_comes_before_the_former_one(former, tmp_path):
    own = baseline_path(tmp_path, SLUG, SLASH)
    own.write_text("{")
    assert stored_path(tmp_path, SLUG, SLASH) == own


# Schema 1


def old_document(found):
    """What schema 1 held of a result."""
    facts = found.environment
    args = {name: value for name, value in found.server.args.items() if name not in found.server.output_args}
    return {
        "schema": "llmperf.baseline/1",
        "llmperf": "0.1.0",
        "test": TESTS[0],
        "point_id": found.point_id,
        "identity": {
            "environment": facts.slug,
            "gpus": list(facts.gpus),
            "engine": found.server.engine,
            "model": found.server.model,
            "output_args": found.server.output_args,
            "load_shape": "closed loop",
            "trace_hash": found.trace_hash,
        },
        "circumstances": {"engine_version": facts.engine_version, "args": args},
        "environment": facts.as_dict(),
        "server": found.server.as_dict(),
        "load": found.load.as_dict(),
        "sessions": [
            {
                "started": STARTED,
                "git_sha": "abc",
                "runs": [{"run": n, "metrics": s.as_dict()} for n, s in enumerate(found.summaries, start=1)],
            }
        ],
    }


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old_document(result([steady_run(), run([failed()] * 4)]))))
    return path


def test_a_schema_1_file_is_brought_up_to_date_once(old):
    assert migrate(old)
    assert not migrate(old)
    found = read_baseline(old)
    assert found.rolling == found.anchor
    assert found.rolling[0].started == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    (untold,) = differences(found, result()).sentences
    assert untold.startswith("whether stamps, token_source and warmup changed is not known")
    assert found.margins[parse_quantity("itl_p50")] == 0.05


def test_values_survive_and_what_was_not_there_is_absent(old):
    migrate(old)
    summaries = result([steady_run(), run([failed()] * 4)]).summaries
    for stored, summary in zip(read_baseline(old).rolling[0].runs, summaries, strict=True):
        for name in ("ttft_p99", "itl_mean", "output_token_throughput", "error_rate"):
            value = summary.value(parse_quantity(name))
            assert stored.values[parse_quantity(name)] == (None if value is None else pytest.approx(value, rel=1e-5))
        assert stored.n == {name: summary.n(parse_quantity(_of(name))) for name in METRICS}
        assert stored.histograms == {}


def _of(metric):
    return f"{metric}_mean" if METRICS[metric].kind == "distribution" else metric


def test_metrics_that_schema_1_did_not_know_are_absent(old):
    data = json.loads(old.read_text())
    for stored in data["sessions"][0]["runs"]:
        del stored["metrics"]["queued_ms"], stored["metrics"]["total_token_throughput"]
    old.write_text(json.dumps(data))
    migrate(old)
    values = read_baseline(old).rolling[0].runs[0].values
    assert values[parse_quantity("queued_p50")] is None
    assert values[parse_quantity("total_token_throughput")] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("test"),
        lambda data: data.pop("environment"),
        lambda data: data.update(sessions=[]),
        lambda data: data.update(sessions=3),
        lambda data: data["environment"].pop("host"),
        lambda data: data["identity"].pop("trace_hash"),
        lambda data: data["sessions"][0].update(started="yesterday"),
        lambda data: data["sessions"][0]["runs"][0]["metrics"]["ttft_ms"].update(p50="fast"),
        lambda data: data["sessions"][0]["runs"][0]["metrics"].pop("requests"),
        lambda data: data["sessions"][0]["runs"][0]["metrics"].update(ttft_ms=3),
    ],
)
def test_a_damaged_schema_1_file_stays_as_it_is(old, change):
    data = json.loads(old.read_text())
    change(data)
    old.write_text(json.dumps(data))
    with pytest.raises(BaselineError, match=r"old\.json"):
        migrate(old)
    assert json.loads(old.read_text()) == data


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "llmperf.baseline/2"}', '{"schema": "x/1"}'])
def test_what_is_not_of_schema_1(text):
    assert not is_old(text)
