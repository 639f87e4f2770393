"""Records to numbers: pure functions, definitions as in definitions.METRICS, None where a sample is empty.

Percentiles interpolate linearly between order statistics (numpy's default, Hyndman & Fan type 7); std is the
population's (divisor n). Latencies are over the measured requests that succeeded. Rates are over the window: in closed
loop from the first measured request sent until the first slot runs out of requests (all slots are busy in between), in
open loop from the first to the last due time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import sub
from typing import Any

import numpy as np

from pytest_llmperf.definitions import METRICS, PERCENTILES, Quantity
from pytest_llmperf.metrics.pace import (
    chunk_times,
    first_token_ns,
    last_token_ns,
    mean_gap_ms,
    token_gaps_ms,
    visible_tokens,
)
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import RequestRecord, Run

_NS_PER_MS = 1e6
_PER_USER = {"output_token_throughput_per_user": "itl", "prefill_throughput_per_user": "ttft"}
"""Means over requests, and the latency that a request must have to be among them."""
_SCALARS = tuple(name for name, metric in METRICS.items() if metric.kind == "scalar")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Statistics of one value per request. n = 0 has None everywhere."""

    n: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    percentiles: tuple[float | None, ...]
    """At definitions.PERCENTILES."""

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


@dataclass(frozen=True, slots=True)
class Window:
    """Where rates are counted; None when it has no length."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


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
    """Where output token counts came from: usage, tokenizer, chunks, or several of them."""
    input_token_sources: tuple[str, ...] = ()
    """Where input token counts came from: usage, tokenizer, token-ids; empty when they are not known."""

    def value(self, quantity: Quantity) -> float | None:
        """One number; None when its sample is empty."""
        if quantity.stat is None:
            return self.scalars.get(quantity.metric)
        return self.distributions[quantity.metric].stat(quantity.stat)

    def n(self, quantity: Quantity) -> int:
        """Size of the sample behind a number; for a rate of the whole run the successful requests."""
        if quantity.stat is not None or quantity.metric in _PER_USER:
            return self.distributions[_PER_USER.get(quantity.metric, quantity.metric)].n
        return self.sent if quantity.metric in ("error_rate", "goodput_share") else self.ok

    def with_scalars(self, scalars: Mapping[str, float | None]) -> Summary:
        """The same with these scalars set: what does not follow from the records of these runs alone."""
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
    """To `digits` significant digits, so that stored files stay readable; None stays None."""
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
    return _summary(runs, point, gpu_count, [run_window(run, point) for run in runs], _measured(runs))


def summarize_stages(runs: Sequence[Run], point: LoadPoint, gpu_count: int = 0) -> tuple[Summary, ...]:
    """The same per stage of the load, each of the requests that were due (closed loop: sent) in it; () without."""
    windows = list(zip(*(stage_windows(run, point) for run in runs), strict=True))
    return tuple(_summary(runs, point, gpu_count, of_stage, _begun_in(runs, of_stage)) for of_stage in windows)


def _measured(runs: Iterable[Run]) -> list[RequestRecord]:
    return [record for run in runs for record in run.records if record.phase == "measured"]


def _begun_in(runs: Iterable[Run], windows: Iterable[Window | None]) -> list[RequestRecord]:
    pairs = ((record, window) for run, window in zip(runs, windows, strict=True) for record in _measured([run]))
    return [r for r, window in pairs if window and window.start_ns <= (r.due_ns or r.sent_ns or 0) < window.end_ns]


def _summary(
    runs: Sequence[Run],
    point: LoadPoint,
    gpu_count: int,
    windows: Sequence[Window | None],
    measured: Sequence[RequestRecord],
) -> Summary:
    good = [record for record in measured if record.ok]
    cancelled = sum(record.cancelled for record in measured)
    samples = _samples(good) | {"queued": _queued(measured)}
    rates = [_rates(run, window, point, gpu_count) for run, window in zip(runs, windows, strict=True)]
    scalars = {name: _mean(rate.get(name) for rate in rates) for name in _SCALARS}
    scalars["output_token_throughput_per_user"] = _mean(1e3 / itl for itl in samples["itl"])
    scalars["prefill_throughput_per_user"] = _mean(prefill_speeds(good))
    scalars["goodput_share"] = _good_share(measured, point.slo)
    failed = len(measured) - len(good) - cancelled
    scalars["error_rate"] = failed / len(measured) if measured else None
    seconds = [window.seconds for window in windows if window]
    return Summary(
        distributions={name: distribution(values) for name, values in samples.items()},
        scalars=scalars,
        sent=len(measured),
        ok=len(good),
        failed=failed,
        cancelled=cancelled,
        window_s=sum(seconds) if seconds else None,
        token_sources=tuple(sorted({record.token_source for record in good if record.token_source})),
        input_token_sources=tuple(sorted({r.input_tokens_source for r in good if r.input_tokens_source})),
    )


def latency_samples(run: Run) -> Mapping[str, Sequence[float]]:
    """By distribution its values, one per measured request that succeeded (icl: one per gap); those of `summarize`."""
    measured = _measured([run])
    return _samples([record for record in measured if record.ok]) | {"queued": _queued(measured)}


def _mean(values: Iterable[float | None]) -> float | None:
    """None when any value is missing: a mean over the runs that happened to have one would flatter."""
    sample = list(values)
    present = [value for value in sample if value is not None]
    return sum(present) / len(present) if present and len(present) == len(sample) else None


def _samples(records: Sequence[RequestRecord]) -> dict[str, list[float]]:
    gaps = [token_gaps_ms(record) for record in records]
    itl = [value for of_one in gaps if (value := mean_gap_ms(of_one)) is not None]
    spread = [record for record, of_one in zip(records, gaps, strict=True) if None not in of_one]
    chunks = [times for record in spread for times in chunk_times(record)]
    first = [(moment, r) for r in records if (moment := first_token_ns(r)) is not None]
    last = [(moment, r) for r in records if (moment := last_token_ns(r)) is not None]
    return {
        "ttft": [_ms(moment - _start(record)) for moment, record in first],
        "ttfo": [_ms(r.first_output_ns - _start(r)) for r in records if r.first_output_ns is not None],
        "ttst": [_ms(times[1] - times[0]) for times in chunks if len(times) > 1],
        "itl": itl,
        "tpot": itl,
        "icl": [ns / _NS_PER_MS for times in chunks for ns in map(sub, times[1:], times)],
        "e2e": [_ms(moment - _start(record)) for moment, record in last],
        "service_ttft": [_ms(moment - record.sent_ns) for moment, record in first if record.sent_ns is not None],
        "service_e2e": [_ms(moment - record.sent_ns) for moment, record in last if record.sent_ns is not None],
        "queued": _queued(records),
        "server_queue": [_ms(r.server_ns.scheduled - r.server_ns.arrived) for r in records if r.server_ns],
        "server_prefill": [_ms(r.server_ns.first_token - r.server_ns.scheduled) for r in records if r.server_ns],
        "server_decode": [_ms(r.server_ns.last_token - r.server_ns.first_token) for r in records if r.server_ns],
        "input_tokens": [record.input_tokens for record in records if record.input_tokens is not None],
        "output_tokens": [record.output_tokens for record in records if record.output_tokens is not None],
    }


def _queued(records: Iterable[RequestRecord]) -> list[float]:
    return [_ms(r.sent_ns - r.due_ns) for r in records if r.sent_ns is not None and r.due_ns is not None]


def _ms(ns: int) -> float:
    return ns / _NS_PER_MS


def _start(record: RequestRecord) -> int:
    """Due time in open loop, sent time in closed loop: waiting for a late client is part of an open loop's latency."""
    start = record.due_ns if record.due_ns is not None else record.sent_ns
    assert start is not None, "a request with tokens was sent"
    return start


