"""Batches of the same requests: are they as fast as the ones before?"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from samples import record

from pytest_llmperf.metrics.trust.warmth import drifts


def batch(draw: random.Random, factor: float, noise: float, requests: int, *, failed: bool = False):
    """Requests of very different lengths; one that takes so many times the usual, give or take the noise."""
    lengths = random.Random(7)
    records = []
    for index in range(requests):
        tokens = lengths.randint(5, 50)
        gap_ms = 10 * factor * draw.lognormvariate(0, noise)
        first_ms = 50 * factor * draw.lognormvariate(0, noise)
        made = replace(record(0.0, [first_ms + gap_ms * token for token in range(tokens)]), index=index)
        records.append(replace(made, error="HTTP 503") if failed else made)
    return tuple(records)


def steady(factors: list[float], *, noise: float = 0.02, requests: int = 40) -> bool:
    """Whether batches are steady that take so many times the usual."""
    draw = random.Random(3)
    found = drifts([batch(draw, factor, noise, requests) for factor in factors])
    return bool(found) and all(drift.is_steady for drift in found)


@pytest.mark.parametrize(
    ("factors", "is_steady"),
    [
        ([1.0], False),
        ([1.0, 1.0], True),
        ([1.3, 1.0], False),
        ([1.3, 1.15, 1.07], False),
        ([1.3, 1.15, 1.07, 1.03, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.1, 1.1], False),
    ],
)
def test_batches_that_get_faster_are_not_steady(factors, is_steady):
    assert steady(factors) is is_steady


def test_lengths_that_differ_tenfold_do_not_hide_a_change():
    assert not steady([1.1, 1.0], noise=0.03)


def test_noise_that_tells_nothing_is_not_steady():
    assert not steady([1.0, 1.0], noise=0.9, requests=12)


def test_failed_requests_tell_nothing():
    one = batch(random.Random(1), 1.0, 0.02, 10, failed=True)
    assert drifts([one, one]) == []


def test_the_change_is_told():
    draw = random.Random(5)
    told = {drift.metric: drift for drift in drifts([batch(draw, f, 0.01, 40) for f in (1.2, 1.0)])}
    assert told["itl"].change == pytest.approx(-1 / 6, abs=0.01)
    assert told["itl"].error < 0.01
