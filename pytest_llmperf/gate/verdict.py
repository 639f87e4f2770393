"""Turns estimates into verdicts: PASS, FAIL, INCONCLUSIVE, IMPROVED, NO BASELINE, and whether to run again. Pure.

Two tests with different questions. Against the margin: is it so much worse that it matters? Against no change, with
Holm's correction over everything that the session gates: is it real? FAIL needs both, PASS needs the proof that it is
not worse than the margin, and what is neither is run again. The order of the verdicts is that of the truth: a candidate
all of whose runs are slower by a factor never gets a better one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.gate.rules import DEFAULT, NoiseSource, Rules, Verdict
from pytest_llmperf.gate.sentences import Finding, explain
from pytest_llmperf.metrics.stats.estimate import Estimate, compare
from pytest_llmperf.metrics.stats.margins import Prior, fewest_requests, too_few
from pytest_llmperf.metrics.stats.noise import Noise

Reference = Literal["rolling", "anchor", "duet"]
PerRun = tuple[tuple[float | None, ...], ...]
"""Per-run values by session (server launch); None where a run has none."""


@dataclass(frozen=True, slots=True)
class Series:
    """One gated metric of one point against one reference."""

    quantity: Quantity
    margin: float
    prior: Prior
    baseline: PerRun
    """Empty: there is none."""
    candidate: PerRun
    requests: tuple[int, ...] = ()
    """Sample size of the metric in every run of both sides; only percentiles need it."""
    reference: Reference = "rolling"
    left_out: str = ""
    """Reason why an imported baseline was made without this metric; empty where it was not."""
    imported: bool = False
    """Another tool made the baseline, perhaps of other numbers of requests."""

    @property
    def runs(self) -> int:
        return sum(map(len, self.candidate))

    @property
    def lost(self) -> str | None:
        """The reason why a percentile cannot be judged for which every run of the baseline has enough requests; None
        where it can, or where the baseline has runs without enough, too.

        It is not the load then that is too short for it, but something that happened to this session.
        """
        then, now = self.requests[: -self.runs], self.requests[-self.runs :]
        needed = fewest_requests(self.quantity)
        if self.imported or min(then, default=0) < needed or min(now, default=0) >= needed:
            return None
        place = next(number for number, count in enumerate(now, start=1) if count < needed)
        holder = "the old server" if self.reference == "duet" else "the baseline"
        return (
            f"{self.quantity.stat} needs {needed} requests per run, as every run of {holder} has; run {place} of "
            f"{len(now)} has {now[place - 1]}"
        )


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """The verdict on one series, with its reason and estimate."""

    series: Series
    verdict: Verdict
    reason: str
    """One sentence."""
    estimate: Estimate | None = None
    """None where the two sides cannot be compared."""
    undecided: bool = False
    """Another run may change this: INCONCLUSIVE below the cap, or an improvement that is not confirmed yet."""
    too_noisy: NoiseSource | None = None
    """Larger source of variance at the cap on runs, where the noise hides even a change of three margins; else None."""
    detectable: float | None = None
    """The smallest worsening (0.08: 8 %) that would have failed four times in five; to be shown beside a PASS."""
    noise: Noise | None = None
    """Parts of the interval's width, at a point in doubt or a FAIL; None elsewhere."""


@dataclass(frozen=True, slots=True)
class PointVerdict:
    """The verdict of a point is its worst metric's; IMPROVED when one did and all others at least pass."""

    metrics: tuple[MetricVerdict, ...]
    run_again: bool
    relaunch: bool
    """The next run should be on a freshly launched server: it tells more there than on this one."""

    def with_more(self, metrics: Sequence[MetricVerdict]) -> PointVerdict:
        """The point with verdicts that were found apart from these."""
        return _joined((*self.metrics, *metrics), self.relaunch)

    @property
    def verdict(self) -> Verdict:
        found = {metric.verdict for metric in self.metrics}
        return next((verdict for verdict in _BY_WEIGHT if verdict in found), "NOT GATED")


_BY_WEIGHT: tuple[Verdict, ...] = ("FAIL", "NO BASELINE", "INCONCLUSIVE", "IMPROVED", "PASS")


def judge(
    points: Mapping[str, Sequence[Series]], rules: Rules = DEFAULT, still_to_come: int = 0
) -> dict[str, PointVerdict]:
    """The verdicts of all points of a session together, by point id; to be called anew after every further run.

    Together, because Holm's correction counts every gated metric of the session, those of decided points too, and
    those `still_to_come` of points that were not measured yet.
    """
    estimated = {point: [_estimate(series, rules) for series in gated] for point, gated in points.items()}
    estimates = {
        (point, place): found.p_no_change
        for point, of_point in estimated.items()
        for place, found in enumerate(of_point)
        if isinstance(found, Estimate)
    }
    real = dict(zip(estimates, holm(list(estimates.values()), rules.alpha_family, still_to_come), strict=True))
    return {
        point: _point(
            [
                _metric(series, found, real.get((point, place), False), rules)
                for place, (series, found) in enumerate(zip(gated, estimated[point], strict=True))
            ],
            rules,
        )
        for point, gated in points.items()
    }