def prefill_speeds(records: Iterable[RequestRecord]) -> list[float]:
    """Prompt tokens per second until the first token, of the requests where both are known."""
    known = [(r.input_tokens, moment - _start(r)) for r in records if (moment := first_token_ns(r)) is not None]
    return [tokens / (wait / 1e9) for tokens, wait in known if tokens is not None and wait > 0]


def _good_share(measured: Sequence[RequestRecord], slo: Mapping[str, float]) -> float | None:
    """Failed requests are in the denominator; None without limits or requests."""
    if not slo or not measured:
        return None
    return sum(record.ok and _meets_slo(record, slo) for record in measured) / len(measured)


def run_window(run: Run, point: LoadPoint) -> Window | None:
    """The part of the run in which the load was what the point asks for; None when nothing was measured."""
    if not point.closed_loop:
        due = [record.due_ns for record in _measured([run]) if record.due_ns is not None]
        return _window(min(due), max(due)) if due else None
    sent = [record.sent_ns for record in _measured([run]) if record.sent_ns is not None]
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
    """Whether a request ended after the window."""
    return record.end_ns > window.end_ns


def stage_windows(run: Run, point: LoadPoint) -> tuple[Window | None, ...]:
    """From each stage's begin to its end; None where the run did not get to anything measured."""
    sent = [record.sent_ns for record in _measured([run]) if record.sent_ns is not None]
    start_ns = min(sent, default=run.ended_ns) if point.closed_loop else run.started_ns
    bounds = itertools.accumulate((stage.duration for stage in point.stages), initial=0.0)
    moments = [min(start_ns + round(bound * 1e9), run.ended_ns) for bound in bounds]
    if point.closed_loop and sent:
        # The timer that ends the last stage may be late by a request.
        moments[-1] = max(moments[-1], max(sent) + 1)
    return tuple(_window(begin, end) for begin, end in itertools.pairwise(moments))


