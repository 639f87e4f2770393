"""The table of metrics: name, unit, direction and formula of each, for plan, metrics, gate and reports.

Everything that computes, prints, limits or compares a metric looks it up here, so that a number never travels without
its unit. A new metric is a row of `_ALL`, with `since=LATER`, and its row in docs/metrics.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import sub
from typing import Literal

from pytest_llmperf.formulas.pace import complete_mean
from pytest_llmperf.formulas.request import NS_PER_MS, Requests, TimedRequest, spans_ms
from pytest_llmperf.formulas.window import RunWindow
from pytest_llmperf.records import ServerTimes

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
STATISTICS = ("mean", "std", "min", "max", *(f"p{p}" for p in PERCENTILES))


OFFERED = (
    "output_token_throughput",
    "input_token_throughput",
    "total_token_throughput",
    "request_throughput",
    "output_token_throughput_per_gpu",
)
"""Rates that an open loop sets itself, whatever the server does: never gated there."""


Better = Literal["lower", "higher", "neither"]
Need = Literal["due", "first token", "chunks"]
Sample = Callable[[Sequence[TimedRequest]], list[float]]
LATER = 3
"""A value of `Metric.since`: came after schema 2 of baselines, so that files of it are whole without the metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric, and how it is computed.

    With a `sample` it is a distribution, of the values of all requests. Without one it is a scalar: from a `rate` or a
    `total`, or, where it has neither, set by what searched for it.
    """

    name: str
    unit: str
    better: Better
    since: int
    """First schema of baselines whose files must have it."""
    definition: str
    sample: Sample | None = None
    """Values of requests: one has none where it has no such value, several where they are pooled from its parts."""
    rate: Callable[[RunWindow], float | None] | None = None
    """Value of one run in its window; several runs have the mean."""
    total: Callable[[Requests], float | None] | None = None
    """Value over the measured requests of all runs."""
    n_of: str = "ok"
    """Requests behind it: "ok", "sent" (failed and cancelled ones too), or those with a value of this other metric."""
    needs: tuple[Need, ...] = ()
    """Facts of requests that must be known, beside when they were sent and ended; files of other tools may lack it."""
    may_be_negative: bool = False

    @property
    def kind(self) -> Literal["distribution", "scalar"]:
        """A distribution has values of every request, a scalar is one number of a run."""
        return "distribution" if self.sample else "scalar"

    @property
    def key(self) -> str:
        """Name in reports: carries the unit where it is a time (`ttft_ms`)."""
        return f"{self.name}_ms" if self.unit == "ms" else self.name

    def values(self, requests: Sequence[TimedRequest]) -> list[float]:
        """The values of these requests; a scalar has none."""
        return self.sample(requests) if self.sample else []


def meets_slo(request: TimedRequest, slo: Mapping[str, float]) -> bool:
    """True if a request has a value of every metric in `slo` and none above its limit, in the metric's unit."""
    return all((values := METRICS[name].values([request])) and max(values) <= limit for name, limit in slo.items())


def _inter_token_latencies(requests: Sequence[TimedRequest]) -> list[float]:
    return [itl for request in requests if (itl := request.inter_token_latency_ms) is not None]


def _server_spans(span_ns: Callable[[ServerTimes], int]) -> Sample:
    return lambda requests: [span_ns(times) / NS_PER_MS for r in requests if (times := r.record.server_ns)]


def _prefill_speeds(requests: Sequence[TimedRequest]) -> Iterator[float]:
    """Prompt tokens per second until the first token, of the requests where both are known."""
    for request in requests:
        tokens, first_ns = request.record.input_tokens, request.first_token_ns
        if tokens is not None and first_ns is not None and request.start_ns is not None and first_ns > request.start_ns:
            yield tokens / ((first_ns - request.start_ns) / 1e9)


def _total_rate(run: RunWindow) -> float | None:
    return None if run.input_token_rate is None else run.input_token_rate + run.output_token_rate


def _goodput(run: RunWindow) -> float | None:
    return sum(meets_slo(TimedRequest(r), run.slo) for r in run.finished) / run.seconds if run.slo else None


