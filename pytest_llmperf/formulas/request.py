"""One request, and all of a point, as the formulas of metrics see them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_llmperf.formulas.pace import chunk_times, complete_mean, first_token_ns, last_token_ns, token_gaps_ms
from pytest_llmperf.records import RequestRecord

NS_PER_MS = 1e6


def spans_ms(moments_ns: Iterable[tuple[int | None, int | None]]) -> list[float]:
    """Returns the times between pairs of moments, of which both are known."""
    return [(end - begin) / NS_PER_MS for begin, end in moments_ns if begin is not None and end is not None]


class TimedRequest:
    """A record with what several formulas need of it, computed once."""

    __slots__ = ("chunk_times_ns", "first_token_ns", "inter_token_latency_ms", "last_token_ns", "record", "start_ns")

    def __init__(self, record: RequestRecord) -> None:
        gaps_ms = token_gaps_ms(record)
        self.record = record
        self.start_ns = record.sent_ns if record.due_ns is None else record.due_ns
        """Due time in open loop, send time in closed loop: waiting for a late client is part of a latency."""
        self.first_token_ns = first_token_ns(record)
        self.last_token_ns = last_token_ns(record)
        self.inter_token_latency_ms = complete_mean(gaps_ms)
        """Mean over the answers of the time per token; None where one of them came all at one moment."""
        self.chunk_times_ns = [] if None in gaps_ms else chunk_times(record)
        """Receive times of the chunks, answer by answer; none where an answer came all at one moment."""


@dataclass(frozen=True, slots=True)
class Requests:
    """The measured requests of a point, those of all its runs."""

    sent: Sequence[TimedRequest]
    """All of them, failed and cancelled ones too."""
    ok: Sequence[TimedRequest]
    slo: Mapping[str, float]
    """Limits per request, by metric; empty where the load has none."""
