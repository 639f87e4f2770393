"""`requests: auto` in a plan."""

from __future__ import annotations

import pytest
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.gate.load_facts import measuring_facts
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.file import parse_plan


def planned(load: str):
    (found,) = parse_plan(plan_text(loads=f"  s: {load}"), "plan.yaml").load_points()
    return found


@pytest.mark.parametrize(
    ("load", "fewest"),
    [
        ("{input_tokens: 8, concurrency: 2, requests: auto}", 100),
        ("{input_tokens: 8, concurrency: 64, requests: auto}", 320),
        ("{input_tokens: 8, request_rate: 20, requests: auto}", 100),
        ("{input_tokens: 8, concurrency: 16, requests: auto, conversation: {turns: 3}}", 240),
    ],
)
def test_it_begins_with_a_length_that_fills_the_slots(load, fewest):
    point = planned(load)
    assert (point.length, point.requests) == ("auto", fewest)


def test_a_decided_length_is_the_load_with_that_number():
    decided = planned("{input_tokens: 8, output_tokens: 4, concurrency: 2, requests: auto}").of_length(300)
    given = planned("{input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 300}")
    assert make_trace(decided, "k").hash == make_trace(given, "k").hash
    assert measuring_facts(decided.as_dict(), "vllm") == measuring_facts(given.as_dict(), "vllm")


def test_a_longer_trace_begins_with_the_shorter_one():
    point = planned("{input_tokens: {mean: 20, sd: 5}, output_tokens: 4, request_rate: 20, requests: auto}")
    short, long = make_trace(point, "k").requests, make_trace(point.of_length(300), "k").requests
    assert long[: len(short)] == short


def test_a_number_in_its_place_ends_it():
    point = planned("{input_tokens: 8, concurrency: 2, requests: auto}").replace(requests=40)
    assert (point.length, point.requests) == (None, 40)


def test_it_goes_with_another_concurrency():
    point = planned("{input_tokens: 8, concurrency: 2, requests: auto}").replace(concurrency=64)
    assert (point.length, point.requests) == ("auto", 320)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("concurrency: 2, requests: often", "requests"),
        ("concurrency: 2, requests: auto, duration: 3 s", "both are given"),
        ("concurrency: 2, requests: auto, stability: {within: 10 %}", "requests: auto has no place beside `stability`"),
    ],
)
def test_what_it_does_not_go_with_is_told(keys, words):
    with pytest.raises(PlanError, match=words):
        planned(f"{{input_tokens: 8, {keys}}}")