def holm(p_values: Sequence[float], alpha: float, unknown: int = 0) -> tuple[bool, ...]:
    """True, in the order given, for each hypothesis that is rejected with a family-wise error of at most alpha (Holm
    1979).

    So many `unknown` p values are counted as 1, the worst that they can be.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    steps = [p_values[place] <= alpha / (len(order) + unknown - rank) for rank, place in enumerate(order)]
    rejected = set(order[: steps.index(False)] if False in steps else order)
    return tuple(place in rejected for place in range(len(p_values)))


def _estimate(series: Series, rules: Rules) -> Estimate | tuple[Verdict, str]:
    """The estimate, or the verdict where nothing can be estimated."""
    return _not_comparable(series, rules) or compare(
        [_numbers(runs) for runs in series.baseline],
        [_numbers(runs) for runs in series.candidate],
        series.prior,
        "higher" if series.quantity.better == "higher" else "lower",
    )


def _numbers(runs: Sequence[float | None]) -> list[float]:
    return [value for value in runs if value is not None]


def _not_comparable(series: Series, rules: Rules) -> tuple[Verdict, str] | None:
    """The verdict where no comparison is possible, and why. Never PASS: that would have to be shown by one."""
    then = [value for runs in series.baseline for value in runs]
    now = [value for runs in series.candidate for value in runs]
    stored = series.reference != "duet"
    holder, cure = ("the baseline", "; record it anew") if stored else ("the old server", "")
    if not then:
        return "NO BASELINE", "there is no baseline to compare with" if stored else f"{holder} has no run"
    if _absent(then) and series.left_out:
        return "NOT GATED", f"not in the imported baseline: {series.left_out}"
    if _absent(then) and _absent(now):
        return "NOT GATED", f"neither {holder} nor this session has a value"
    if not now or any(map(_unusable, now)):
        if not now or _absent(now):
            return "FAIL", f"{holder} has a value, this session has none"
        place = next(number for number, value in enumerate(now, start=1) if _unusable(value))
        return "FAIL", f"run {place} of {len(now)} gave {now[place - 1]!r}, which is no measurement"
    unusable = next((value for value in then if _unusable(value)), 1.0)
    if _unusable(unusable):
        return "NO BASELINE", f"{holder} holds {unusable!r}, with which nothing can be compared{cure}"
    if len(then) < rules.baseline_runs:
        return "NO BASELINE", f"{holder} holds {len(then)} runs, {rules.baseline_runs} are needed to compare"
    if series.lost:
        return "INCONCLUSIVE", series.lost
    few = too_few(series.quantity, series.requests)
    return ("NOT GATED", few) if few else None


def _absent(values: Sequence[float | None]) -> bool:
    return all(value is None for value in values)


def _unusable(value: float | None) -> bool:
    return value is None or not math.isfinite(value) or value <= 0


def _metric(series: Series, found: Estimate | tuple[Verdict, str], real: bool, rules: Rules) -> MetricVerdict:
    if not isinstance(found, Estimate):
        return MetricVerdict(series, *found)
    verdict = _verdict(series, found, real, rules)
    open_ = verdict == "INCONCLUSIVE" or (verdict == "PASS" and _improved(series, found, rules))
    undecided = open_ and series.runs < rules.most_runs
    detectable = found.detectable(series.margin, rules.alpha_fail)
    noisy: NoiseSource | None = None
    if verdict == "INCONCLUSIVE" and not undecided and detectable > 3 * series.margin:
        noisy = "runs" if found.run_variance >= found.session_variance else "sessions"
    finding = Finding(
        quantity=series.quantity,
        estimate=found,
        margin=series.margin,
        prior=series.prior,
        baseline=tuple(len(runs) for runs in series.baseline if runs),
        candidate=tuple(len(runs) for runs in series.candidate if runs),
        rules=rules,
        undecided=undecided,
        too_noisy=noisy,
        stored=series.reference != "duet",
    )
    return MetricVerdict(series, verdict, explain(verdict, finding), found, undecided, noisy, detectable)


def _verdict(series: Series, estimate: Estimate, real: bool, rules: Rules) -> Verdict:
    threshold, confirmed = math.log1p(series.margin), series.runs >= rules.confirmed_runs
    if series.runs < rules.first_runs:
        return "INCONCLUSIVE"
    if real and series.runs >= rules.early_runs and estimate.bound(rules.alpha_of(series.runs)) > threshold:
        return "FAIL"
    if estimate.bound(1 - rules.alpha_pass) >= threshold:
        return "INCONCLUSIVE"
    return "IMPROVED" if confirmed and _improved(series, estimate, rules) else "PASS"


def _improved(series: Series, estimate: Estimate, rules: Rules) -> bool:
    return estimate.bound(1 - rules.alpha_pass) < -math.log1p(series.margin)


def _point(metrics: Sequence[MetricVerdict], rules: Rules) -> PointVerdict:
    """A confirmed FAIL ends the point. A metric without baseline does not: the others may be failing."""
    open_ = [metric for metric in metrics if metric.undecided]
    return _joined(metrics, any(m.estimate and _is_of_launches(m.estimate, m.series.runs) for m in open_))


def _is_of_launches(estimate: Estimate, runs: int) -> bool:
    """True if this side's launches make more of the variance than its runs, so that one on a new launch tells more."""
    return estimate.launch_variance > estimate.run_sd**2 / runs


def _joined(metrics: Sequence[MetricVerdict], relaunch: bool) -> PointVerdict:
    ended = any(metric.verdict == "FAIL" for metric in metrics)
    again = any(metric.undecided for metric in metrics) and not ended
    return PointVerdict(tuple(metrics), again, again and relaunch)
