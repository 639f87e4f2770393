"""Facts of a run, as the load driver saw them: plain frozen data, no interpretation.

All times are integers in nanoseconds of CLOCK_REALTIME: the clock of the kernel's receive timestamps, so that sent and
received times can be subtracted. `ClientHealth.clock_step_ns` says whether that clock was set during the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["lead-in", "measured"]
Stamps = Literal["kernel", "user"]
TokenSource = Literal["usage", "tokenizer", "chunks"]
InputTokensSource = Literal["usage", "tokenizer", "token-ids"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. A failed one has `error` set and keeps the times that it got as far as."""

    index: int
    """Position in the run's trace; lead-in requests come first."""
    phase: Phase
    request_id: str
    due_ns: int | None
    """When an open-loop schedule wanted it sent; None in closed loop."""
    sent_ns: int | None
    """Just before the request's bytes were handed to the kernel; None when no connection was had."""
    chunk_ns: tuple[int, ...]
    """Receive time of every chunk that carried tokens."""
    chunk_tokens: tuple[int, ...] | None
    """Tokens of each of these chunks where the server told; None where only the total is known."""
    first_output_ns: int | None
    """First chunk with non-reasoning tokens; None when there was none."""
    end_ns: int
    """Last byte of the response, or the moment of the failure."""
    input_tokens: int | None
    output_tokens: int | None
    requested_output_tokens: int
    token_source: TokenSource | None
    """Where `output_tokens` comes from; None when the request failed before any."""
    finish_reason: str | None
    status: int | None
    """HTTP status; None when no response was had."""
    error: str | None
    coalesced_chunks: int
    """Token chunks that share their receive time with another, because one read returned several."""
    input_tokens_source: InputTokensSource | None = None
    """Where `input_tokens` comes from: the server, or what was sent; None when neither is known."""
    conversation: int | None = None
    """Number of the conversation that this is a turn of; None for a request by itself."""
    turn: int = 0
    """Which turn, from 0."""

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """How the load driver itself fared: the facts from which a run is declared invalid.

    `receive_lag_*` is user-space minus kernel time of a read (None without kernel stamps); `send_late_*` is sent minus
    due (None in closed loop); shares are in 0..1.
    """

    stamps: Stamps
    cpu_share: float | None
    receive_lag_p50_us: float | None
    receive_lag_p99_us: float | None
    receive_lag_max_us: float | None
    send_late_p50_us: float | None
    send_late_p99_us: float | None
    coalesced_share: float | None
    clock_step_ns: int
    connect_ms: float | None
    """Mean time to open a connection, before the window."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a load point: its requests in trace order, and the state of the client."""

    index: int
    started_ns: int
    ended_ns: int
    trace_hash: str
    records: tuple[RequestRecord, ...]
    client: ClientHealth
