"""Two regimes of a closed loop: seen where runs jump, and in hardly one of a hundred series with one mode."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from samples import record, run

from pytest_llmperf.metrics.trust.regimes import regime_remarks, two_regimes


def run_at(seed: int, levels_ms: list[float], requests: int = 100):
    """A run whose inter-token latency goes through levels of equal length, with noise of 1 % per request."""
    draw = random.Random(seed)
    records = []
    for place in range(requests):
        gap_ms = levels_ms[place * len(levels_ms) // requests] * draw.lognormvariate(0, 0.01)
        records.append(record(place * 50.0, [place * 50.0 + 5 + gap_ms * token for token in range(6)]))
    return run(records, seed)


def correlated(draw: random.Random) -> Iterator[float]:
    level = draw.gauss(0, 1)
    while True:
        yield level
        level = 0.7 * level + draw.gauss(0, (1 - 0.7**2) ** 0.5)


ONE_MODE: dict[str, Callable[[random.Random], Iterator[float]]] = {
    "normal": lambda draw: (draw.gauss(0, 1) for _ in itertools.count()),
    "uniform": lambda draw: (draw.uniform(-1.7, 1.7) for _ in itertools.count()),
    "exponential": lambda draw: (draw.expovariate(1.0) for _ in itertools.count()),
    "correlated": correlated,
}


@pytest.mark.parametrize("count", [8, 20])
@pytest.mark.parametrize("shape", ONE_MODE)
def test_one_mode_is_seldom_taken_for_two(shape, count):
    draw = random.Random(11)
    samples = ([10 * 1.2**value for value in itertools.islice(ONE_MODE[shape](draw), count)] for _ in range(600))
    assert sum(two_regimes(sample) is not None for sample in samples) <= 12


def test_two_levels_are_found():
    draw = random.Random(3)
    found = sum(
        two_regimes([level * draw.lognormvariate(0, 0.02) for level in (1.3, 1.8, 1.3, 1.3, 1.8, 1.3, 1.8, 1.3)])
        is not None
        for _ in range(100)
    )
    assert found >= 95


def test_few_values_an_outlier_and_a_small_distance_are_no_regimes():
    assert two_regimes([1.3, 1.8, 1.3, 1.8]) is None
    assert two_regimes([1.30, 1.31, 1.29, 1.30, 1.31, 1.30, 1.29, 5.0]) is None
    assert two_regimes([1.300, 1.340, 1.301, 1.341, 1.300, 1.340, 1.301, 1.341]) is None
    assert two_regimes([1.3] * 8) is None


def test_runs_that_jump_are_named():
    runs = [run_at(number, [level]) for number, level in enumerate([1.3, 1.8, 1.3, 1.3, 1.8, 1.3])]
    (told,) = regime_remarks(runs)
    assert told.startswith("runs jump between two regimes, ITL 1.3 ms (runs 1, 3, 4, 6) and 1.8 ms (runs 2, 5):")


def test_a_run_that_jumps_within_itself_is_named():
    (told,) = regime_remarks([run_at(0, [1.3]), run_at(1, [1.3, 1.8, 1.3, 1.8]), run_at(2, [1.8])])
    assert told.startswith("run 2 jumps between two regimes, ITL 1.3 and 1.8 ms, 3 times:")


def test_steady_runs_and_runs_without_answers_say_nothing():
    assert not list(regime_remarks([run_at(number, [1.3]) for number in range(8)]))
    assert not list(regime_remarks([run([]) for _ in range(8)]))
    assert not list(regime_remarks([]))