def _goodput_share(requests: Requests) -> float | None:
    """Failed requests are in the denominator; None without limits or requests."""
    if not requests.slo or not requests.sent:
        return None
    return sum(meets_slo(request, requests.slo) for request in requests.ok) / len(requests.sent)


def _error_rate(requests: Requests) -> float | None:
    failed = sum(not (request.record.ok or request.record.cancelled) for request in requests.sent)
    return failed / len(requests.sent) if requests.sent else None


ACCURACY = "accuracy_"
"""Begin of the names of metrics that are scores of answers."""
_SCORES = {
    "exact": "the answer is a reference, but for the space around it",
    "normalised": "the same without case, punctuation, articles and spacing (as SQuAD compares)",
    "numeric": "the last number of the answer is the last number of a reference",
    "regex": "the plan's pattern is found in the answer",
    "json_schema": "the answer is JSON that meets the plan's schema",
    "token_f1": "F1 of the answer's words against the best reference (as SQuAD counts)",
    "rouge_l": "F1 of the longest common subsequence of words against the best reference (ROUGE-L)",
    "chrf": "sentence chrF / 100, by sacrebleu",
    "bleu": "sentence BLEU / 100, by sacrebleu",
    "function": "what the plan's function returns",
    "judge": "what the judging model replies, from 0 to 1",
}


def _mean_score(name: str, requests: Requests) -> float | None:
    """Mean over the successful requests that have the score; None where none has it."""
    if not requests.ok or requests.ok[0].record.prompt_id is None:
        return None
    scores = [s[name] for request in requests.ok if (s := request.record.scores) and name in s]
    return sum(scores) / len(scores) if scores else None


