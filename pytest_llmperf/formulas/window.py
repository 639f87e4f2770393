"""Rates and counts within the window of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_llmperf.formulas.pace import last_token_ns, visible_tokens
from pytest_llmperf.records import RequestRecord, Run


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which rates are counted; None when it has no length."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class RunWindow:
    """A run with its window, as the formulas of rates see it; every request of the run counts, the lead-in too."""

    run: Run
    window: Window
    slo: Mapping[str, float]
    """Limits per request, by metric; empty where the load has none."""
    gpu_count: int

    @property
    def seconds(self) -> float:
        return self.window.seconds

    @cached_property
    def ok(self) -> list[RequestRecord]:
        """Requests that succeeded, in the window or not."""
        return [record for record in self.run.records if record.ok]

    @cached_property
    def finished(self) -> list[RequestRecord]:
        """Requests that succeeded and ended in the window."""
        return [record for record in self.ok if _within(self.window, record.end_ns)]

    @cached_property
    def output_token_rate(self) -> float:
        """Output tokens per second, those that were made unseen included."""
        return sum(_tokens_within(record, self.window) for record in self.ok) / self.seconds

    @cached_property
    def input_token_rate(self) -> float | None:
        """Prompt tokens per second, of prompts whose reading ended in the window; None where a count is not known."""
        ends = ((record, _prefilled_ns(record)) for record in self.ok)
        counts = [r.input_tokens for r, end_ns in ends if end_ns is not None and _within(self.window, end_ns)]
        known = [count for count in counts if count is not None]
        return sum(known) / self.seconds if len(known) == len(counts) else None

    @property
    def mean_in_flight(self) -> float:
        """Time-weighted mean of the requests in flight."""
        in_flight_ns = sum(_overlap_ns(record, self.window) for record in self.run.records)
        return in_flight_ns / (self.window.end_ns - self.window.start_ns)


def _within(window: Window, moment: int) -> bool:
    return window.start_ns < moment <= window.end_ns


def _prefilled_ns(record: RequestRecord) -> int | None:
    """Time at which the prompt was surely read: the first chunk, or the end of an answer whose tokens were all
    hidden.
    """
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