def _window(start_ns: int, end_ns: int) -> Window | None:
    return Window(start_ns, end_ns) if end_ns > start_ns else None


def _rates(run: Run, window: Window | None, point: LoadPoint, gpu_count: int) -> dict[str, float | None]:
    """Rates of one run; none without a window or a success."""
    good = [record for record in run.records if record.ok]
    if window is None or not good:
        return {}
    finished = [record for record in good if _within(window, record.end_ns)]
    output = sum(_tokens_within(record, window) for record in good) / window.seconds
    prefilled = [r for r in good if (moment := _prefilled_ns(r)) is not None and _within(window, moment)]
    counted = all(record.input_tokens is not None for record in prefilled)
    prompts = sum(r.input_tokens or 0 for r in prefilled) / window.seconds if counted else None
    return {
        "output_token_throughput": output,
        "input_token_throughput": prompts,
        "total_token_throughput": None if prompts is None else prompts + output,
        "request_throughput": len(finished) / window.seconds,
        "output_token_throughput_per_gpu": output / gpu_count if gpu_count else None,
        "goodput": sum(_meets_slo(r, point.slo) for r in finished) / window.seconds if point.slo else None,
        "concurrency_mean": sum(_overlap_ns(r, window) for r in run.records) / (window.end_ns - window.start_ns),
    }


def _within(window: Window, moment: int) -> bool:
    return window.start_ns < moment <= window.end_ns


def _prefilled_ns(record: RequestRecord) -> int | None:
    """When the prompt was surely read: the first chunk, or the end of an answer whose tokens were all hidden."""
    return record.chunk_ns[0] if record.chunk_ns else last_token_ns(record)


def _tokens_within(record: RequestRecord, window: Window) -> float:
    """Output tokens received in the window, or made in it unseen."""
    hidden = _hidden_within(record, window) if record.hidden_tokens else 0.0
    if not record.chunk_ns or record.output_tokens is None:
        return hidden
    visible, count = visible_tokens(record), len(record.chunk_ns)
    if _within(window, record.chunk_ns[0]) and _within(window, record.chunk_ns[-1]):
        return hidden + (visible if record.chunk_tokens is None else sum(record.chunk_tokens))
    # Where only their total is known, tokens are spread evenly over the chunks.
    tokens = record.chunk_tokens or (visible / count,) * count
    return hidden + sum(count for moment, count in zip(record.chunk_ns, tokens, strict=True) if _within(window, moment))


def _hidden_within(record: RequestRecord, window: Window) -> float:
    """Hidden tokens are spread evenly from sending to the first chunk, or to the end where there is none."""
    begun_ns, end_ns = record.sent_ns, _prefilled_ns(record)
    if begun_ns is None or end_ns is None or end_ns <= begun_ns:
        return 0.0
    hidden = min(record.hidden_tokens, (record.output_tokens or 0) - sum(record.chunk_tokens or ()))
    inside_ns = min(end_ns, window.end_ns) - max(begun_ns, window.start_ns)
    return max(0, hidden) * max(0, inside_ns) / (end_ns - begun_ns)


def _overlap_ns(record: RequestRecord, window: Window) -> int:
    if record.sent_ns is None:
        return 0
    return max(0, min(record.end_ns, window.end_ns) - max(record.sent_ns, window.start_ns))


def _meets_slo(record: RequestRecord, slo: Mapping[str, float]) -> bool:
    own = _samples([record])
    return all(own[name] and max(own[name]) <= limit for name, limit in slo.items())
