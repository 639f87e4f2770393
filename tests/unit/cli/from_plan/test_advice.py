"""What two launches of an unchanged server say about a plan."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest
from samples import point, record, result, run, server

from pytest_llmperf.cli.from_plan.advice import advise
from pytest_llmperf.definitions import OUTPUT_RATE, Quantity
from pytest_llmperf.records import WarmUp

MEAN_ITL = Quantity("itl", "mean")
MARGINS = {MEAN_ITL: 0.05, OUTPUT_RATE: 0.05}


def measured(noise, factors=(1.0,) * 6, requests=80, load=None):
    """Six runs on two launches; every request's time differs by `noise`, every run's by its factor."""
    runs = []
    for index, factor in enumerate(factors):
        draw, now_ms, records = random.Random(index), 0.0, []
        for _ in range(requests):
            gap_ms = 10.0 * factor * draw.lognormvariate(0, noise)
            records.append(record(now_ms, [now_ms + gap_ms * number for number in (1, 2, 3, 4)]))
            now_ms += 4 * gap_ms
        made = run(records, index)
        warmed = WarmUp(50, 1.0, True) if index % 3 == 0 else None
        ended_ns = made.started_ns + round(now_ms * 1e6)
        runs.append(replace(made, launch=1 + index // 3, ended_ns=ended_ns, warmup=warmed))
    return result(runs, load=load or point(concurrency=1, requests=requests))


def test_a_good_plan_is_left_as_it_is():
    found = advise(measured(0.02), MARGINS)
    assert (found.load, found.margins, found.runs) == ({}, {}, 3)
    assert "the length is enough" in found.reasons[0]
    assert found.seconds == pytest.approx(3 * 80 * 0.04, rel=0.1)


def test_short_runs_get_the_length_that_would_do():
    found = advise(measured(0.25), MARGINS)
    assert 120 < int(found.load["requests"]) < 500
    assert found.reasons[0].startswith(f"requests {found.load['requests']}: within a run ")
    assert not found.margins


def test_a_duration_stays_one():
    load = point(concurrency=1, requests=None, duration="4 s")
    assert advise(measured(0.25, load=load), MARGINS).load["duration"].endswith(" s")


def test_a_length_that_the_load_leaves_open_stays():
    """What is recommended beside it is for runs of that length."""
    found = measured(0.6)
    auto = advise(replace(found, load=found.load.model_copy(update={"length": "auto"})), MARGINS)
    assert auto.load == {}
    mean_s = statistics.fmean(run.ended_ns - run.started_ns for run in found.runs) / 1e9
    assert auto.seconds == pytest.approx(auto.runs * mean_s)
    assert auto.margins[MEAN_ITL] > advise(found, MARGINS).margins.get(MEAN_ITL, 0.05)


def test_what_no_length_cures_gets_more_runs_and_a_wider_margin():
    found = advise(measured(0.02, (1.0, 1.12, 0.9, 1.08, 0.88, 1.05)), MARGINS)
    assert "requests" not in found.load
    assert found.runs == 12
    assert found.margins[MEAN_ITL] > 0.05
    assert any(line.startswith("margin of itl_mean") for line in found.reasons)


def test_runs_that_would_be_far_too_long_are_bounded():
    assert advise(measured(1.5), MARGINS).load["requests"] == "800"


def test_cold_first_runs_get_a_longer_warm_up():
    found = advise(measured(0.02, (1.2, 1.0, 1.0) * 2), {MEAN_ITL: 0.05})
    assert found.load["warmup"] == "{requests: 160}"


def test_one_cold_launch_of_two_is_no_rule():
    assert "warmup" not in advise(measured(0.02, (1.2, 1.0, 1.0, 1.0, 1.0, 1.0)), {MEAN_ITL: 0.05}).load


def test_a_server_that_is_up_already_is_not_warmed_longer():
    remote = server("{engine: openai, url: 'http://localhost:1'}")
    found = advise(replace(measured(0.02, (1.2, 1.0, 1.0) * 2), server=remote), {MEAN_ITL: 0.05})
    assert "warmup" not in found.load


def test_few_requests_tell_nothing_about_the_length():
    found = advise(measured(0.3, requests=20), {MEAN_ITL: 0.05})
    assert "requests" not in found.load
    assert "40 requests are needed" in found.reasons[0]
