"""The catalogue of metrics: one name, unit, direction and formula for plan, metrics, gate and reports.

Everything that prints, limits or compares a metric looks it up here, so that a number never travels without its unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is: `kind` "distribution" has one value per request, "scalar" one per run."""

    name: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    kind: Literal["distribution", "scalar"]
    definition: str

    @property
    def key(self) -> str:
        """Name in reports: carries the unit where it is a time (`ttft_ms`)."""
        return f"{self.name}_ms" if self.unit == "ms" else self.name


def _time(name: str, definition: str) -> Metric:
    return Metric(name, "ms", "lower", "distribution", definition)


def _rate(name: str, unit: str, definition: str) -> Metric:
    return Metric(name, unit, "higher", "scalar", definition)


_ALL = (
    _time("ttft", "first chunk that carries a token - start (a role-only chunk is no token); none after hidden tokens"),
    _time("ttfo", "first chunk that carries a non-reasoning token - start"),
    _time("ttst", "second chunk that carries a token - first one, of each answer"),
    _time(
        "itl",
        "(last - first token) / (streamed tokens - those that came first), the mean over a request's answers; none "
        "where the tokens of an answer came all at one moment; n counts requests of >= 2 tokens",
    ),
    _time("tpot", "the same number as itl, under its other name"),
    _time(
        "icl",
        "gap between two token chunks of an answer; all gaps of all requests are pooled, as far as they have an itl",
    ),
    _time("e2e", "last token - start; the response's end where all tokens were hidden"),
    _time("service_ttft", "first token - sent; differs from ttft in open loop, where start is the due time"),
    _time("service_e2e", "last token - sent"),
    _time("queued", "sent - due, of every measured request of an open loop; max_in_flight makes requests wait"),
    _time("server_queue", "first scheduled - arrival, by the server's own clock (TensorRT-LLM's return_perf_metrics)"),
    _time("server_prefill", "first token - first scheduled, by the server's own clock"),
    _time("server_decode", "last - first token, by the server's own clock"),
    Metric("input_tokens", "tokens", "neither", "distribution", "prompt tokens of a request: server, else tokenizer"),
    Metric("output_tokens", "tokens", "neither", "distribution", "generated tokens of a request, streamed or not"),
    _rate("output_token_throughput", "tok/s", "output tokens received, or made unseen, in the window / window"),
    _rate("input_token_throughput", "tok/s", "prompt tokens of requests whose first token fell in the window / window"),
    _rate("total_token_throughput", "tok/s", "input_token_throughput + output_token_throughput"),
    _rate("request_throughput", "req/s", "successful requests that ended in the window / window"),
    _rate("output_token_throughput_per_user", "tok/s", "mean over requests of 1 / itl"),
    _rate("prefill_throughput_per_user", "tok/s", "mean over requests of input tokens / ttft"),
    _rate("output_token_throughput_per_gpu", "tok/s", "output_token_throughput / GPUs of the configuration"),
    _rate("goodput", "req/s", "successful requests within every slo limit that ended in the window / window"),
    Metric(
        "goodput_share", "ratio", "higher", "scalar", "measured requests within every slo limit / all measured ones"
    ),
    Metric("concurrency_mean", "requests", "neither", "scalar", "time-weighted mean of requests in flight"),
    _rate("capacity", "req/s", "highest request rate that meets the limits of a capacity search, interpolated at them"),
    _rate("capacity_concurrency", "requests", "the same of the requests in flight of a closed loop"),
    Metric("error_rate", "ratio", "lower", "scalar", "failed / sent, of the measured requests"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

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
    def better(self) -> Literal["lower", "higher", "neither"]:
        return METRICS[self.metric].better

    def shown(self, value: float, form: str = ".4g") -> str:
        """`value` with its unit, for people; a ratio has none."""
        return f"{value:{form}}" if self.unit == "ratio" else f"{value:{form}} {self.unit}"


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
    return f"; allowed: {', '.join(allowed)}" if len(allowed) <= 40 else ""