_latency = partial(Metric, unit="ms", better="lower")
_throughput = partial(Metric, unit="tok/s", better="higher")
_ALL = (
    _latency(
        name="ttft",
        since=2,
        definition="first chunk that carries a token - start (a role-only chunk is no token); none after hidden tokens",
        sample=lambda requests: spans_ms((r.start_ns, r.first_token_ns) for r in requests),
        needs=("due", "first token"),
    ),
    _latency(
        name="ttfo",
        since=2,
        definition="first chunk that carries a non-reasoning token - start",
        sample=lambda requests: spans_ms((r.start_ns, r.record.first_output_ns) for r in requests),
        needs=("due", "first token"),
    ),
    _latency(
        name="ttst",
        since=2,
        definition="second chunk that carries a token - first one, of each answer",
        sample=lambda requests: [
            (times[1] - times[0]) / NS_PER_MS for r in requests for times in r.chunk_times_ns if len(times) > 1
        ],
        needs=("chunks",),
    ),
    _latency(
        name="itl",
        since=2,
        definition="(last - first token) / (streamed tokens - those that came first), the mean over a request's "
        "answers; none where the tokens of an answer came all at one moment; n counts requests of >= 2 tokens",
        sample=_inter_token_latencies,
        needs=("first token",),
    ),
    _latency(
        name="tpot",
        since=2,
        definition="the same number as itl, under its other name",
        sample=_inter_token_latencies,
        needs=("first token",),
    ),
    _latency(
        name="icl",
        since=2,
        definition="gap between two token chunks of an answer; all gaps of all requests are pooled, as far as they "
        "have an itl",
        sample=lambda requests: [
            ns / NS_PER_MS for r in requests for times in r.chunk_times_ns for ns in map(sub, times[1:], times)
        ],
        needs=("chunks",),
    ),
    _latency(
        name="e2e",
        since=2,
        definition="last token - start; the response's end where all tokens were hidden",
        sample=lambda requests: spans_ms((r.start_ns, r.last_token_ns) for r in requests),
        needs=("due",),
    ),
    _latency(
        name="service_ttft",
        since=2,
        definition="first token - sent; differs from ttft in open loop, where start is the due time",
        sample=lambda requests: spans_ms((r.record.sent_ns, r.first_token_ns) for r in requests),
        needs=("first token",),
    ),
    _latency(
        name="service_e2e",
        since=2,
        definition="last token - sent",
        sample=lambda requests: spans_ms((r.record.sent_ns, r.last_token_ns) for r in requests),
    ),
    _latency(
        name="queued",
        since=2,
        definition="sent - due, of every measured request of an open loop; max_in_flight makes requests wait",
        sample=lambda requests: spans_ms((r.record.due_ns, r.record.sent_ns) for r in requests),
        n_of="sent",
        needs=("due",),
        may_be_negative=True,  # a timer may fire a clock tick early
    ),
    _latency(
        name="server_queue",
        since=LATER,
        definition="first scheduled - arrival, by the server's own clock (TensorRT-LLM's return_perf_metrics)",
        sample=_server_spans(lambda times: times.scheduled - times.arrived),
    ),
    _latency(
        name="server_prefill",
        since=LATER,
        definition="first token - first scheduled, by the server's own clock",
        sample=_server_spans(lambda times: times.first_token - times.scheduled),
    ),
    _latency(
        name="server_decode",
        since=LATER,
        definition="last - first token, by the server's own clock",
        sample=_server_spans(lambda times: times.last_token - times.first_token),
    ),
    Metric(
        name="input_tokens",
        unit="tokens",
        better="neither",
        since=2,
        definition="prompt tokens of a request: server, else tokenizer",
        sample=lambda requests: [count for r in requests if (count := r.record.input_tokens) is not None],
    ),
    Metric(
        name="output_tokens",
        unit="tokens",
        better="neither",
        since=2,
        definition="generated tokens of a request, streamed or not",
        sample=lambda requests: [count for r in requests if (count := r.record.output_tokens) is not None],
    ),
    _throughput(
        name="output_token_throughput",
        since=2,
        definition="output tokens received, or made unseen, in the window / window",
        rate=lambda run: run.output_token_rate,
        needs=("chunks",),
    ),
    _throughput(
        name="input_token_throughput",
        since=2,
        definition="prompt tokens of requests whose first token fell in the window / window",
        rate=lambda run: run.input_token_rate,
        needs=("chunks",),
    ),
    _throughput(
        name="total_token_throughput",
        since=2,
        definition="input_token_throughput + output_token_throughput",
        rate=_total_rate,
        needs=("chunks",),
    ),
    Metric(
        name="request_throughput",
        unit="req/s",
        better="higher",
        since=2,
        definition="successful requests that ended in the window / window",
        rate=lambda run: len(run.finished) / run.seconds,
    ),
    _throughput(
        name="output_token_throughput_per_user",
        since=2,
        definition="mean over requests of 1 / itl",
        total=lambda point: complete_mean(1e3 / itl for itl in _inter_token_latencies(point.ok)),
        n_of="itl",
    ),
    _throughput(
        name="prefill_throughput_per_user",
        since=2,
        definition="mean over requests of input tokens / ttft",
        total=lambda point: complete_mean(_prefill_speeds(point.ok)),
        n_of="ttft",
        needs=("due", "first token"),
    ),
    _throughput(
        name="output_token_throughput_per_gpu",
        since=2,
        definition="output_token_throughput / GPUs of the configuration",
        rate=lambda run: run.output_token_rate / run.gpu_count if run.gpu_count else None,
        needs=("chunks",),
    ),
    Metric(
        name="goodput",
        unit="req/s",
        better="higher",
        since=2,
        definition="successful requests within every slo limit that ended in the window / window",
        rate=_goodput,
    ),
    Metric(
        name="goodput_share",
        unit="ratio",
        better="higher",
        since=2,
        definition="measured requests within every slo limit / all measured ones",
        total=_goodput_share,
        n_of="sent",
    ),
    Metric(
        name="concurrency_mean",
        unit="requests",
        better="neither",
        since=2,
        definition="time-weighted mean of requests in flight",
        rate=lambda run: run.mean_in_flight,
    ),
    Metric(
        name="capacity",
        unit="req/s",
        better="higher",
        since=LATER,
        definition="highest request rate that meets the limits of a capacity search, interpolated at them",
    ),
    Metric(
        name="capacity_concurrency",
        unit="requests",
        better="higher",
        since=LATER,
        definition="the same of the requests in flight of a closed loop",
    ),
    Metric(
        name="error_rate",
        unit="ratio",
        better="lower",
        since=2,
        definition="failed / sent, of the measured requests",
        total=_error_rate,
        n_of="sent",
    ),
    *(
        Metric(
            name=f"{ACCURACY}{score}",
            unit="ratio",
            better="higher",
            since=LATER,
            definition=f"mean over answers of: {definition}",
            total=partial(_mean_score, score),
        )
        for score, definition in _SCORES.items()
    ),
    Metric(
        name="output_agreement",
        unit="ratio",
        better="higher",
        since=LATER,
        definition="share of pairs of runs that gave a prompt of the output guard the same answer",
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
ACCURACIES = tuple(f"{ACCURACY}{score}" for score in _SCORES)
"""Metrics that are scores of answers: compared prompt by prompt."""

_STATISTIC = re.compile(rf"^(?P<name>\w+?)_(?P<stat>{'|'.join(STATISTICS)})$")


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """One number of a summary: a metric, and for a distribution which statistic of it."""

    metric: str
    stat: str | None = None

    def __str__(self) -> str:
        return self.metric if self.stat is None else f"{self.metric}_{self.stat}"

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit

    @property
    def better(self) -> Better:
        return METRICS[self.metric].better

    @property
    def title(self) -> str:
        """Name for people: `TTFT p99`, `Output token throughput`."""
        if self.stat is None:
            return self.metric.replace("_", " ").capitalize()
        return f"{self.metric.upper() if len(self.metric) < 5 else self.metric} {self.stat}"

    def change(self, log_worse: float) -> float:
        """Change of the value (0.1: 10 % more), from the log of the ratio by which it got worse."""
        return math.expm1(-log_worse if self.better == "higher" else log_worse)

    def shown(self, value: float, form: str = ".4g") -> str:
        """`value` with its unit, for people; a ratio has none."""
        return f"{value:{form}}" if self.unit == "ratio" else f"{value:{form}} {self.unit}"


OUTPUT_RATE = Quantity("output_token_throughput")
HEADLINE_LATENCIES = (
    *(Quantity(metric, stat) for metric in ("ttft", "itl") for stat in ("p50", "p99")),
    Quantity("e2e", "p50"),
)
HEADLINE = (*HEADLINE_LATENCIES, Quantity("request_throughput"), OUTPUT_RATE)
"""Quantities of a point where there is no room for every metric: tables, levels of a capacity, searches."""


def quantity_names() -> tuple[str, ...]:
    """Every name that `parse_quantity` takes, in the catalogue's order."""
    names: list[str] = []
    for metric in _ALL:
        distribution = metric.kind == "distribution"
        names += [f"{metric.name}_{stat}" for stat in STATISTICS] if distribution else [metric.name]
    return tuple(names)


def parse_quantity(name: str) -> Quantity:
    """`ttft_p99` -> Quantity("ttft", "p99"); ValueError names the nearest and what is allowed."""
    metric = METRICS.get(name)
    if metric is not None and metric.kind == "scalar":
        return Quantity(name)
    match = _STATISTIC.match(name)
    if match and METRICS.get(match["name"]) and METRICS[match["name"]].kind == "distribution":
        return Quantity(match["name"], match["stat"])
    if metric is not None:
        raise ValueError(f"{name!r} needs a statistic, for example {name}_p99; one of {', '.join(STATISTICS)}")
    raise ValueError(f"unknown metric {name!r}{did_you_mean(name, quantity_names())}")


def did_you_mean(given: str, allowed: tuple[str, ...] | list[str]) -> str:
    """'; did you mean ...?' for a near miss, else the allowed names when they are few."""
    from difflib import get_close_matches

    near = get_close_matches(given, allowed, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if len(allowed) <= 40:
        return f"; allowed: {', '.join(allowed)}"
    nearest = get_close_matches(given, allowed, n=3, cutoff=0.0)
    return f"; the nearest are {', '.join(nearest)}"
