"""The output guard's test: what is exact about it, and how often it is wrong."""

from __future__ import annotations

import random

import pytest

from pytest_llmperf.metrics.stats.agreement import agreement, self_agreement


def outputs(*changed: int, prompts: int = 20) -> dict[str, str]:
    return {f"p{number}": "new" if number in changed else "old" for number in range(prompts)}


def test_one_changed_answer_of_a_steady_server():
    found = agreement([outputs()] * 5, [outputs(3)] * 3)
    assert found.changed == ("p3",)
    assert (found.own, found.across) == ((1.0,) * 5, (0.95,) * 3)
    assert found.excess == pytest.approx(0.05)
    assert found.p == found.least_p == 1 / 56


def test_no_change():
    found = agreement([outputs()] * 5, [outputs()] * 3)
    assert (found.changed, found.excess, found.p) == ((), 0.0, 1.0)


def test_a_swap_of_equally_many_runs_looks_the_same():
    assert agreement([outputs()] * 3, [outputs(1)] * 3).least_p == agreement([outputs()] * 3, [outputs(1)] * 3).p == 0.1


def test_many_sessions_are_sampled():
    found = agreement([outputs()] * 24, [outputs(3)] * 8)
    assert found.p == 1 / 20_000


def noisy(draws: random.Random, share: float) -> dict[str, str]:
    return {f"p{number}": "b" if draws.random() < share else "a" for number in range(40)}


def test_false_alarms_are_as_rare_as_stated_and_changes_are_seen():
    draws = random.Random(7)
    alarms = seen = 0
    for _ in range(400):
        baseline = [noisy(draws, 0.1) for _ in range(5)]
        alarms += agreement(baseline, [noisy(draws, 0.1) for _ in range(3)]).p <= 0.02
        seen += agreement(baseline, [noisy(draws, 0.5) for _ in range(3)]).p <= 0.02
    assert alarms <= 16, "2 % of 400 are 8; twice as many are beyond three standard deviations"
    assert seen >= 390


def test_self_agreement():
    assert self_agreement([outputs(), outputs(), outputs(0, 1)]) == pytest.approx((1 + 0.9 + 0.9) / 3)
    assert self_agreement([outputs()]) is None
    assert self_agreement([{"a": "x"}, {"b": "x"}]) is None


@pytest.mark.parametrize(("baseline", "new"), [(1, 1), (2, 0), (0, 0)])
def test_what_cannot_be_compared(baseline, new):
    with pytest.raises(ValueError, match="common prompts"):
        agreement([outputs()] * baseline, [outputs()] * new)
