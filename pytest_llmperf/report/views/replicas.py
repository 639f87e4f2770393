"""Replicas side by side: what each of them got and made, and how unevenly.

Where the load driver spreads the load, it knows that of every request. Where a proxy does, the replicas' own metrics
tell how many tokens each made between the first and the last sample of every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.summary import Summary, rounded
from pytest_llmperf.records import Track
from pytest_llmperf.report.text import heading

_QUANTITIES = (
    Quantity("ttft", "p50"),
    Quantity("ttft", "p99"),
    Quantity("itl", "p50"),
    Quantity("output_token_throughput"),
    Quantity("concurrency_mean"),
)
_SAMPLED = {
    "generated_tokens": "tokens, sampled",
    "requests_running": "running, mean",
    "requests_waiting": "waiting, mean",
    "kv_cache_usage": "KV cache, max",
}


class Replica(NamedTuple):
    """One replica, all runs together."""

    number: int
    """Number of the replica, from 1, as in the name of its log."""
    requests: str
    """Failed and sent ones; empty where only the proxy knows."""
    values: tuple[float | None, ...]
    share: float | None
    """Share of all output tokens, 0 to 1; None where nothing was made, or not all replicas are known."""
    metrics: Mapping[str, Any]
    """JSON data of its metrics."""


class Replicas(NamedTuple):
    """The replicas of one point."""

    point_id: str
    balance: str
    headers: tuple[str, ...]
    """Headers of the values."""
    replicas: tuple[Replica, ...]

    @property
    def imbalance(self) -> float | None:
        """Share by which the busiest made more tokens than all on average; None where nothing is known."""
        shares = [one.share for one in self.replicas if one.share is not None]
        return max(shares) * len(shares) - 1 if shares else None

    @property
    def title(self) -> str:
        known = "" if self.imbalance is None else f", imbalance {self.imbalance:.1%}"
        return f"{self.point_id}: {len(self.replicas)} replicas, {self.balance}{known}"

    def as_dict(self) -> dict[str, Any]:
        """JSON data."""
        each = [{"replica": one.number, "share": rounded(one.share), "metrics": one.metrics} for one in self.replicas]
        return {"id": self.point_id, "balance": self.balance, "imbalance": rounded(self.imbalance), "replicas": each}


def replicas_of(results: Sequence[Result]) -> list[Replicas]:
    """One entry per point of a server with replicas that something is known of; of a duet the old server's too."""
    sides = [side for result in results for side in (result.reference, result) if side is not None]
    found = (_driven(side) if side.replicas else _sampled(side) for side in sides)
    return [one for one in found if one.replicas]


def _driven(result: Result) -> Replicas:
    rates = [one.scalars["output_token_throughput"] or 0.0 for one in result.replicas]
    shares = [rate / sum(rates) if any(rates) else None for rate in rates]
    each = tuple(_replica(*one) for one in zip(range(1, len(rates) + 1), result.replicas, shares, strict=True))
    return Replicas(result.point_id, result.server.balance_by, tuple(map(heading, _QUANTITIES)), each)


def _replica(number: int, summary: Summary, share: float | None) -> Replica:
    values = tuple(summary.value(quantity) for quantity in _QUANTITIES)
    return Replica(number, f"{summary.failed}/{summary.sent}", values, share, summary.as_dict())


def _sampled(result: Result) -> Replicas:
    count = getattr(result.server, "replicas", 1)
    sources = [f"{result.server.name}-{number}" for number in range(1, count + 1)] if count > 1 else []
    rows = [dict(zip(_SAMPLED, _sums(result, source), strict=True)) for source in sources]
    made = [row["generated_tokens"] for row in rows]
    # One without metrics may have made any number of them.
    total = 0.0 if None in made else sum(filter(None, made))
    each = (
        Replica(
            number,
            "",
            tuple(row.values()),
            (row["generated_tokens"] or 0.0) / total if total else None,
            {name: rounded(value) for name, value in row.items()},
        )
        for number, row in enumerate(rows, start=1)
    )
    headers = tuple(_SAMPLED.values())
    return Replicas(result.point_id, result.server.balance_by, headers, tuple(each) if any(made) else ())


def _sums(result: Result, source: str) -> Iterator[float | None]:
    """Values of all runs in the order of _SAMPLED: tokens made, means of requests running and waiting, the most of
    KV.
    """
    tracks = [track for run in result.runs for track in (run.telemetry.tracks if run.telemetry else ())]
    own = [track for track in tracks if track.source == source]
    made = [values[-1] for track in own if (values := _values(track, "generated_tokens"))]
    yield sum(made) if made else None
    for name in ("requests_running", "requests_waiting"):
        values = [value for track in own for value in _values(track, name)]
        yield sum(values) / len(values) if values else None
    yield max((value for track in own for value in _values(track, "kv_cache_usage")), default=None)


def _values(track: Track, name: str) -> list[float]:
    return [value for value in dict(track.series).get(name, ()) if value is not None]
