"""What the token source really sent: its log, and the metrics that a perfect client would report of it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HEAD = struct.Struct("=64s4q4i")
_EMISSION_NS = 3  # planned, before the write, after the write
ABORTED, BLOCKED = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """One request as the source saw it; times are CLOCK_REALTIME in nanoseconds."""

    id: str
    arrived_ns: int
    """The kernel's receive time."""
    read_ns: int
    started_ns: int
    ended_ns: int
    status: int
    tokens: int
    aborted: bool
    blocked: bool
    """The socket was full once: the client did not read for long, and a write time is when the write was tried."""
    planned_ns: npt.NDArray[np.int64]
    before_ns: npt.NDArray[np.int64]
    after_ns: npt.NDArray[np.int64]

    @property
    def whole(self) -> bool:
        return self.status == 200 and not self.aborted


def read_log(path: Path) -> list[Sent]:
    """The requests in the order in which they were read."""
    data = path.read_bytes()
    sent: list[Sent] = []
    at = 0
    while at < len(data):
        name, arrived, read, started, ended, status, tokens, chunks, flags = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        times = np.frombuffer(data, np.int64, chunks * _EMISSION_NS, at).reshape(chunks, _EMISSION_NS)
        at += times.nbytes
        head = (name.rstrip(b"\0").decode(), arrived, read, started, ended, status, tokens)
        sent.append(Sent(*head, bool(flags & ABORTED), bool(flags & BLOCKED), *times.T))
    return sent


def metrics(requests: Sequence[Sent]) -> dict[str, dict[str, float]]:
    """TTFT from the request's arrival, TPOT = (last − first) / (tokens − 1) per request, gaps between chunks pooled."""
    ttft = [(request.before_ns[0] - request.arrived_ns) / 1e6 for request in requests]
    tpot = [(r.before_ns[-1] - r.before_ns[0]) / 1e6 / (r.tokens - 1) for r in requests if r.tokens > 1]
    gaps = _joined(np.diff(request.before_ns) / 1e6 for request in requests)
    return {"ttft": _summary(ttft), "tpot": _summary(tpot), "gap": _summary(gaps)}


def stamp_errors_us(requests: Sequence[Sent], stamps: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Receive time minus write time, chunk by chunk."""
    both = ((request, stamps[request.id]) for request in requests if request.id in stamps)
    return _summary(_joined((np.array(seen) - request.before_ns) / 1e3 for request, seen in both))


def totals(requests: Sequence[Sent]) -> dict[str, float]:
    """Of all that were asked: what a report's `load` says."""
    whole = [request for request in requests if request.whole]
    tokens = sum(request.tokens for request in whole)
    return {
        "tokens_per_s": tokens_per_s(whole),
        "requests": len(whole),
        "tokens": tokens,
        "failed": len(requests) - len(whole),
    }


def lateness_us(requests: Sequence[Sent]) -> dict[str, float]:
    """How much later than planned the source wrote: its own limit."""
    return _summary(_joined((request.before_ns - request.planned_ns) / 1e3 for request in requests))


def tokens_per_s(requests: Sequence[Sent]) -> float:
    """From the first request's arrival to the last token."""
    first = min(request.arrived_ns for request in requests)
    last = max(int(request.before_ns[-1]) for request in requests)
    return sum(request.tokens for request in requests) / (last - first) * 1e9


def _joined(parts: Iterable[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    return np.concatenate([np.empty(0), *parts])


def _summary(values: Sequence[float] | npt.NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {}
    p50, p99, top = (float(value) for value in np.percentile(values, [50, 99, 100]))
    return {"mean": float(np.mean(values)), "p50": p50, "p99": p99, "max": top, "n": len(values)}
