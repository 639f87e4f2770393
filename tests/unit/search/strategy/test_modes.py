"""How configurations are chosen: on grids whose best position is known, with and without noise."""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.stats.compliance import LimitRun
from pytest_llmperf.plan.limits import Limit, parse_limits
from pytest_llmperf.search.strategy import modes
from pytest_llmperf.search.strategy.contest import Contest, PruneReason
from pytest_llmperf.search.strategy.goal import Goal
from pytest_llmperf.search.strategy.modes import OutOfTrials
from pytest_llmperf.search.strategy.space import Position, Space
from pytest_llmperf.search.strategy.tpe import tpe
from pytest_llmperf.search.strategy.trial import RunFacts, Trial

RATE = Quantity("output_token_throughput")
LATENCY = Quantity("ttft", "p50")
Figures = Callable[[Position, int], dict[str, float]]
"""What the run of this number measures at a position."""


class Machine:
    """Gives a contest runs that are computed, and counts them."""

    def __init__(
        self, figures: Figures, limits: Sequence[Limit] = (), errors: frozenset[Position] = frozenset()
    ) -> None:
        self._figures, self._limits, self._errors = figures, limits, errors
        self.runs: Counter[Position] = Counter()
        self.begun: Counter[Position] = Counter()

    def run(self, trial: Trial, rounds: int, prune_reason: PruneReason) -> Trial:
        if trial.position in self._errors:
            return replace(trial, error="ended before it was ready")
        self.begun[trial.position] += not trial.runs
        for number in range(len(trial.runs), rounds):
            self.runs[trial.position] += 1
            values = self._figures(trial.position, number)
            checks = {str(limit): LimitRun(values[str(limit.quantity)]) for limit in self._limits}
            trial = replace(trial, runs=(*trial.runs, RunFacts("chat", number + 1, values, checks, 10, 0)))
            if why := prune_reason(trial):
                return replace(trial, stopped=why)
        return trial


def peaked(best: Position, slope: float = 0.4, floor: float = 0.0) -> Figures:
    """Throughput that falls by `slope` (of a factor of two) with every step away from the best position."""

    def figures(position: Position, run: int) -> dict[str, float]:
        steps = sum(abs(at - top) for at, top in zip(position, best, strict=True))
        return {str(RATE): 1000 * 2 ** (-slope * steps) + floor}

    return figures


def noisy(figures: Figures, sd: float, seed: int = 1) -> Figures:
    def drawn(position: Position, run: int) -> dict[str, float]:
        chance = random.Random(f"{seed}/{position}/{run}")
        return {name: value * math.exp(chance.gauss(0, sd)) for name, value in figures(position, run).items()}

    return drawn


def contest(machine: Machine, limits: Sequence[Limit] = (), *, runs: int = 1, trials: int | None = None) -> Contest:
    return Contest(Goal({RATE: 1.0}, {"chat": tuple(limits)}), machine.run, runs, trials)


def ordered(*sizes: int) -> Space:
    return Space(sizes, (True,) * len(sizes))


@st.composite
def grids(draw: st.DrawFn, axes: int = 3, fewest: int = 2) -> tuple[Space, Position]:
    """A grid and where its peak is."""
    sizes = draw(st.lists(st.integers(fewest, 8), min_size=1, max_size=axes))
    return ordered(*sizes), tuple(draw(st.integers(0, size - 1)) for size in sizes)


@given(grids())
def test_quick_finds_the_peak_and_measures_nothing_twice(grid):
    space, best = grid
    machine = Machine(peaked(best))
    found = contest(machine)
    modes.quick(space, found, 1)
    found.final()
    assert found.ranked()[0] == best
    assert set(machine.begun.values()) == {1}
    assert len(machine.runs) <= len(space)


@given(grids(fewest=4).filter(lambda grid: len(grid[0]) >= 64))
def test_quick_takes_fewer_than_half_the_runs_of_brute_force(grid):
    space, best = grid
    machine = Machine(peaked(best))
    modes.quick(space, contest(machine), 1)
    assert 2 * sum(machine.runs.values()) < len(space)


@settings(max_examples=40)
@given(grids(fewest=3), st.integers(0, 5))
def test_noise_costs_reruns_up_to_the_bound_and_not_the_peak(grid, seed):
    space, best = grid
    machine = Machine(noisy(peaked(best), 0.02, seed))
    found = contest(machine)
    modes.quick(space, found, 1)
    found.final()
    assert found.ranked()[0] == best
    assert max(machine.runs.values()) <= found.goal.most_runs


@given(grids(), st.integers(1, 6))
def test_brute_measures_all_that_it_may(grid, trials):
    space, best = grid
    machine = Machine(peaked(best))
    found = contest(machine, trials=trials)
    if trials < len(space):
        with pytest.raises(OutOfTrials):
            modes.brute(space, found)
    else:
        modes.brute(space, found)
    assert len(machine.runs) == min(trials, len(space))


def test_what_cannot_be_told_apart_is_measured_again_and_called_so():
    """Along the second axis nothing changes."""
    machine = Machine(noisy(lambda position, run: {str(RATE): 100.0 * 2 ** position[0]}, 0.002))
    found = contest(machine)
    modes.brute(ordered(2, 2), found)
    found.final()
    assert found.beats((1, 0), (1, 1)) is None
    assert [machine.runs[at] for at in ((1, 0), (1, 1), (0, 0))] == [3, 3, 1]


