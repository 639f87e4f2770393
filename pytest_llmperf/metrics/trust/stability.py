"""Agreement of the windows of a load, by perf_analyzer's rule: the last three within a share of one another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.formulas.pace import complete
from pytest_llmperf.metrics.summary import Summary
from pytest_llmperf.plan.load.point import Stability

WINDOWS = 3
"""Windows that must agree, and are the result."""
_THROUGHPUT, _LATENCY = Quantity("request_throughput"), Quantity("e2e", "mean")


@dataclass(frozen=True, slots=True)
class Steadiness:
    """The spread of the last three windows: max / min - 1. None where one of them has no number."""

    windows: int
    """Windows that were measured, the earlier ones included."""
    throughput_spread: float | None
    latency_spread: float | None
    within: float

    @property
    def reached(self) -> bool:
        spreads = (self.throughput_spread, self.latency_spread)
        return all(spread is not None and spread <= self.within for spread in spreads)

    def describe(self) -> str:
        if self.windows < WINDOWS:
            return f"only {self.windows} of at least {WINDOWS} windows were measured"
        throughput, latency = (_shown(spread) for spread in (self.throughput_spread, self.latency_spread))
        return (
            f"over the last {WINDOWS} of {self.windows} windows throughput differs by {throughput} and mean latency by "
            f"{latency}, {self.within * 100:.3g}% allowed"
        )


def _shown(spread: float | None) -> str:
    return "what cannot be told" if spread is None else f"{spread:.1%}"


def steadiness(windows: Sequence[Summary], asked: Stability) -> Steadiness:
    """The steadiness of all windows so far."""
    last = windows[-WINDOWS:] if len(windows) >= WINDOWS else ()
    return Steadiness(len(windows), _spread(last, _THROUGHPUT), _spread(last, _LATENCY), asked.within)


def first_steady(windows: Sequence[Summary], asked: Stability) -> Steadiness:
    """The steadiness up to the first three windows that agreed; of all windows where none did."""
    prefixes = (steadiness(windows[:count], asked) for count in range(WINDOWS, len(windows) + 1))
    return next((found for found in prefixes if found.reached), steadiness(windows, asked))


def _spread(windows: Sequence[Summary], quantity: Quantity) -> float | None:
    values = complete(window.value(quantity) or None for window in windows)
    return max(values) / min(values) - 1 if values else None
