"""Records to numbers: pure functions over the formulas of definitions.METRICS, None where a sample is empty.

Percentiles interpolate linearly between order statistics (numpy's default, Hyndman & Fan type 7); std is the
population's (divisor n). Latencies are over the measured requests that succeeded. Rates are over the window: in closed
loop from the first measured request sent until the first slot runs out of requests (all slots are busy in between), in
open loop from the first to the last due time.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pytest_llmperf.definitions import METRICS, PERCENTILES, Metric, Quantity
from pytest_llmperf.formulas.pace import complete_mean
from pytest_llmperf.formulas.request import Requests, TimedRequest
from pytest_llmperf.formulas.window import RunWindow, Window
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import RequestRecord, Run

_PERCENTILE = re.compile(r"p\d+(?:\.\d+)?", re.ASCII)
_ROUNDING = 1e-4
"""Share by which figures of one sample may be off: baselines hold six digits, files of other tools fewer."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Statistics of one value per request. n = 0 has None everywhere."""

    n: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    percentiles: tuple[float | None, ...]
    """Values at definitions.PERCENTILES."""

    def stat(self, name: str) -> float | None:
        """`mean`, `std`, `min`, `max` or `p<k>`."""
        if name.startswith("p"):
            return self.percentiles[PERCENTILES.index(int(name[1:]))]
        value: float | None = getattr(self, name)
        return value

    def as_dict(self) -> dict[str, Any]:
        """mean … p99 and n, as reports and baselines hold them."""
        named = {f"p{p}": rounded(value) for p, value in zip(PERCENTILES, self.percentiles, strict=True)}
        return {**{name: rounded(self.stat(name)) for name in ("mean", "std", "min", "max")}, **named, "n": self.n}


def contradiction(values: Mapping[str, Any], mean: float | None) -> str | None:
    """Says which two statistics (`min`, `p<k>`, `max`, the mean) no sample has together; None where one may have all.

    Other keys are passed over. Figures may be rounded to some four digits.
    """
    places = {"min": 0.0, "max": 100.0} | {key: float(key[1:]) for key in values if _PERCENTILE.fullmatch(key)}
    ranked = sorted((key for key in places if key in values), key=places.__getitem__)
    for lower, upper in pairwise(ranked):
        if values[lower] > values[upper] + _ROUNDING * abs(values[upper]):
            return f"{lower} ({values[lower]:g}) is above {upper} ({values[upper]:g})"
    if mean is None or not {"min", "max"} <= {*ranked}:
        return None
    low, high = values["min"], values["max"]
    if low - _ROUNDING * abs(low) <= mean <= high + _ROUNDING * abs(high):
        return None
    return f"mean ({mean:g}) is not between min ({low:g}) and max ({high:g})"


@dataclass(frozen=True, slots=True)
class Summary:
    """All metrics of one run, or of several runs together."""

    distributions: Mapping[str, Distribution]
    scalars: Mapping[str, float | None]
    sent: int
    ok: int
    failed: int
    cancelled: int
    """Broken off on purpose: in no latency, no rate and no error_rate's numerator."""
    window_s: float | None
    token_sources: tuple[str, ...]
    """Sources of output token counts: usage, tokenizer, chunks, or several of them."""
    input_token_sources: tuple[str, ...] = ()
    """Sources of input token counts: usage, tokenizer, token-ids; empty when they are not known."""

    def value(self, quantity: Quantity) -> float | None:
        """One number; None when its sample is empty."""
        if quantity.stat is None:
            return self.scalars.get(quantity.metric)
        return self.distributions[quantity.metric].stat(quantity.stat)

    def n(self, quantity: Quantity) -> int:
        """Size of the sample behind a number; for a rate of the whole run the successful requests."""
        n_of = quantity.metric if quantity.stat is not None else METRICS[quantity.metric].n_of
        if n_of in self.distributions:
            return self.distributions[n_of].n
        return self.sent if n_of == "sent" else self.ok

    def with_scalars(self, scalars: Mapping[str, float | None]) -> Summary:
        """The summary with these scalars set: what does not follow from the records of these runs alone."""
        return replace(self, scalars={**self.scalars, **scalars})

    def as_dict(self) -> dict[str, Any]:
        """Distributions under `<name>_ms`, rates as value and unit, and the request counts."""
        distributions = {METRICS[name].key: values.as_dict() for name, values in self.distributions.items()}
        scalars = {
            name: {"value": rounded(value), "unit": METRICS[name].unit} for name, value in sorted(self.scalars.items())
        }
        counts = {"sent": self.sent, "ok": self.ok, "failed": self.failed, "cancelled": self.cancelled}
        window = {
            "window_s": rounded(self.window_s),
            "token_sources": list(self.token_sources),
            "input_tokens_source": list(self.input_token_sources),
        }
        return {**distributions, **scalars, "requests": counts, **window}


