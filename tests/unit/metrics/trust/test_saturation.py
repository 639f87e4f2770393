"""Whether latency grows for as long as the load lasts: queues of known load, and the edges of the rule."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import failed, point, record, run

from pytest_llmperf.metrics.trust.saturation import MIN_REQUESTS, done_rate, saturation, trend

OPEN = point(request_rate=10)


def queue(load: float, requests: int, seed: int = 0, rate: float = 10.0) -> list[tuple[float, float]]:
    """(due, latency) of one server with Poisson arrivals and a constant service time of `load` / `rate`."""
    draws, due, free, latencies = random.Random(seed), 0.0, 0.0, []
    for _ in range(requests):
        due += draws.expovariate(rate)
        free = max(free, due) + load / rate
        latencies.append((due, free - due))
    return latencies


@pytest.mark.parametrize("load", [1.3, 2.0, 4.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_queue_above_its_capacity(load, seed):
    found = trend(queue(load, 600, seed))
    assert found.saturated
    assert found.growth == pytest.approx(load - 1, abs=0.2 * load)
    assert found.last_ms > found.first_ms


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_a_queue_below_its_capacity(load, seed):
    assert not trend(queue(load, 600, seed)).saturated


@given(st.lists(st.floats(0.001, 10.0), min_size=MIN_REQUESTS, max_size=200))
def test_latencies_that_fall_are_never_saturation(latencies):
    falling = sorted(latencies, reverse=True)
    assert not trend([(index / 10, latency) for index, latency in enumerate(falling)]).saturated


@given(st.floats(0.11, 5.0), st.integers(100, 300))
def test_a_steady_growth_is_saturation(growth, requests):
    assert trend([(n / 10, 0.1 + growth * n / 10) for n in range(requests)]).saturated


def test_a_server_that_only_fills_up_is_not_saturated():
    ramp = [(n / 10, min(n / 10, 3.0)) for n in range(100)]
    assert not trend(ramp).saturated


def test_a_closed_loop_and_a_short_run_cannot_be_judged():
    steps = [record(n * 100.0, [n * 200.0 + 1.0], due_ms=n * 100.0) for n in range(MIN_REQUESTS)]
    assert saturation(run(steps), OPEN).saturated
    assert saturation(run(steps), point()) is None
    assert saturation(run(steps[1:]), OPEN) is None
    assert saturation(run([*steps[1:], failed(due_ms=1.0)]), OPEN) is None


def test_the_sentence_says_how_much_the_server_takes():
    steps = [record(n * 100.0, [n * 200.0 + 1.0], due_ms=n * 100.0) for n in range(40)]
    assert "keeps up with about 50% of the offered rate" in saturation(run(steps), OPEN).describe()


def test_equal_gaps_tell_a_small_excess_on_few_requests():
    late = [(n / 10, 0.5 + 0.05 * n / 10) for n in range(60)]
    assert trend(late, spread=0.0).saturated
    assert not trend(late, spread=1.0).saturated, "60 random arrivals stray by more than 5 %"


def test_what_the_server_took_is_counted_while_requests_come():
    due, ends = range(0, 1000, 10), [500 + 20 * n for n in range(100)]
    assert done_rate([n * 10**6 for n in due], [n * 10**6 for n in ends]) == pytest.approx(50)
    assert done_rate([0, 1], [5, 6]) is None
