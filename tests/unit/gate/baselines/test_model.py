"""What a baseline is compared by, and how it grows: recorded, appended to, trimmed, accepted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from samples import point, result, server, steady_run

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.growth import appended, promoted, recorded, stored_session, trimmed
from pytest_llmperf.gate.baselines.model import Differences, baseline_path, differences, per_run, sample_sizes

NODEID = "perf/test_a.py::test_serving[seqs2-short]"
PATH = Path("slug/seqs2-short.json")
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ITL = parse_quantity("itl_p50")


def runs(count, slowness=1.0):
    return [steady_run(number, slowness) for number in range(count)]


def session(found=None, day=0, launches=None):
    return stored_session(found or result(), START + timedelta(days=day), "abc", launches)


def made(found=None):
    found = found or result()
    return recorded(PATH, NODEID, found, session(found), {ITL: 0.05})


def grown(sessions):
    """A baseline of so many sessions, each slower than the one before."""
    baseline = made()
    for day in range(1, sessions):
        found = result(runs(3, 1 + day / 100))
        baseline = appended(baseline, found, session(found, day))
    return baseline


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("perf/test_a.py::test_serving[tp2-short]", "perf/test_a/test_serving-tp2-short.json"),
        ("test_a.py::TestB::test_c[tp2-rate-0.5rps]", "test_a/TestB.test_c-tp2-rate-0.5rps.json"),
        ("test_a.b.py::test_c", "test_a.b/test_c.json"),
        ("test_a.py::test_b[x/y]", "test_a/test_b-x.y-fe8c3149.json"),
        ("../perf/test_a.py::test_b", "perf.test_a.py.test_b-a535c0fc.json"),
        ("docs/a.md::a.md", "docs.a.md.a.md-d1ebf3d5.json"),
    ],
)
def test_the_path_of_a_point(nodeid, name):
    assert baseline_path(Path("baselines"), "h200x8-vllm", nodeid) == Path("baselines/h200x8-vllm") / name


# Recording


def test_a_first_session_is_rolling_and_anchor_and_provisional():
    baseline = made(result(runs(5)))
    assert baseline.rolling == baseline.anchor == baseline.sessions
    assert baseline.provisional
    assert len(baseline.runs) == 5


def test_the_values_of_a_run_are_its_summarys():
    found = result(runs(2))
    stored = session(found)
    assert [run.values[ITL] for run in stored.runs] == pytest.approx([s.value(ITL) for s in found.summaries], rel=1e-5)
    assert {run.n["itl"] for run in stored.runs} == {20}
    assert all(sum(run.histograms["ttft"].values()) == 20 for run in stored.runs)


def test_a_result_without_runs_makes_no_baseline():
    with pytest.raises(BaselineError, match="seqs2-short has no run"):
        session(result([]))


@pytest.mark.parametrize("launches", [(1,), (3,), (2, 0), (), (3, -1)])
def test_launches_must_add_up_to_the_runs(launches):
    with pytest.raises(ValueError, match="do not add up to 2 runs"):
        session(result(runs(2)), launches=launches)


def test_values_and_sizes_by_launch():
    stored = session(result(runs(5)), launches=(3, 2))
    assert [len(launch) for launch in per_run([stored, session()], ITL)] == [3, 2, 2]
    assert sample_sizes([stored], "itl") == (20,) * 5
    assert per_run([stored], Quantity("queued", "p50")) == ((None,) * 3, (None,) * 2)


def test_ids_tell_when_and_what():
    assert session().id.startswith("2026-01-02T03:04:05Z-")
    assert session().id == session().id
    assert session().id != session(result(runs(2, 1.5))).id


def test_start_times_are_stored_as_utc_seconds():
    local = START.astimezone(timezone(timedelta(hours=5))).replace(microsecond=7)
    assert stored_session(result(), local, None).started == START


# Appending


def test_a_session_that_passed_adds_its_first_three_runs():
    found = result(runs(6))
    baseline = appended(made(), found, session(found, 1, launches=(2, 2, 2)))
    assert [len(launch) for launch in baseline.rolling[-1].launches] == [2, 1]
    assert not baseline.provisional


def test_eight_sessions_roll_and_the_anchor_stays():
    baseline = grown(20)
    days = [(held.started - START).days for held in baseline.rolling]
    assert days == list(range(12, 20))
    assert [(held.started - START).days for held in baseline.anchor] == [0, 1, 2, 3, 4]
    assert len(baseline.sessions) == 13


def test_the_same_session_twice_is_once():
    found = result(runs(3))
    once = appended(made(), found, session(found, 1))
    assert appended(once, found, session(found, 1)) == once


def test_nothing_is_appended_that_cannot_be_compared():
    with pytest.raises(BaselineError, match="is not comparable"):
        appended(made(), result(gpus=("NVIDIA A100",)), session())


def test_a_merge_of_two_branches_is_trimmed_to_the_newest():
    baseline = grown(8)
    merged = replace(baseline, rolling=(*grown(12).rolling, *baseline.rolling[:3]))
    assert [(held.started - START).days for held in trimmed(merged).rolling] == list(range(4, 12))


# Accepting


def test_accepting_the_rolling_sessions_makes_them_the_anchor():
    baseline = promoted(grown(12))
    assert [(held.started - START).days for held in baseline.anchor] == list(range(7, 12))
    assert len(baseline.rolling) == 8
    found = result(runs(3))
    assert appended(baseline, found, session(found, 30)).anchor == baseline.anchor


def test_an_anchor_that_is_accepted_early_still_grows():
    baseline = promoted(grown(2))
    found = result(runs(3))
    assert len(appended(baseline, found, session(found, 3)).anchor) == 3


# Comparing


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (lambda: result(slug="cpu-embedded"), "environment was 'h200x1-embedded', is 'cpu-embedded'"),
        (lambda: result(gpus=("NVIDIA A100",)), r"gpus was \('NVIDIA H200',\), is \('NVIDIA A100',\)"),
        (lambda: result([replace(steady_run(), trace_hash="trace-2")]), "what is sent changed though no key"),
        (
            lambda: result([replace(steady_run(), trace_hash="trace-2")], load=point(input_tokens=60)),
            "input_tokens was [0-9]+, is 60",
        ),
        (lambda: result(load=point(request_rate=5)), "load_shape was 'closed loop', is 'open loop'"),
        (lambda: result(config=server("{engine: vllm}")), "engine was 'embedded', is 'vllm'"),
        (lambda: result(config=server("{engine: embedded}", model="n")), "model was 'm', is 'n'"),
        (
            lambda: result(config=server("{engine: embedded}", locked="{dtype: float16}")),
            "dtype was None, is 'float16'",
        ),
    ],
)
def test_what_cannot_be_compared(now, message):
    with pytest.raises(BaselineError, match=f"short.json is not comparable: .*{message}.*--llmperf-accept"):
        differences(made(), now())


def test_the_same_has_no_difference():
    assert differences(made(), result()) == Differences((), False)


def test_what_may_differ_is_told():
    config = server("{engine: embedded, args: {max-num-seqs: 4, block-size: 32}}")
    found = differences(made(), result(config=config, engine_version="0.2", driver=None))
    assert found.sentences == (
        "engine_version was '0.1', is '0.2'",
        "max-num-seqs was 2, is 4",
        "block-size was None, is 32",
        "driver was '550.1', is None",
    )
    assert found.elsewhere


def test_another_deployment_is_told():
    old = {"chart": "llm 1", "images": {"server": "r/i@sha256:a", "proxy": "r/p@sha256:p"}}
    new = {**old, "images": {**old["images"], "server": "r/i@sha256:b"}}
    found = differences(made(result(deployment=old)), result(deployment=new))
    assert found == Differences(("server was 'r/i@sha256:a', is 'r/i@sha256:b'",), elsewhere=False)
    assert differences(made(result(deployment=old)), result(deployment={**old, "machines": "p5"})).elsewhere


def test_a_changed_argument_alone_is_not_elsewhere():
    config = server("{engine: embedded, args: {max-num-seqs: 4}}")
    assert differences(made(), result(config=config)) == Differences(("max-num-seqs was 2, is 4",), False)


def test_what_a_session_of_the_reference_had_is_no_difference():
    """Two runners take turns: how much they differ is in the spread of the stored sessions."""
    other = result(host="runner-2")
    baseline = appended(made(), other, session(other, 1))
    assert differences(baseline, result()) == differences(baseline, other) == Differences((), False)
    anchored_here = replace(baseline, anchor=baseline.anchor[:1])
    assert differences(anchored_here, other, "anchor").sentences == ("host was 'runner', is 'runner-2'",)


def test_modelled_steps_are_the_same_on_every_machine():
    here, there = (result(simulated=True, host=host, cpu=host) for host in ("a", "b"))
    assert differences(made(here), there) == Differences((), False)


def test_a_model_folder_may_be_anywhere():
    here, there = (result(config=server("{engine: embedded}", model=f"/{home}/models/tiny")) for home in ("a", "b"))
    assert differences(made(here), there).sentences == ()
