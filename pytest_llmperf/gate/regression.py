"""Change against a baseline: per-run values now, per-run values then, a margin, a verdict. Pure.

The number that is compared is the geometric mean over runs of a per-run statistic, because run-to-run noise is
multiplicative and a run, not a request, is what repeats independently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.definitions import Quantity, parse_quantity
from pytest_llmperf.metrics import Summary
from pytest_llmperf.plan import LoadPoint

Verdict = Literal["PASS", "FAIL", "IMPROVED", "NOT GATED"]

# Tolerated change when the plan does not say: medians and means of the decode step are steady, tails are not.
DEFAULT_MARGINS: Mapping[str, float] = {
    "itl_p50": 0.05,
    "itl_mean": 0.05,
    "itl_p99": 0.10,
    "ttft_p50": 0.10,
    "ttft_mean": 0.10,
    "ttft_p99": 0.20,
    "output_token_throughput": 0.05,
}
# Requests per run below which a percentile is too coarse to gate: at least two of them must lie beyond it.
MINIMUM_REQUESTS: Mapping[str, int] = {
    "p1": 200, "p5": 100, "p10": 50, "p25": 20, "p50": 20, "p75": 20, "p90": 50, "p95": 100, "p99": 200
}  # fmt: skip
# In an open loop these are the offered rate, whatever the server does.
_OFFERED = (
    "output_token_throughput",
    "input_token_throughput",
    "total_token_throughput",
    "request_throughput",
    "output_token_throughput_per_gpu",
)


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One quantity then and now; `ratio` > 1 is worse, whichever direction is better."""

    quantity: Quantity
    baseline: float | None
    now: float | None
    ratio: float | None
    margin: float
    baseline_runs: int
    runs: int
    verdict: Verdict
    reason: str

    def describe(self) -> str:
        """One line for the terminal and the failure: quantity, then, now, change, margin, verdict."""
        if self.baseline is None or self.now is None:
            return f"{self.quantity}: {self.verdict}: {self.reason}"
        return (
            f"{self.quantity}: {self.quantity.shown(self.now)}, baseline {self.quantity.shown(self.baseline)} "
            f"({self.now / self.baseline - 1:+.1%}, margin {self.margin:.0%}, "
            f"{self.runs} runs against {self.baseline_runs}): {self.verdict}"
            f"{', ' + self.reason if self.verdict == 'NOT GATED' else ''}"
        )


@dataclass(frozen=True, slots=True)
class Regression:
    """The verdict of a point: FAIL when any gated quantity fails, IMPROVED when one did and none failed."""

    metrics: tuple[MetricVerdict, ...]
    notes: tuple[str, ...] = ()
    """Soft differences between then and now (engine version, arguments), for the reader."""

    @property
    def verdict(self) -> Verdict:
        found = {metric.verdict for metric in self.metrics}
        return next((verdict for verdict in _BY_WEIGHT if verdict in found), "NOT GATED")


_BY_WEIGHT: tuple[Verdict, ...] = ("FAIL", "IMPROVED", "PASS")


def gated_margins(point: LoadPoint, margins: Mapping[str, float]) -> dict[Quantity, float]:
    """What is gated at this point: the defaults and the plan's own margins, without an open loop's throughput."""
    merged = {**DEFAULT_MARGINS, **margins}
    quantities = {parse_quantity(name): margin for name, margin in merged.items()}
    open_loop = point.concurrency is None
    return {q: m for q, m in quantities.items() if not (open_loop and q.metric in _OFFERED)}


def judge(
    baseline: Sequence[Mapping[Quantity, float | None]],
    runs: Sequence[Summary],
    margins: Mapping[Quantity, float],
    notes: tuple[str, ...] = (),
) -> Regression:
    """Compare `runs` with the baseline's per-run values for every quantity in `margins`."""
    metrics = (
        _judge_one(quantity, margin, [run.get(quantity) for run in baseline], runs)
        for quantity, margin in margins.items()
    )
    return Regression(tuple(metrics), notes)


def _judge_one(
    quantity: Quantity, margin: float, baseline: Sequence[float | None], runs: Sequence[Summary]
) -> MetricVerdict:
    then, now = _geometric_mean(baseline), _geometric_mean([run.value(quantity) for run in runs])
    ratio = _worse_ratio(quantity, then, now)
    verdict, reason = _verdict(quantity, then, now, ratio, margin, runs)
    return MetricVerdict(quantity, then, now, ratio, margin, len(baseline), len(runs), verdict, reason)


def _geometric_mean(values: Sequence[float | None]) -> float | None:
    """None when any value is missing, not a number, or not positive: a partial mean would hide the hole."""
    present = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not present or len(present) != len(values):
        return None
    return math.exp(sum(map(math.log, present)) / len(present))


def _worse_ratio(quantity: Quantity, then: float | None, now: float | None) -> float | None:
    if then is None or now is None:
        return None
    return then / now if quantity.better == "higher" else now / then


def _verdict(
    quantity: Quantity,
    then: float | None,
    now: float | None,
    ratio: float | None,
    margin: float,
    runs: Sequence[Summary],
) -> tuple[Verdict, str]:
    needed = MINIMUM_REQUESTS.get(quantity.stat or "", 0)
    fewest = min((run.n(quantity) for run in runs), default=0)
    if then is None and now is None and not fewest:
        return "NOT GATED", "neither the baseline nor this run has a value"
    if then is not None and now is None:
        return "FAIL", "the baseline has a value, this run has none"
    if ratio is None:
        return "FAIL", "the baseline holds no usable value: renew it with --llmperf-update-baselines"
    if fewest < needed:
        return "NOT GATED", f"{quantity.stat} needs {needed} requests per run, there were {fewest}"
    if ratio > 1 + margin:
        return "FAIL", f"worse by {ratio - 1:.1%}, more than the margin of {margin:.0%}"
    if ratio < 1 / (1 + margin):
        return "IMPROVED", f"better by {1 / ratio - 1:.1%}, more than the margin of {margin:.0%}"
    return "PASS", "within the margin"