def rounded(value: float | None, digits: int = 6) -> float | None:
    """The value to `digits` significant digits, so that stored files stay readable; None stays None."""
    return None if value is None else float(f"{value:.{digits}g}")


def distribution(values: Iterable[float]) -> Distribution:
    """Statistics of `values`, in their unit."""
    sample = np.fromiter(values, dtype=float)
    if not sample.size:
        return Distribution(0, None, None, None, None, (None,) * len(PERCENTILES))
    percentiles = tuple(float(p) for p in np.percentile(sample, PERCENTILES))
    return Distribution(
        int(sample.size),
        float(sample.mean()),
        float(sample.std()),
        float(sample.min()),
        float(sample.max()),
        percentiles,
    )


def summarize(run: Run, point: LoadPoint, gpu_count: int = 0) -> Summary:
    """The metrics of one run; per-GPU rates are None without GPUs."""
    return summarize_runs([run], point, gpu_count)


def summarize_runs(runs: Sequence[Run], point: LoadPoint, gpu_count: int = 0) -> Summary:
    """Several runs of one point: requests pooled for latencies, rates as the mean of the runs' rates."""
    measured = [record for run in runs for record in run.measured]
    return _summary(runs, point, gpu_count, [run_window(run, point) for run in runs], measured)


def summarize_stages(runs: Sequence[Run], point: LoadPoint, gpu_count: int = 0) -> tuple[Summary, ...]:
    """Summaries per stage of the load, each of the requests that were due (closed loop: sent) in it; () without."""
    windows = list(zip(*(stage_windows(run, point) for run in runs), strict=True))
    return tuple(_summary(runs, point, gpu_count, of_stage, _begun_in(runs, of_stage)) for of_stage in windows)


