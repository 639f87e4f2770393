"""One request, and all of a point, as the formulas of metrics see them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_llmperf.formulas.pace import (
    chunk_times,
    complete_mean,
    first_token_ns,
    last_token_ns,
    token_gaps_ms,
)
from pytest_llmperf.records import RequestRecord

NS_PER_MS = 1e6


def span_ms(begin_ns: int | None, end_ns: int | None) -> list[float]:
    """Returns the one time between two moments; none where a moment is not known."""
    return [] if begin_ns is None or end_ns is None else [(end_ns - begin_ns) / NS_PER_MS]


class Request:
    """A record with what several formulas need of it, computed once and only when asked for."""

    def __init__(self, record: RequestRecord) -> None:
        self.record = record

    @property
    def start_ns(self) -> int | None:
        """Due time in open loop, send time in closed loop: waiting for a late client is part of a latency."""
        return self.record.sent_ns if self.record.due_ns is None else self.record.due_ns

    @property
    def first_token_ns(self) -> int | None:
        """When the first token came; None without a chunk, and after hidden tokens."""
        return first_token_ns(self.record)

    @property
    def last_token_ns(self) -> int | None:
        """When the last token came; None without tokens."""
        return last_token_ns(self.record)

    @cached_property
    def _gaps_ms(self) -> list[float | None]:
        return token_gaps_ms(self.record)

    @cached_property
    def inter_token_latency_ms(self) -> float | None:
        """Mean over the answers of the time per token; None where one of them came all at one moment."""
        return complete_mean(self._gaps_ms)

    @property
    def chunk_times_ns(self) -> list[Sequence[int]]:
        """Receive times of the chunks, answer by answer; none where an answer came all at one moment."""
        return [] if None in self._gaps_ms else chunk_times(self.record)


@dataclass(frozen=True, slots=True)
class Requests:
    """The measured requests of a point, those of all its runs."""

    sent: Sequence[Request]
    """All of them, failed and cancelled ones too."""
    ok: Sequence[Request]
    slo: Mapping[str, float]
    """Limits per request, by metric; empty where the load has none."""
