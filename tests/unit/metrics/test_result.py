"""A Result in a person's hands."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError
from samples import point, result, steady_run

from pytest_llmperf.errors import UnknownMetricError


def test_a_metric_by_its_name():
    found = result([steady_run()])
    assert found["ttft_p99"] == found.value("ttft_p99") == found.metrics.distributions["ttft"].stat("p99")


@pytest.mark.parametrize(
    ("name", "told"),
    [("ttft_p98", "did you mean 'ttft_p99'"), ("latency", "the nearest are "), ("ttft", "needs a statistic")],
)
def test_a_wrong_name_names_the_right_ones(name, told):
    with pytest.raises(UnknownMetricError, match=told):
        result([steady_run()])[name]


def test_its_repr_is_one_line():
    assert repr(result([steady_run(), steady_run(1)])).endswith("2 runs, valid)")


def test_a_load_point_with_other_values():
    load = point(concurrency=2, requests=20)
    assert (load.replace(concurrency=4).concurrency, load.concurrency) == (4, 2)
    assert load.replace(read_timeout="30 s").read_timeout == 30
    with pytest.raises(TypeError, match="no 'concurency'; did you mean 'concurrency'"):
        load.replace(concurency=4)
    with pytest.raises(ValidationError):
        load.replace(concurrency=0)
    other = load.replace(concurrency=None, request_rate="5 req/s")
    assert (other.closed_loop, other.request_rate) == (False, 5)
    with pytest.raises(ValidationError):
        other.replace(request_rate=-5)


@pytest.mark.parametrize(
    ("fields", "changes", "told"),
    [
        ({}, {"request_rate": 5}, "given: concurrency and request_rate (None takes one away)"),
        ({"request_rate": 5}, {"concurrency": 2}, "given: concurrency and request_rate"),
        ({}, {"concurrency": None}, "given: none of them"),
        ({"concurrency": 4}, {"requests": 2}, "requests: 2 is less than concurrency: 4"),
        ({}, {"duration": "5 s"}, "by `requests` or by `duration`; both are given"),
        ({"request_rate": 5, "arrival": "poisson"}, {"request_rate": None, "concurrency": 2}, "arrival: poisson needs"),
        ({}, {"max_in_flight": 2}, "max_in_flight: needs an open loop"),
        ({}, {"input_tokens": None}, "either `input_tokens` (synthetic prompts) or"),
    ],
)
def test_a_load_point_stays_one_that_a_plan_could_have(fields, changes, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        point(**fields).replace(**changes)
