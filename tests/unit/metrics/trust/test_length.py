"""Runs of one trace with noise of their own: is what a run says of its own error what its runs differ by?"""

from __future__ import annotations

import functools
import math
import random
import re
import statistics
from dataclasses import replace

import pytest
from samples import point, record, run

from pytest_llmperf.definitions import OUTPUT_RATE, Quantity
from pytest_llmperf.metrics.stats.estimate import compare
from pytest_llmperf.metrics.stats.margins import tolerance
from pytest_llmperf.metrics.summary import summarize
from pytest_llmperf.metrics.trust.length import (
    drift_remarks,
    length_remarks,
    rounded_up,
    run_errors,
    typical_error,
    typical_errors,
)

ITL, MEAN_ITL, TTFT, TAIL = (
    Quantity("itl", "p50"),
    Quantity("itl", "mean"),
    Quantity("ttft", "p50"),
    Quantity("itl", "p99"),
)
LOAD = point(concurrency=1, requests=200)


@functools.cache
def noisy_run(seed: int, noise: float, *, requests: int = 200, trend: float = 0.0):
    """One slot's requests, of lengths that are those of the trace; every request's time has a factor of its own."""
    draw, lengths = random.Random(seed), random.Random(0)
    records, now_ms = [], 0.0
    for place in range(requests):
        tokens = lengths.randint(3, 12)
        usual_ms = 10.0 * lengths.lognormvariate(0, 0.5)
        gap_ms = usual_ms * draw.lognormvariate(0, noise) * (1 + trend * place / requests)
        first_ms = now_ms + 5 * gap_ms
        records.append(record(now_ms, [first_ms + gap_ms * token for token in range(tokens)]))
        now_ms = first_ms + gap_ms * (tokens - 1)
    found = run(records, seed)
    return replace(found, ended_ns=found.started_ns + round(now_ms * 1e6))


@pytest.mark.parametrize("quantity", [ITL, MEAN_ITL, TTFT, TAIL, OUTPUT_RATE], ids=str)
def test_a_run_tells_what_runs_of_its_trace_differ_by(quantity):
    runs = [noisy_run(seed, 0.2) for seed in range(24)]
    values = [summarize(one, LOAD).value(quantity) for one in runs]
    told = typical_error(run_errors(runs[:5], [quantity]), quantity)
    assert told is not None
    assert 0.6 < told / statistics.stdev(map(math.log, values)) < 1.7


def test_the_trace_itself_is_no_noise():
    quiet = [noisy_run(seed, 0.002) for seed in range(4)]
    assert typical_error(run_errors(quiet, [MEAN_ITL]), MEAN_ITL) < 0.0005
    (alone,) = run_errors(quiet[:1], [MEAN_ITL])
    assert alone[MEAN_ITL].error > 0.02  # one run cannot tell the trace from noise


@pytest.mark.parametrize(
    "quantity", [Quantity("icl", "p50"), Quantity("itl", "max"), Quantity("request_throughput")], ids=str
)
def test_what_is_no_mean_or_percentile_of_requests_has_no_own_error(quantity):
    assert run_errors([noisy_run(1, 0.1), noisy_run(2, 0.1)], [quantity]) == [{}, {}]


def test_few_requests_and_no_runs_say_nothing():
    assert run_errors([noisy_run(1, 0.1, requests=30)], [ITL]) == [{}]
    assert run_errors([], [ITL]) == []
    assert run_errors([run([])], [ITL, MEAN_ITL, OUTPUT_RATE]) == [{}]


def test_short_runs_are_told_with_the_length_that_would_do():
    runs = [noisy_run(seed, 0.5) for seed in range(4)]
    errors = run_errors(runs, [MEAN_ITL, OUTPUT_RATE])
    own = typical_errors(errors, {MEAN_ITL: 1.0, OUTPUT_RATE: 1.0})
    (told,) = length_remarks(runs, own, {MEAN_ITL: 0.05, OUTPUT_RATE: 0.5})
    assert "within a run itl_mean has an error of" in told
    assert "would make that 1.7%" in told
    requests = float(re.search(r"([\d,]+) requests", told)[1].replace(",", ""))
    times = (typical_error(errors, MEAN_ITL) / (0.05 / 3)) ** 2
    assert requests == pytest.approx(200 * times, rel=0.1)


def test_long_runs_are_not_told():
    runs = [noisy_run(seed, 0.05) for seed in range(4)]
    own = typical_errors(run_errors(runs, [MEAN_ITL]), {MEAN_ITL: 1.0})
    assert not list(length_remarks(runs, own, {MEAN_ITL: 0.05}))


def test_no_run_has_a_larger_error_of_its_own_than_runs_differ_by():
    runs = [noisy_run(seed, 0.5) for seed in range(4)]
    assert typical_errors(run_errors(runs, [MEAN_ITL]), {MEAN_ITL: 0.01, TTFT: 0.01}) == {MEAN_ITL: 0.01}


def test_a_third_of_the_margin_decides_in_three_runs():
    draw, passed = random.Random(5), 0
    allowed = tolerance(MEAN_ITL)
    for _ in range(200):
        old = [[draw.lognormvariate(0, allowed.margin / 3) for _ in range(3)] for _ in range(5)]
        new = [[draw.lognormvariate(0, allowed.margin / 3) for _ in range(3)]]
        passed += compare(old, new, allowed.prior, "lower").bound(0.95) < math.log1p(allowed.margin)
    assert passed >= 180


def test_a_run_that_drifts_as_the_others_do_not_is_told():
    runs = [noisy_run(1, 0.05, trend=-0.4), *(noisy_run(seed, 0.05) for seed in range(2, 6))]
    told = list(drift_remarks(run_errors(runs, [MEAN_ITL]), {MEAN_ITL: 0.05}))
    assert len(told) == 1
    assert told[0].startswith("run 1 drifted")
    assert "itl_mean -" in told[0]


def test_what_all_runs_do_alike_is_the_loads_own():
    runs = [noisy_run(seed, 0.05, trend=-0.4) for seed in range(5)]
    assert not list(drift_remarks(run_errors(runs, [MEAN_ITL]), {MEAN_ITL: 0.05}))


@pytest.mark.parametrize(("given", "rounded"), [(7, 7), (100, 100), (101, 110), (1234.5, 1300)])
def test_lengths_are_round(given, rounded):
    assert rounded_up(given) == rounded
