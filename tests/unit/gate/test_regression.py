"""What of a result is compared with what of a baseline."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from samples import failed, point, result, run, steady_run

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.file import write_baseline
from pytest_llmperf.gate.baselines.growth import appended, promoted, recorded, stored_session
from pytest_llmperf.gate.judge import Judge
from pytest_llmperf.gate.regression import Regression, gated_margins, gated_series, launch_sizes
from pytest_llmperf.gate.verdict import PointVerdict, judge
from pytest_llmperf.metrics.stats.margins import GATED_BY_DEFAULT, tolerance

ITL, TTFT, RATE = Quantity("itl", "p50"), Quantity("ttft", "p99"), Quantity("output_token_throughput")
MARGINS = {ITL: 0.05, RATE: 0.05}


def measured(*slowness, launches=None, **facts):
    """One run per slowness; `launches` says which launch each run was made on."""
    runs = [steady_run(index, factor) for index, factor in enumerate(slowness)]
    if launches:
        runs = [replace(one, launch=launch) for one, launch in zip(runs, launches, strict=True)]
    return result(runs, **facts)


def session(found, day=1):
    return stored_session(found, datetime(2026, 1, day, tzinfo=UTC), None, launch_sizes(found))


def baseline(found, margins=None):
    return recorded(Path("b.json"), "t.py::t[a]", found, session(found), margins or MARGINS)


STEADY = (1.0,) * 5


def verdict(found, stored=None, margins=None):
    series, _ = gated_series(stored or baseline(measured(*STEADY)), found, margins or MARGINS)
    return judge({"a": series})["a"]


@pytest.mark.parametrize(
    ("slowness", "expected"), [(1.0, "PASS"), (0.99, "PASS"), (1.2, "FAIL"), (3.0, "FAIL"), (0.8, "IMPROVED")]
)
@pytest.mark.parametrize("quantity", [ITL, RATE], ids=str)
def test_verdicts_in_both_directions(slowness, expected, quantity):
    assert verdict(measured(*[slowness] * 5), margins={quantity: 0.05}).verdict == expected


def test_runs_of_one_launch_are_one_session():
    (series, _), _ = gated_series(baseline(measured(*STEADY)), measured(1, 1, 1, 1, launches=(1, 1, 1, 2)), MARGINS)
    assert [len(runs) for runs in series.baseline] == [5]
    assert [len(runs) for runs in series.candidate] == [3, 1]


def test_the_anchor_is_a_second_reference_where_it_is_another():
    first = baseline(measured(*STEADY))
    assert {series.reference for series in gated_series(first, measured(*STEADY), MARGINS)[0]} == {"rolling"}
    grown = first
    for day in range(2, 8):
        grown = appended(grown, measured(*[1 + day / 1000] * 5), session(measured(*[1 + day / 1000] * 5), day))
    series, _ = gated_series(grown, measured(*STEADY), MARGINS)
    assert [(one.reference, len(one.baseline)) for one in series] == [
        ("rolling", 7), ("rolling", 7), ("anchor", 5), ("anchor", 5)
    ]  # fmt: skip
    assert len(gated_series(promoted(grown), measured(*STEADY), MARGINS)[0]) == 4


def test_a_slow_drift_fails_against_the_anchor():
    anchored = baseline(measured(*STEADY))
    rolled = replace(anchored, rolling=(session(measured(*[1.12] * 5), 9),))
    found = verdict(measured(*[1.13] * 5), rolled)
    assert {m.series.reference for m in found.metrics if m.verdict == "FAIL"} == {"anchor"}
    assert found.verdict == "FAIL"


def test_another_machine_doubles_the_noise_that_is_expected_of_a_session():
    here, there = measured(*STEADY), measured(*STEADY, host="another")
    (series, _), notes = gated_series(baseline(here), there, MARGINS)
    assert series.prior.session_sd == 2 * tolerance(ITL).prior.session_sd
    assert notes == ("host was 'runner', is 'another'",)


def test_what_must_agree_and_does_not_is_no_comparison():
    with pytest.raises(BaselineError, match="is not comparable: environment was"):
        gated_series(baseline(measured(*STEADY)), measured(*STEADY, slug="other"), MARGINS)


def test_a_value_that_is_gone_fails():
    gone = result([*[steady_run(n) for n in range(4)], replace(run([failed()] * 20), index=4)])
    found = verdict(gone, margins={ITL: 0.05})
    assert found.verdict == "FAIL"
    assert "run 5 of 5 gave None" in found.metrics[0].reason


def test_a_baseline_of_too_few_runs_is_none():
    assert verdict(measured(*STEADY), baseline(measured(1.0, 1.0, 1.0))).verdict == "NO BASELINE"


@pytest.mark.parametrize(("requests", "expected"), [(199, "NOT GATED"), (200, "FAIL")])
def test_a_percentile_of_too_few_requests_is_not_gated(requests, expected):
    then = result([steady_run(n, 1.0, requests) for n in range(5)])
    now = result([steady_run(n, 2.0, requests) for n in range(5)])
    found = verdict(now, baseline(then), {TTFT: 0.2})
    assert found.verdict == expected


def of_requests(*requests):
    """Runs of so many requests each."""
    return result([steady_run(n, 1.0, count) for n, count in enumerate(requests)])


@pytest.mark.parametrize(
    ("then", "now", "expected", "reason"),
    [
        # A failed request, or a slower server within a duration.
        ((200,) * 5, (200, 199, 200), "INCONCLUSIVE", "as every run of the baseline has; run 2 of 3 has 199"),
        ((200,) * 5, (200,) * 3, "PASS", ""),
        # A duration in which there are as many by chance.
        ((201, 199, 203, 198, 200), (200, 199, 202), "NOT GATED", "there were 198"),
        ((201, 199, 203, 198, 200), (200, 201, 202), "NOT GATED", "there were 198"),
        ((100,) * 5, (100,) * 3, "NOT GATED", "there were 100"),
    ],
    ids=["lost", "enough", "by chance", "baseline by chance", "short load"],
)
def test_requests_that_only_this_session_lacks_leave_its_percentile_in_doubt(then, now, expected, reason):
    found = verdict(of_requests(*now), baseline(of_requests(*then)), {TTFT: 0.2})
    assert (found.verdict, found.run_again) == (expected, False)
    assert reason in found.metrics[0].reason


@pytest.mark.parametrize(("then", "told"), [(199, True), (200, False)])
def test_a_percentile_that_some_runs_have_enough_requests_for_goes_ungated_with_a_remark(tmp_path, then, told):
    gate = Judge(tmp_path)
    old, new = of_requests(200, 200, 200, 200, then), of_requests(200, 200, 200, 200, 200)
    write_baseline(gate.recorded("t.py::t[a]", old, session(old)))
    notes = gate.regression("t.py::t[a]", new).notes
    sentence = "is not gated: p99 needs 200 requests per run, there were 199"
    assert [note for note in notes if "not gated" in note] == [f"itl_p99 {sentence}", f"ttft_p99 {sentence}"] * told


def test_an_imported_baseline_may_be_of_other_numbers_of_requests():
    series, _ = gated_series(baseline(of_requests(*(200,) * 5)), of_requests(*(100,) * 3), {TTFT: 0.2})
    found = judge({"a": [replace(one, imported=True) for one in series]})["a"]
    assert found.verdict == "NOT GATED"


def test_nothing_gated_is_no_pass():
    assert Regression(PointVerdict((), False, False)).verdict == "NOT GATED"


def test_margins_of_the_plan_and_the_defaults():
    found = gated_margins(point(), {"itl_p50": 0.5, "e2e_p50": 0.2})
    assert found[ITL] == 0.5
    assert found[Quantity("e2e", "p50")] == 0.2
    assert set(found) == {parse_quantity(name) for name in (*GATED_BY_DEFAULT, "e2e_p50")}


def test_an_open_loops_throughput_is_what_was_offered():
    margins = dict.fromkeys(("request_throughput", "output_token_throughput_per_gpu", "goodput"), 0.1)
    found = {str(q) for q in gated_margins(point(request_rate=5), margins)}
    assert not {name for name in found if "throughput" in name}
    assert {"goodput", "itl_p50"} <= found
