"""Defaults of the gate: metrics, tolerated change, expected noise, and how many requests a percentile needs.

The figures were chosen by simulation of a continuous-batching server; docs/gate.md says how well they do. No
statistics are imported here, so that plan and reports may import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_llmperf.definitions import OFFERED, Quantity, parse_quantity


@dataclass(frozen=True, slots=True)
class Prior:
    """Noise that is expected before anything was measured: standard deviations of the log of a per-run value."""

    run_sd: float
    """Standard deviation between runs of one session."""
    session_sd: float
    """Standard deviation between sessions (server launches). 0 where one session measured both sides, as in a duet."""
    weight: float = 4.0
    """Degrees of freedom that the expectation counts for. 0 leaves Student's t test."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """`margin` is the tolerated worsening as a share: 0.05 tolerates a ratio of 1.05."""

    margin: float
    prior: Prior


@dataclass(frozen=True, slots=True)
class Minimum:
    """Requests below which a percentile is an accident of two or three of them."""

    per_run: int
    in_all: int
    """Requests over all runs of the comparison, the baseline's included."""


_STEADY = Tolerance(0.05, Prior(0.02, 0.01))
_QUEUED = Tolerance(0.10, Prior(0.04, 0.015))
_SHOULDER = Tolerance(0.15, Prior(0.06, 0.02))
_TAIL = Tolerance(0.20, Prior(0.08, 0.02))

_STEP_TIMES = ("itl", "tpot", "icl", "ttst", "e2e", "service_e2e")
"""Metrics that are sums of many steps, and so steadier than the wait for one of them."""
_SEARCHED = ("capacity", "capacity_concurrency")
"""Metrics found where a latency's curve meets its limit: steeper than the latency itself, but found from few levels."""
_TAILS = {"p90": _SHOULDER, "p95": _SHOULDER, "p99": _TAIL, "max": _TAIL}

GATED_BY_DEFAULT = (
    "itl_p50",
    "itl_mean",
    "itl_p99",
    "ttft_p50",
    "ttft_mean",
    "ttft_p99",
    "output_token_throughput",
)

MINIMUM_REQUESTS: Mapping[str, Minimum] = {
    "p1": Minimum(200, 1000),
    "p5": Minimum(100, 300),
    "p10": Minimum(50, 100),
    "p25": Minimum(20, 60),
    "p50": Minimum(20, 60),
    "p75": Minimum(20, 60),
    "p90": Minimum(50, 100),
    "p95": Minimum(100, 300),
    "p99": Minimum(200, 1000),
}


def tolerance(quantity: Quantity) -> Tolerance:
    """The default margin and prior of any quantity; also of those that are gated only when a plan asks for it."""
    steady = quantity.metric in _STEP_TIMES
    if quantity.metric in _SEARCHED:
        return _QUEUED
    if quantity.stat is None:
        return _STEADY
    if quantity.stat not in _TAILS:
        return _STEADY if steady else _QUEUED
    return _QUEUED if steady else _TAILS[quantity.stat]


def default_margins(open_loop: bool) -> dict[str, float]:
    """Margins of what is gated without being asked for."""
    names = (name for name in GATED_BY_DEFAULT if not (open_loop and name in OFFERED))
    return {name: tolerance(parse_quantity(name)).margin for name in names}


def elsewhere(prior: Prior) -> Prior:
    """The prior for a baseline of another host, driver, engine version or way of measuring: sessions differ by twice
    as much.
    """
    return replace(prior, session_sd=2 * prior.session_sd)


def duet(prior: Prior) -> Prior:
    """The prior for two servers measured in turn in one session: its disturbances hit both."""
    return replace(prior, session_sd=0.0)


def fewest_requests(quantity: Quantity) -> int:
    """Requests that every run needs for the quantity; 0 for what is no percentile."""
    needed = MINIMUM_REQUESTS.get(quantity.stat or "")
    return needed.per_run if needed else 0


def too_few(quantity: Quantity, requests: Sequence[int]) -> str | None:
    """The reason why a percentile cannot be gated with these requests (one count per run, both sides); None when it
    can.
    """
    needed = MINIMUM_REQUESTS.get(quantity.stat or "")
    if needed is None:
        return None
    fewest, total = min(requests, default=0), sum(requests)
    if fewest < needed.per_run:
        return f"{quantity.stat} needs {needed.per_run} requests per run, there were {fewest}"
    if total < needed.in_all:
        return f"{quantity.stat} needs {needed.in_all} requests over all runs, there were {total}"
    return None
