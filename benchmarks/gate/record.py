"""Recordings: the gated values of any run of any session, simulated when first asked for and kept.

A run that no stall meets depends on nothing but the factor on its steps, because a point's trace is the same in every
run. Factors are rounded to 0.1 % and such a run is simulated once per factor. In a closed loop that moves a value by
0.05 % at most. In an open loop the least change of the factor lets other requests meet in a batch, and a TTFT jumps by
a few per cent: with the rounded factor it jumps as often and as far, but two runs of equal factor jump together.
Runs with a stall are simulated one by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from scenarios import HOSTS, POINTS, Change, Host, engine, gated, noisy_engine
from virtual import RUN_PERIOD_S, run_point

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.embedded.engine.modelled import StepNoise
from pytest_llmperf.metrics.summary import Summary

_ROUNDING = 1e-3
Values = Mapping[Quantity, float]


@dataclass(slots=True)
class Recorder:
    """All runs so far. `simulated` counts those that were not found among the kept ones."""

    kept: dict[object, tuple[dict[Quantity, float], float]] = field(default_factory=dict)
    simulated: int = 0

    def values(self, host: str, change: Change, point: str, seed: int, session: int, run: int) -> Values:
        """The gated values of run `run` of a point; points of a session take turns, each run its own noise."""
        settings = noisy_engine(HOSTS[host], change, seed, session)
        index = run * len(POINTS) + list(POINTS).index(point)
        noise = StepNoise(settings)
        noise.begin_run(index)
        step = round(math.log(noise.factor(0.0) * change.step) / _ROUNDING)
        values, seconds = self._steady(point, change.prefill, step)
        start = index * RUN_PERIOD_S
        if not noise.stall_s(start, start + seconds):
            return values
        key = (HOSTS[host], change, point, seed, session, run)
        if key not in self.kept:
            self.kept[key] = _gated(point, run_point(settings, POINTS[point], index))
            self.simulated += 1
        return self.kept[key][0]

    def seconds(self, point: str) -> float:
        """About how long a run of an unchanged server takes."""
        return self._steady(point, 1.0, 0)[1]

    def _steady(self, point: str, prefill: float, step: int) -> tuple[dict[Quantity, float], float]:
        key = (point, prefill, step)
        if key not in self.kept:
            quiet = engine(Change(prefill=prefill), math.exp(step * _ROUNDING))
            self.kept[key] = _gated(point, run_point(quiet, POINTS[point], 0))
            self.simulated += 1
        return self.kept[key]


def _gated(point: str, summary: Summary) -> tuple[dict[Quantity, float], float]:
    """The gated values, and an upper limit of the seconds that the run took."""
    values = {quantity: summary.value(quantity) for quantity in gated(point)}
    slowest = summary.distributions["e2e"].max
    assert summary.window_s is not None
    assert slowest is not None
    return {quantity: value for quantity, value in values.items() if value}, summary.window_s + 2 * slowest / 1e3


def rounding_errors(host: Host, seeds: range) -> dict[str, float]:
    """By point and quantity: the largest relative error that rounding makes in runs without stalls."""
    found: dict[str, float] = {}
    calm = replace(host, stall_rate_per_s=0.0)
    for point, seed in itertools.product(POINTS, seeds):
        settings = noisy_engine(calm, Change(), seed, 0)
        step = round(math.log(StepNoise(settings).factor(0.0)) / _ROUNDING)
        exact = _gated(point, run_point(settings, POINTS[point], 0))[0]
        kept = Recorder()._steady(point, 1.0, step)[0]
        for quantity, value in exact.items():
            name = f"{point} {quantity}"
            found[name] = max(found.get(name, 0.0), round(abs(kept[quantity] / value - 1), 5))
    return found
