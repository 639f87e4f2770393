"""Lengths per request: constant or drawn, the same everywhere, never outside their ends."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pytest_llmperf.load.trace.trace import lengths
from pytest_llmperf.plan.load.prompts import Lengths


def _first(count: int, asked: int | Lengths, seed: int = 1) -> list[int]:
    return list(itertools.islice(lengths(asked, (seed, 2)), count))


def test_a_number_is_every_length():
    assert _first(3, 500) == [500, 500, 500]


def test_draws_are_the_same_on_every_machine_and_version():
    assert _first(6, Lengths(mean=500, sd=50)) == [494, 491, 490, 470, 546, 418]


def test_draws_have_mean_and_sd():
    drawn = _first(5000, Lengths(mean=500, sd=50))
    assert np.mean(drawn) == pytest.approx(500, rel=0.01)
    assert np.std(drawn) == pytest.approx(50, rel=0.05)
    assert _first(5, Lengths(mean=500, sd=50), seed=2) != drawn[:5]


def test_draws_stay_within_their_ends():
    drawn = _first(500, Lengths(mean=10, sd=20, min=5, max=12))
    assert (min(drawn), max(drawn)) == (5, 12)
    assert min(_first(500, Lengths(mean=2, sd=20))) == 1


def test_without_sd_the_mean_is_every_length():
    assert set(_first(20, Lengths(mean=7))) == {7}


@pytest.mark.parametrize(
    "given",
    [
        {"mean": 5, "min": 6},
        {"mean": 5, "max": 4},
        {"mean": 0},
        {"mean": 5, "sd": -1},
        {"sd": 1},
        {"mean": 5, "min": 0},
    ],
)
def test_what_is_no_distribution(given: dict[str, Any]):
    with pytest.raises(ValidationError):
        Lengths.model_validate(given)


def test_how_it_is_shown():
    assert str(Lengths(mean=500, sd=50, max=600)) == "500 ± 50, 1 to 600"
    assert str(Lengths(mean=500, sd=50)) == "500 ± 50, at least 1"
    assert str(Lengths(mean=500)) == "500 ± 0"
