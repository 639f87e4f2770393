"""Capacity searches without a server: which levels are tried, what they say, and what a gate makes of it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from capacity_samples import LOAD, RATES, asked, baseline, capacity, level, loads, searched, trial, verdict
from hypothesis import given
from hypothesis import strategies as st
from samples import failed, plan_text, record, result, run

from pytest_llmperf.errors import BaselineError, PlanError
from pytest_llmperf.gate.regression import bound_notes, gated_margins, gated_series
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.interchange.exports import capacity_csv
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import (
    BracketStart,
    LevelTrial,
    concluded,
    levels_upwards,
    most_levels,
    next_level,
)
from pytest_llmperf.metrics.capacity.level import Execution
from pytest_llmperf.metrics.summary import summarize
from pytest_llmperf.metrics.trust.saturation import Saturation
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.load.capacity import CapacitySpec
from pytest_llmperf.report.html.capacity import trial_label
from pytest_llmperf.report.json.point import capacity_dict
from pytest_llmperf.report.json.properties import capacity_properties
from pytest_llmperf.report.media import html_report
from pytest_llmperf.report.sections.capacity import capacity_table
from pytest_llmperf.report.text import Screen
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.runner.tasks.capacity import drawn_anew, level_point, search_hash

SLOTS = '{concurrency: "1:64", sla: {ttft_p50: "<= 20 ms"}}'


# The plan


def test_limits_of_plan_load_and_search_are_the_levels():
    (point,) = loads(
        '{request_rate: "1:200", sla: {ttft_p50: "<= 20 ms"}}',
        ', sla: {capacity: ">= 40 req/s", itl_p50: "<= 9 ms"}',
        'sla: {ttft_p50: "<= 1 s", output_token_throughput: ">= 140 tok/s", capacity: ">= 1 req/s"}',
    )
    assert {str(limit) for limit in point.capacity.sla} == {"ttft_p50 <= 20 ms", "itl_p50 <= 9 ms", "error_rate <= 0"}
    assert [str(limit) for limit in point.sla] == ["output_token_throughput >= 140 tok/s", "capacity >= 40 req/s"]


def test_a_plans_capacity_limit_is_for_loads_that_search_one():
    text = plan_text(rest='sla: {capacity: ">= 40 req/s", error_rate: "<= 0"}')
    (point,) = parse_plan(text, "plan.yaml").load_points()
    assert [str(limit) for limit in point.sla] == ["error_rate <= 0"]


def test_a_limit_in_requests_is_one_of_concurrency():
    (point,) = loads(SLOTS, ', sla: {capacity: ">= 40 requests in flight"}')
    assert [str(limit) for limit in point.sla] == ["capacity_concurrency >= 40 requests"]
    assert point.closed_loop


def test_other_axes_may_be_swept():
    load = '{input_tokens: {sweep: [8, 16]}, capacity: {request_rate: "1:9", sla: {e2e_p50: "<= 1 s"}}, requests: 30}'
    points = parse_plan(plan_text(loads=f"  s: {load}"), "plan.yaml").load_points()
    assert [point.name for point in points] == ["s-in8", "s-in16"]


@pytest.mark.parametrize(
    ("capacity", "more", "message"),
    [
        ('{request_rate: "1:200"}', "", "5: loads.s.capacity: no limit says what a level must meet"),
        ("{request_rate: 1:50, sla: {ttft_p50: '<= 1 s'}}", "", "request_rate: 110 is not a range; write 'low:high'"),
        ("{request_rate: '9:3', sla: {ttft_p50: '<= 1 s'}}", "", "0 < low < high is needed"),
        ("{concurrency: '1.5:3', sla: {ttft_p50: '<= 1 s'}}", "", "a concurrency is a whole number"),
        ("{sla: {ttft_p50: '<= 1 s'}}", "", "capacity has either `request_rate"),
        ("{concurency: '1:3'}", "", "unknown key 'concurency'; did you mean 'concurrency'?"),
        ("{concurrency: '1:3', within: 0.1 %}", "", "between 1 % and 100 % is needed"),
        ("{concurrency: '1:3', sla: {request_throughput: '>= 4 req/s'}}", "", "grows with the level"),
        (RATES, ", sla: {capacity: '>= 4 requests'}", "a capacity in requests in flight is limited"),
        (RATES, ", sla: {capacity: '>= 400 req/s'}", "lies above the range that is searched, which ends at 200"),
        (RATES, ", stability: {within: 10 %}", "stability: has no place beside `capacity`"),
        (RATES, ", ramp: {from: 1, over: 3 s}", "ramp: has no place beside `capacity`"),
        (RATES, ", concurrency: 3", "a load has either"),
        (SLOTS, ", arrival: poisson", "arrival: poisson needs `request_rate`"),
    ],
)
def test_mistakes_say_what_is_allowed(capacity, more, message):
    with pytest.raises(PlanError, match=r"plan\.yaml:5: ") as caught:
        loads(capacity, more)
    assert message in str(caught.value)


def test_too_few_requests_for_a_rate():
    with pytest.raises(PlanError, match="requests: 20 per level are too few"):
        parse_plan(plan_text(loads=f"  s: {(LOAD % (RATES, '')).replace('60', '20')}"), "plan.yaml")


def test_a_level_has_two_requests_per_slot_at_least():
    (point,) = loads(SLOTS)
    assert [level_point(point, level).requests for level in (1, 64)] == [60, 128]
    assert level_point(point, 4).concurrency == 4


def test_a_level_lasts_long_enough_for_its_limit_whatever_the_requests():
    (point,) = loads('{request_rate: "1:200", sla: {ttft_p99: "<= 500 ms"}}')
    assert level_point(point, 100).requests == 1000, "20 times 500 ms"
    assert level_point(point, 100, service_s=3.0).requests == 3000, "10 times the longest request"
    assert level_point(point, 1).requests == 60, "as the plan says"


def test_a_level_that_lasts_a_time_is_lengthened_too():
    (point,) = loads('{request_rate: "1:200", sla: {ttft_p99: "<= 500 ms"}}')
    timed = point.model_copy(update={"requests": None, "duration": 4.0})
    assert level_point(timed, 100).duration == 10.0
    assert level_point(timed, 1).duration == 30.0, "30 requests at 1 req/s"


@pytest.mark.parametrize(("limit", "fewest"), [("ttft_p99", 1000), ("ttft_p90", 500), ("ttft_mean", 500)])
def test_random_arrivals_need_many_requests(limit, fewest):
    (point,) = loads(f'{{request_rate: "1:200", sla: {{{limit}: "<= 5 ms"}}}}', ", arrival: poisson")
    assert level_point(point, 100).requests == fewest


def test_every_execution_of_random_arrivals_draws_others():
    (point,) = loads(more=", arrival: poisson")
    drawn = [drawn_anew(point, number).seed for number in range(4)]
    assert drawn[0] == point.seed
    assert len(set(drawn)) == 4
    assert drawn == [drawn_anew(point, number).seed for number in range(4)], "the same ones in every session"


def test_the_range_is_no_part_of_what_is_compared():
    (narrow,), (wide,), (other,) = loads(), loads(RATES.replace("200", "400")), loads(RATES.replace("20 ms", "30 ms"))
    assert search_hash(narrow) == search_hash(wide) != search_hash(other)


# Which levels are tried


def test_doubling_then_bisection():
    found = searched(asked(), 43.0)
    assert [t.level for t in found.trials] == [1, 2, 4, 8, 16, 32, 64, 45.25, 38.05, 41.49, 43.33]
    assert (found.ended, found.holds, found.breaks) == ("found", 41.49, 43.33)
    assert found.estimate == pytest.approx(43.0)


@given(threshold=st.floats(0.5, 400), share=st.floats(0.01, 0.5), slots=st.booleans())
def test_a_search_brackets_the_threshold(threshold, share, slots):
    axis = "concurrency" if slots else "request_rate"
    spec = asked(f'{{{axis}: "2:150", within: {share}, sla: {{ttft_p50: "<= 20 ms"}}}}')
    found = searched(spec, threshold)
    assert len(found.trials) <= most_levels(spec) + 1
    assert len({t.level for t in found.trials}) == len(found.trials)
    assert all(2 <= t.level <= 150 and t.level < 2.001 * max(threshold, 2) for t in found.trials)
    if found.ended == "found":
        assert found.holds <= threshold < found.breaks
        assert found.breaks / found.holds <= 1 + share + 1e-6 or (slots and found.breaks - found.holds <= 1)
        assert found.estimate == pytest.approx(threshold)
    else:
        assert found.ended == ("none" if threshold < 2 else "range")


@given(first=st.floats(3, 140), then=st.floats(3, 140), slots=st.booleans())
def test_a_later_search_finds_an_answer_that_has_moved(first, then, slots):
    spec = asked(SLOTS.replace("1:64", "1:200") if slots else RATES)
    known = searched(spec, first)
    found = searched(spec, then, BracketStart(known.holds, known.breaks))
    assert found.ended == "found"
    assert found.estimate == pytest.approx(then)


def test_a_later_search_of_the_same_server_takes_two_levels():
    spec = asked()
    known = searched(spec, 43.0)
    assert [t.level for t in searched(spec, 43.0, BracketStart(known.holds, known.breaks)).trials] == [41.49, 43.33]


@pytest.mark.parametrize("verdict", ["INVALID", "DIED"])
def test_nothing_is_offered_after_the_end(verdict):
    spec = asked()
    trials = [*(trial(spec, level, 999) for level in (1, 2)), LevelTrial(4, verdict, True, "why")]
    assert next_level(spec, trials) is None
    found = concluded(trials, spec)
    assert (found.ended, found.holds, found.breaks) == (verdict.lower(), 2, 4 if verdict == "DIED" else None)
    assert next_level(spec, [trial(spec, 2, 999)], BracketStart(2, found.breaks), ceiling=4) is None


def test_levels_upwards_end_at_the_range():
    assert levels_upwards(asked('{request_rate: "3:20", sla: {ttft_p50: "<= 1 s"}}')) == (3, 6, 12, 20)


# Whether a level holds


def execution(ttft_ms: float, errors: int = 0, **facts) -> Execution:
    (point,) = loads()
    good = [record(k * 50.0, [k * 50.0 + ttft_ms + step for step in (0, 10, 20, 30)]) for k in range(40)]
    bad = [failed(k * 50.0) for k in range(errors)]
    return Execution(summarize(run([*good, *bad]), level_point(point, 20)), None, **facts)


def test_far_below_the_limit_one_execution_is_enough():
    found = level(execution(10))
    assert (found.verdict, found.sure) == ("HOLDS", True)
    assert found.reason == "ttft_p50 10 ms, limit <= 20 ms"


def test_near_the_limit_it_is_open():
    assert not level(execution(19.5)).sure
    assert not level(execution(20.5)).sure


def test_a_broken_limit_is_looked_at_twice():
    assert (level(execution(60)).verdict, level(execution(60)).sure) == ("FAILS", False)
    twice = level(execution(60), execution(62))
    assert (twice.verdict, twice.sure, twice.repeats) == ("FAILS", True, 2)


def test_executions_that_disagree_leave_it_open():
    assert not level(execution(60), execution(10)).sure


def test_failed_requests_break_a_level():
    found = level(execution(10, errors=1))
    assert (found.verdict, found.sure, found.failed) == ("FAILS", True, 1)
    assert found.reason.startswith("error_rate")


def test_no_answer_at_all_breaks_a_level():
    (point,) = loads()
    nothing = Execution(summarize(run([failed(0.0)] * 30), level_point(point, 20)), None)
    assert level(nothing, nothing).verdict == "FAILS"


def test_over_saturation_breaks_a_level_whose_latency_is_still_low():
    behind = replace(execution(10), saturation=Saturation(True, 0.5, 10, 90))
    found = level(behind)
    assert (found.verdict, found.sure) == ("FAILS", True)
    assert found.reason.startswith("over-saturated")


def test_over_saturation_is_told_with_what_the_server_took():
    behind = replace(execution(10), saturation=Saturation(True, 0.5, 10, 90, done_rate=14.2))
    found = level(behind)
    assert (found.saturated, found.done_rate) == (True, 14.2)
    assert found.reason.endswith("requests ended at 14.2 req/s")
    assert trial_label(found) == "FAILS, over-saturated"


def test_tails_of_random_arrivals_are_pooled():
    short, long = ({"ttft": [float(value)] * 100} for value in (5, 30))
    found = level(replace(execution(5), samples=short), replace(execution(30), samples=long))
    assert dict(found.values)[asked().sla[0]] == pytest.approx(17.5), "the median of all requests"


def test_a_client_that_could_not_offer_it_is_no_verdict_on_the_server():
    found = level(execution(60, invalid=("run 1: client CPU 99%",)))
    assert (found.verdict, found.reason) == ("INVALID", "run 1: client CPU 99%")


def test_a_spoiled_repeat_does_not_count():
    found = level(execution(19.5), execution(60, invalid=("run 1: client CPU 99%",)))
    assert (found.verdict, found.sure, found.repeats) == ("HOLDS", False, 2)


def test_a_server_that_fails_the_lead_in_gave_out():
    found = level(execution(10, gave_out="3 requests of the lead-in failed"))
    assert (found.verdict, found.sure, found.reason) == ("FAILS", True, "3 requests of the lead-in failed")


# The answer


def near(level: float, ttft: float, done_rate: float, saturated: bool = False) -> LevelTrial:
    spec = asked()
    made = trial(spec, level, 999)
    verdict = "FAILS" if saturated or ttft > 20 else "HOLDS"
    return replace(
        made, verdict=verdict, values=((spec.sla[0], ttft),), done_rate=done_rate, saturated=saturated, reason="r"
    )


def test_a_server_that_falls_behind_within_its_limit_has_what_it_took():
    found = concluded([near(120, 5, 119.8), near(126, 9, 121.0, saturated=True)], asked())
    assert (found.estimate, found.interpolated) == (121.0, True)


def test_no_answer_exceeds_what_the_server_took():
    found = concluded([near(124, 19, 121.4), near(130, 40, 121.0, saturated=True)], asked())
    assert found.estimate == 121.4
    assert Capacity(asked(), (found,)).value == pytest.approx(121.4)


def test_a_server_that_gets_slower_when_it_is_offered_too_much_keeps_what_held():
    found = concluded([near(124, 5, 124.0), near(130, 900, 80.0, saturated=True)], asked())
    assert found.estimate == 124


def test_under_random_arrivals_the_answer_is_the_low_end():
    found = replace(capacity(43.0, 43.5, 42.5), random_arrivals=True)
    assert found.value == found.interval.low
    assert "capacity 41.01 req/s (90 % interval 41.01 to 45.09, of which random arrivals allow the low end; " in (
        found.sentence
    )


def test_the_answer_names_both_levels_and_an_interval():
    found = capacity(43.0, 43.5, 42.5)
    told = "(90 % interval 41.01 to 45.09; 41.49 holds, 45.25 does not; 3 searches)"
    assert found.sentence == f"capacity 43 req/s {told}"
    assert found.interval.low < found.value < found.interval.high
    assert found.resolution == 0, "the limit was interpolated"


def test_the_end_of_the_range_is_only_a_bound():
    found = capacity(900.0)
    assert found.sentence == "capacity is at least 200 req/s: the end of the range still holds"
    assert (found.is_bound, found.interval) == (True, None)


def test_none():
    found = capacity(0.5)
    assert (found.value, found.holds) == (None, None)
    assert found.sentence == "no capacity: even 1 req/s does not hold (ttft 160)"


def test_one_search_without_an_answer_is_none():
    assert capacity(43.0, 0.5).value is None


def test_what_the_client_could_not_offer_is_told():
    spec = asked()
    found = Capacity(spec, (concluded([trial(spec, 1, 9), LevelTrial(2, "INVALID", True, "client CPU 99%")], spec),))
    assert found.sentence == "capacity is at least 1 req/s: the client could not offer 2 req/s (client CPU 99%)"


def test_a_server_that_died_is_told():
    spec = asked()
    found = Capacity(spec, (concluded([trial(spec, 1, 9), LevelTrial(2, "DIED", True, "exit code 1")], spec),))
    assert (found.value, found.is_bound, found.resolution) == (1, False, 1.0)
    assert found.notes == ("the server gave out at 2 req/s: exit code 1",)


def test_searches_that_disagree_are_told():
    (note,) = capacity(43.0, 30.0).notes
    assert note.startswith("searches disagree: 41.49 req/s held in search 1, ")


# Gate and reports


def measured(*thresholds: float, spec: CapacitySpec | None = None, more: str = ""):
    (point,) = loads(more=more)
    spec = spec or point.capacity
    held = capacity(*thresholds, spec=spec)
    base = result([replace(run([record()]), index=n) for n in range(len(thresholds))], load=point)
    scalars = [{"capacity": search.estimate} for search in held.searches]
    summaries = tuple(s.with_scalars(values) for s, values in zip(base.summaries, scalars, strict=True))
    metrics = base.metrics.with_scalars({"capacity": held.value})
    return replace(base, capacity=held, summaries=summaries, metrics=metrics)


def test_only_the_capacity_is_gated():
    (point,) = loads()
    margins = gated_margins(point, {"itl_p50": 0.01, "capacity": 0.03})
    assert {str(quantity): margin for quantity, margin in margins.items()} == {"capacity": 0.03}


def test_a_capacity_is_compared_with_its_baseline():
    then = measured(43, 43.4, 42.8, 43.1, 42.9)
    assert verdict(then, measured(42.9, 43, 43.2, 43.1, 42.7)) == "PASS"
    assert verdict(then, measured(30, 30.3, 29.8, 30.1, 30.2)) == "FAIL"
    assert verdict(then, measured(60, 60.3, 59.8, 60.1, 60.2)) == "IMPROVED"


@pytest.mark.parametrize("slowest", [43, 24], ids=["all runs", "their mean"])
def test_a_bound_below_the_baseline_is_no_verdict(slowest):
    narrow = asked('{request_rate: "1:32", sla: {ttft_p50: "<= 20 ms"}}')
    now = measured(43, 43, 43, spec=narrow)
    series, _ = gated_series(baseline(measured(slowest, 43, 43, 43, 43)), now, gated_margins(now.load, {}))
    with pytest.raises(BaselineError, match=r"at least 32 req/s.*cannot be told whether it got worse"):
        bound_notes(now, gated_margins(now.load, {}), series)


def test_a_bound_below_the_mean_of_the_baseline_is_told_where_nothing_fails():
    narrow = asked('{request_rate: "1:32", sla: {ttft_p50: "<= 20 ms"}}')
    now = measured(43, 43, 43, spec=narrow)
    series, _ = gated_series(baseline(measured(24, 43, 43, 43, 43)), now, gated_margins(now.load, {}))
    (note,) = bound_notes(now, gated_margins(now.load, {}), series, "report-only")
    assert note.startswith("capacity is at least 32 req/s")


def test_a_bound_above_the_baseline_says_what_it_does_not_see():
    now = measured(900, 900, 900)
    series, _ = gated_series(baseline(measured(43, 43, 43, 43, 43)), now, gated_margins(now.load, {}))
    (note,) = bound_notes(now, gated_margins(now.load, {}), series)
    assert note.endswith("the end of the range still holds; what changes above that is not seen")


def test_a_coarse_answer_widens_the_interval_and_says_so():
    spec = asked()
    died = concluded([trial(spec, 1, 9), LevelTrial(2, "DIED", True, "exit code 1")], spec)
    now = replace(measured(1.5), capacity=Capacity(spec, (died,)))
    series, _ = gated_series(baseline(measured(43, 43, 43, 43, 43)), now, gated_margins(now.load, {}))
    assert (
        "known to 100% only, which is coarser than the margin of 10%"
        in bound_notes(now, gated_margins(now.load, {}), series)[0]
    )
    assert series[0].prior.session_sd > 0.15


def test_limits_on_a_capacity():
    (fine,) = check_sla(loads(more=', sla: {capacity: ">= 30 req/s"}')[0].sla, measured(43, 43.2, 42.9), 8)
    assert (fine.verdict, fine.verified) == ("PASS", True)
    (bad,) = check_sla(loads(more=', sla: {capacity: ">= 90 req/s"}')[0].sla, measured(43, 43.2, 42.9), 8)
    assert bad.verdict == "FAIL"


def test_without_a_limit_the_lowest_level_must_hold():
    (check,) = check_sla((), measured(43), 8)
    assert (str(check.limit), check.verdict) == ("capacity >= 1 req/s", "PASS")
    (check,) = check_sla((), measured(0.5), 8)
    assert not check.ok
    assert check.describe() == "capacity: no capacity: even 1 req/s does not hold (ttft 160), limit >= 1 req/s"


def test_a_lowest_level_that_holds_is_enough_whatever_its_interval():
    """Of random arrivals the answer is the low end of the interval, which lies below that level."""
    now = measured(1.02, 1.02)
    now = replace(now, capacity=replace(now.capacity, random_arrivals=True))
    assert now.capacity.value < 1 == now.capacity.holds
    (check,) = check_sla((), replace(now, metrics=now.metrics.with_scalars({"capacity": now.capacity.value})), 8)
    assert (check.verdict, check.value, check.undecided) == ("PASS", now.capacity.value, False)


def test_a_limit_above_what_could_be_offered_is_not_met():
    spec = asked()
    bound = concluded([trial(spec, 1, 9), LevelTrial(2, "INVALID", True, "client CPU 99%")], spec)
    now = replace(measured(1.5), capacity=Capacity(spec, (bound,)))
    now = replace(now, metrics=now.metrics.with_scalars({"capacity": 1.0}))
    (check,) = check_sla(loads(more=', sla: {capacity: ">= 30 req/s"}')[0].sla, now, 8)
    assert check.verdict == "FAIL"
    assert "the client could not offer 2 req/s" in check.describe()


def test_json_junit_and_csv():
    found = capacity(43.0, 43.5)
    data = capacity_dict(found)
    assert data["value"] == pytest.approx(43.2493, abs=1e-3)
    assert [row["level"] for row in data["searches"][0]["levels"]][:3] == [1, 2, 4]
    assert data["criterion"] == ["ttft_p50 <= 20 ms", "error_rate <= 0"]
    properties = dict(capacity_properties(found))
    assert properties["llmperf.capacity.low"] < properties["llmperf.capacity"] < properties["llmperf.capacity.high"]
    rows = list(csv.DictReader(io.StringIO(capacity_csv(found))))
    assert len(rows) == len(found.trials)
    assert (rows[0]["level"], rows[0]["unit"], rows[0]["verdict"]) == ("1.0", "req/s", "HOLDS")


@pytest.mark.parametrize("width", [80, 200])
def test_no_number_of_the_table_is_cut_where_the_terminal_is_narrow(width):
    console = Screen(width=width, file=io.StringIO())
    console.print(capacity_table("a-point", capacity(43.0, 43.5), width))
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    assert {"search", "ttft", "FAILS", "43.33"} <= set(printed.split())


def test_the_page_has_a_section_and_a_text_alternative():
    outcome = Outcome("t.py::test_a[x]", "x", measured(43.0, 43.5), passed=True)
    page = html_report([outcome], datetime(2026, 1, 2, tzinfo=UTC))
    assert '<section id="capacity">' in page
    assert "ttft_p50 by level" in page
    assert page.count("FAILS") > 2