def test_a_plateau_is_crossed_in_bigger_strides():
    """The first three of eight are alike; all that is better lies beyond."""
    machine = Machine(lambda position, run: {str(RATE): 100.0 * 2 ** max(0, position[0] - 4)})
    found = contest(machine)
    modes.quick(ordered(8), found, 1)
    assert found.ranked()[0] == (7,)


def test_more_starts_find_a_second_peak():
    values = [5.0, 50.0, 20.0, 10.0, 5.0, 2.0, 10.0, 100.0]
    machine = Machine(lambda position, run: {str(RATE): values[position[0]]})
    once, twice = contest(machine), contest(machine)
    modes.quick(ordered(8), once, 1)
    modes.quick(ordered(8), twice, 2)
    assert [found.ranked()[0] for found in (once, twice)] == [(1,), (7,)]


def test_an_axis_without_an_order_is_looked_through():
    values = [3.0, 1.0, 2.0, 9.0, 1.0]
    machine = Machine(lambda position, run: {str(RATE): values[position[0]]})
    found = contest(machine)
    modes.quick(Space((5,), (False,)), found, 1)
    assert found.ranked()[0] == (3,)


LIMITS = parse_limits({"ttft_p50": "<= 100 ms"})


def slower_with_load(position: Position, run: int) -> dict[str, float]:
    """More of the first axis is more throughput and more latency."""
    return {str(RATE): 100.0 * (1 + position[0]), str(LATENCY): 20.0 * 1.4 ** position[0]}


def test_the_best_keeps_the_limits():
    machine = Machine(slower_with_load, LIMITS)
    found = contest(machine, LIMITS)
    modes.quick(ordered(10), found, 1)
    found.final()
    assert found.ranked()[0] == (4,)  # 77 ms; the next has 108 ms
    assert found.assessment((5,)).standing == "broken"


def test_a_start_that_breaks_limits_climbs_towards_those_that_keep_them():
    machine = Machine(lambda position, run: slower_with_load((position[0] + 4,), run), LIMITS)
    found = contest(machine, LIMITS)
    modes.quick(ordered(10), found, 1)
    assert found.ranked()[0] == (0,)


def test_a_configuration_that_clearly_breaks_a_limit_gets_no_more_runs():
    machine = Machine(slower_with_load, LIMITS)
    found = contest(machine, LIMITS, runs=3)
    modes.brute(ordered(10), found)
    assert [machine.runs[(at,)] for at in (0, 1, 2, 3, 4, 6, 7, 8, 9)] == [3] * 5 + [1] * 4
    assert "breaks ttft_p50" in (found.held[(9,)].stopped or "")


def test_a_configuration_that_is_clearly_worse_gets_no_more_runs():
    machine = Machine(lambda position, run: {str(RATE): (100.0, 50.0, 99.0)[position[0]]})
    found = contest(machine, runs=3)
    modes.brute(ordered(3), found)
    assert [machine.runs[(at,)] for at in range(3)] == [3, 1, 3]
    assert found.held[(1,)].stopped == "is worse than the best so far, beyond noise"


def test_a_configuration_that_fails_is_passed_by():
    machine = Machine(peaked((3, 3)), errors=frozenset({(1, 1), (2, 1)}))
    found = contest(machine)
    modes.quick(ordered(4, 4), found, 1)
    assert found.ranked()[0] == (3, 3)
    assert found.assessment((1, 1)).standing == "failed"


@pytest.mark.parametrize("mode", ["quick", "optuna"])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(mode, after):
    """The modes are deterministic: what was measured before is asked for in the same order again."""
    if mode == "optuna":
        pytest.importorskip("optuna")
    space, figures = ordered(6, 6), noisy(peaked((4, 1)), 0.01)

    def search(machine: Machine) -> Contest:
        found = contest(machine, trials=12)
        with contextlib.suppress(OutOfTrials):
            modes.quick(space, found, 2) if mode == "quick" else tpe(space, found, seed=3)
        found.final()
        return found

    whole = Machine(figures)
    uninterrupted = search(whole)
    known: dict[tuple[Position, int], dict[str, float]] = {}

    def remembered(position: Position, run: int) -> dict[str, float]:
        return known.setdefault((position, run), figures(position, run))

    class Interrupted(Exception):
        pass

    def broken_off(position: Position, run: int) -> dict[str, float]:
        if len(known) >= after:
            raise Interrupted
        return remembered(position, run)

    with pytest.raises(Interrupted):
        search(Machine(broken_off))
    again = search(Machine(remembered))
    assert again.held == uninterrupted.held
    assert len(known) == sum(whole.runs.values())


def test_optuna_prefers_what_keeps_the_limits():
    pytest.importorskip("optuna")
    machine = Machine(lambda p, run: slower_with_load((p[0] + p[1],), run), LIMITS)
    found = contest(machine, LIMITS, trials=20)
    with pytest.raises(OutOfTrials):
        tpe(ordered(8, 8), found, seed=1)
    best = found.ranked()[0]
    assert sum(best) == 4
    assert found.assessment(best).standing == "ok"


def test_optuna_ends_when_all_is_known():
    pytest.importorskip("optuna")
    machine = Machine(peaked((1, 0)))
    found = contest(machine)
    tpe(ordered(2, 2), found, seed=1)
    assert found.ranked()[0] == (1, 0)
