"""`warmup` and `warmup_requests` of a load."""

from __future__ import annotations

import pytest
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.load.shapes import WarmUpSpec
from pytest_llmperf.runner.measure.warmup import warms_further


def point(keys: str):
    load = f"  s: {{input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 20{keys}}}"
    return parse_plan(plan_text(loads=load), "plan.yaml").load_points()[0]


@pytest.mark.parametrize(
    ("keys", "requests", "warmup", "started", "up"),
    [
        ("", 2, None, True, False),
        (", warmup: auto", 2, "auto", True, True),
        (", warmup: off", 0, "off", False, False),
        (", warmup_requests: 5", 5, "off", False, False),
        (", warmup_requests: 5, warmup: auto", 5, "auto", True, True),
        (", warmup: {requests: 100}", 2, WarmUpSpec(requests=100), True, True),
        (", prefix_cache: warm", 2, None, False, False),
    ],
)
def test_what_comes_before_the_first_run(keys, requests, warmup, started, up):
    found = point(keys)
    assert (found.warmup_requests, found.warmup) == (requests, warmup)
    assert (warms_further(found, True), warms_further(found, False)) == (started, up)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (", warmup: {}", "either `requests` or a `duration`"),
        (", warmup: {requests: 3, duration: 3 s}", "either `requests` or a `duration`"),
        (", warmup: long", "warmup"),
    ],
)
def test_warm_ups_that_are_none(keys, message):
    with pytest.raises(PlanError, match=r"plan\.yaml:5: loads\.s\.warmup.*") as caught:
        point(keys)
    assert message in str(caught.value)
