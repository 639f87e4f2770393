"""Baseline files: what is written reads back; what is damaged, foreign or from elsewhere is refused with the cure."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import failed, point, result, run, server, steady_run

from pytest_llmperf.definitions import parse_quantity, quantity_names
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines import baseline_path, differences, read_baseline, write_baseline
from pytest_llmperf.metrics import rounded

NODEID = "perf/test_a.py::test_serving[seqs2-short]"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "slug" / "seqs2-short.json"


def written(path: Path, found=None, sha="abc") -> Path:
    write_baseline(path, found or result(), NODEID, sha)
    return path


def edited(path: Path, change) -> Path:
    data = json.loads(written(path).read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("perf/test_a.py::test_serving[tp2-short]", "perf/test_a/test_serving-tp2-short.json"),
        ("test_a.py::TestB::test_c[tp2-rate-0.5rps]", "test_a/TestB.test_c-tp2-rate-0.5rps.json"),
        ("test_a.b.py::test_c", "test_a.b/test_c.json"),
    ],
)
def test_the_path_of_a_point(nodeid, name):
    assert baseline_path(Path("baselines"), "h200x8-vllm", nodeid) == Path("baselines/h200x8-vllm") / name


@given(slowness=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_what_is_written_reads_back(path, slowness):
    found = result([steady_run(n, s) for n, s in enumerate(slowness)])
    read = read_baseline(written(path, found))
    assert len(read.runs) == len(slowness)
    for values, summary in zip(read.runs, found.summaries, strict=True):
        assert values == {
            quantity: rounded(summary.value(quantity)) for quantity in map(parse_quantity, quantity_names())
        }
    assert differences(read, found) == ()


def test_missing_values_stay_missing(path):
    found = result([run([failed()] * 4)])
    (values,) = read_baseline(written(path, found)).runs
    assert values[parse_quantity("ttft_p50")] is None
    assert values[parse_quantity("error_rate")] == 1.0


def test_the_same_result_gives_the_same_text_but_for_the_session(path):
    first = written(path, sha="abc").read_text().splitlines()
    second = written(path, sha="def").read_text().splitlines()
    changed = {
        line.split(":")[0].strip() for pair in zip(first, second, strict=True) for line in pair if pair[0] != pair[1]
    }
    assert changed <= {'"git_sha"', '"started"'}
    assert path.read_text().endswith("}\n")


def test_nothing_but_the_file_is_left(path):
    written(path)
    written(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_old_file(path):
    before = written(path).read_text()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_baseline(path, result(memory_gib=math.nan), NODEID, None)
    assert path.read_text() == before


def test_a_reader_never_sees_half_a_file(path):
    """The old file, opened before, stays whole: the new one takes its name, not its place."""
    with written(path).open() as reader:
        written(path, result([steady_run(slowness=2.0)]))
        assert json.load(reader)["schema"] == "llmperf.baseline/1"
        assert os.fstat(reader.fileno()).st_nlink == 0


def test_a_missing_file_names_the_flag(path):
    with pytest.raises(
        BaselineError, match=r"no baseline for this point .*seqs2-short\.json.*--llmperf-update-baselines"
    ):
        read_baseline(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"schema": 3}', '{"schema": "llmperf.baseline/x"}', "\x00"]
)
def test_a_damaged_file(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(BaselineError, match=r"seqs2-short\.json is damaged .*restore it from git"):
        read_baseline(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file(path, share):
    text = written(path).read_text()
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(BaselineError, match="is damaged"):
        read_baseline(path)


def metrics(data):
    return data["sessions"][0]["runs"][0]["metrics"]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("sessions"),
        lambda data: data.pop("identity"),
        lambda data: data.update(identity=None),
        lambda data: data.update(circumstances="fast"),
        lambda data: data.update(sessions=3),
        lambda data: metrics(data).update(ttft_ms=12.5),
        lambda data: metrics(data).update(error_rate=0.0),
        lambda data: metrics(data)["ttft_ms"].update(p50="12.5"),
        lambda data: metrics(data)["ttft_ms"].update(p50=True),
        lambda data: metrics(data)["ttft_ms"].update(p50=math.nan),
        lambda data: metrics(data)["ttft_ms"].update(p50=math.inf),
        lambda data: metrics(data)["ttft_ms"].update(p50=[1]),
    ],
)
def test_a_file_edited_by_hand(path, change):
    with pytest.raises(BaselineError, match="is damaged"):
        read_baseline(edited(path, change))


@pytest.mark.parametrize("schema", ["llmperf.baseline/2", "other.baseline/1"])
def test_a_file_of_another_schema(path, schema):
    with pytest.raises(
        BaselineError, match=f"has schema '{schema}'; this version .* reads llmperf.baseline/1; upgrade"
    ):
        read_baseline(edited(path, lambda data: data.update(schema=schema)))


def test_a_file_without_runs(path):
    with pytest.raises(BaselineError, match="holds no run"):
        read_baseline(edited(path, lambda data: data.update(sessions=[])))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (lambda: result(slug="cpu-embedded"), "environment was 'h200x1-embedded', is 'cpu-embedded'"),
        (lambda: result(gpus=("NVIDIA A100",)), r"gpus was \['NVIDIA H200'\], is \['NVIDIA A100'\]"),
        (lambda: result([replace(steady_run(), trace_hash="trace-2")]), "trace_hash was 'trace-1', is 'trace-2'"),
        (lambda: result(load=point(request_rate=5)), "load_shape was 'closed loop', is 'open loop'"),
        (lambda: result(config=server("{engine: vllm}")), "engine was 'embedded', is 'vllm'"),
        (lambda: result(config=server("{engine: embedded}", model="n")), "model was 'm', is 'n'"),
        (
            lambda: result(config=server("{engine: embedded}", locked="{dtype: float16}")),
            "dtype was None, is 'float16'",
        ),
    ],
)
def test_what_cannot_be_compared(path, now, message):
    with pytest.raises(BaselineError, match=f"is not comparable: .*{message}.*--llmperf-update-baselines"):
        differences(read_baseline(written(path)), now())


def test_what_may_differ_is_told(path):
    config = server("{engine: embedded, args: {max-num-seqs: 4, block-size: 32}}")
    now = result(config=config, engine_version="0.2", driver=None)
    assert differences(read_baseline(written(path)), now) == (
        "engine_version was '0.1', is '0.2'",
        "max-num-seqs was 2, is 4",
        "block-size was None, is 32",
        "driver was '550.1', is None",
    )


def test_a_model_folder_may_be_anywhere(path):
    here, there = (result(config=server("{engine: embedded}", model=f"/{home}/models/tiny")) for home in ("a", "b"))
    assert differences(read_baseline(written(path, here)), there) == ()