def summarize_replicas(runs: Sequence[Run], point: LoadPoint, count: int, gpu_count: int = 0) -> tuple[Summary, ...]:
    """The same per replica that the load driver sent to, in the windows of the whole runs; () where it chose none."""
    if not any(record.replica is not None for run in runs for record in run.records):
        return ()
    windows = [run_window(run, point) for run in runs]
    parts = [
        [replace(run, records=tuple(record for record in run.records if record.replica == number)) for run in runs]
        for number in range(count)
    ]
    return tuple(
        _summary(part, point, gpu_count // count, windows, [record for run in part for record in run.measured])
        for part in parts
    )


def _begun_in(runs: Iterable[Run], windows: Iterable[Window | None]) -> list[RequestRecord]:
    pairs = ((record, window) for run, window in zip(runs, windows, strict=True) for record in run.measured)
    return [r for r, window in pairs if window and window.start_ns <= (r.due_ns or r.sent_ns or 0) < window.end_ns]


def _summary(
    runs: Sequence[Run],
    point: LoadPoint,
    gpu_count: int,
    windows: Sequence[Window | None],
    measured: Sequence[RequestRecord],
) -> Summary:
    requests = _requests(measured, point.slo)
    good = [request.record for request in requests.ok]
    cancelled = sum(record.cancelled for record in measured)
    pairs = zip(runs, windows, strict=True)
    seen = [RunWindow(run, window, point.slo, gpu_count) if window else None for run, window in pairs]
    seconds = [window.seconds for window in windows if window]
    return Summary(
        distributions={m.name: distribution(_values(m, requests)) for m in METRICS.values() if m.sample},
        scalars={m.name: _scalar(m, requests, seen) for m in METRICS.values() if not m.sample},
        sent=len(measured),
        ok=len(good),
        failed=len(measured) - len(good) - cancelled,
        cancelled=cancelled,
        window_s=sum(seconds) if seconds else None,
        token_sources=tuple(sorted({record.token_source for record in good if record.token_source})),
        input_token_sources=tuple(sorted({r.input_tokens_source for r in good if r.input_tokens_source})),
    )


def metric_values(run: Run, metrics: Iterable[str]) -> dict[str, list[float]]:
    """Values of each distribution as in `summarize`, one per measured request that succeeded (icl: one per gap)."""
    requests = _requests(run.measured, {})
    return {name: _values(METRICS[name], requests) for name in metrics}


def _requests(measured: Iterable[RequestRecord], slo: Mapping[str, float]) -> Requests:
    sent = [TimedRequest(record) for record in measured]
    return Requests(sent, [request for request in sent if request.record.ok], slo)


def _values(metric: Metric, requests: Requests) -> list[float]:
    return metric.values(requests.sent if metric.n_of == "sent" else requests.ok)


def _scalar(metric: Metric, requests: Requests, seen: Iterable[RunWindow | None]) -> float | None:
    """A rate is the mean of the runs' rates: None where a run has no window or no success."""
    if metric.total:
        return metric.total(requests)
    return complete_mean(metric.rate(run) if metric.rate and run and run.ok else None for run in seen)


def run_window(run: Run, point: LoadPoint) -> Window | None:
    """The part of the run in which the load was what the point asks for; None when nothing was measured, and where no
    answer ended while an open loop sent its requests: a rate of 0 would be the burst's, not the server's.
    """
    if not point.closed_loop:
        due = [record.due_ns for record in run.measured if record.due_ns is not None]
        first_end_ns = min((record.end_ns for record in run.records if record.ok), default=0)
        return _window(min(due), max(due)) if due and first_end_ns <= max(due) else None
    sent = [record.sent_ns for record in run.measured if record.sent_ns is not None]
    if not sent:
        return None
    # Each worker process has its own part of the trace, so the first that runs out of work ends the steady state.
    ends = (_steady_end_ns([r for r in run.records if r.unit % run.workers == number]) for number in range(run.workers))
    return _window(min(sent), min(moment for moment in ends if moment is not None))


def _steady_end_ns(records: Sequence[RequestRecord]) -> int | None:
    """Earliest end among the requests in flight when the last one was sent; None where nothing was sent."""
    begun: dict[int, int] = {}
    ended: dict[int, int] = {}
    for record in records:
        if record.sent_ns is not None:
            begun.setdefault(record.unit, record.sent_ns)
        ended[record.unit] = max(record.end_ns, ended.get(record.unit, 0))
    if not begun:
        return None
    last = max(begun.values())
    return min((end_ns for end_ns in ended.values() if end_ns > last), default=last)


def in_drain(record: RequestRecord, window: Window) -> bool:
    """True if a request ended after the window."""
    return record.end_ns > window.end_ns


def stage_windows(run: Run, point: LoadPoint) -> tuple[Window | None, ...]:
    """Windows from each stage's begin to its end; None where the run did not get to anything measured."""
    sent = [record.sent_ns for record in run.measured if record.sent_ns is not None]
    start_ns = min(sent, default=run.ended_ns) if point.closed_loop else run.started_ns
    bounds = itertools.accumulate((stage.duration for stage in point.stages), initial=0.0)
    moments = [min(start_ns + round(bound * 1e9), run.ended_ns) for bound in bounds]
    if point.closed_loop and sent:
        # The timer that ends the last stage may be late by a request.
        moments[-1] = max(moments[-1], max(sent) + 1)
    return tuple(_window(begin, end) for begin, end in itertools.pairwise(moments))


def _window(start_ns: int, end_ns: int) -> Window | None:
    return Window(start_ns, end_ns) if end_ns > start_ns else None
