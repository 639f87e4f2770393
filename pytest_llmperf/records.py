"""Facts of a run, as the load driver saw them: plain frozen data, no interpretation.

All times are integers in nanoseconds of CLOCK_REALTIME: the clock of the kernel's receive timestamps, so that sent and
received times can be subtracted. `ClientHealth.clock_step_ns` says whether that clock was set during the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Phase = Literal["lead-in", "measured"]
Stamps = Literal["kernel", "user"]
Scheduling = Literal["real-time", "nice", "normal"]
TokenSource = Literal["usage", "tokenizer", "chunks"]
InputTokensSource = Literal["usage", "tokenizer", "token-ids"]


class ServerTimes(NamedTuple):
    """Times at which a request reached the server's own stations, in ns of a clock of the server's."""

    arrived: int
    scheduled: int
    first_token: int
    last_token: int


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. A failed one has `error` set and keeps the times that it got as far as."""

    index: int
    """Position in the run's trace; lead-in requests come first."""
    phase: Phase
    request_id: str
    due_ns: int | None
    """Time at which an open-loop schedule wanted it sent; None in closed loop."""
    sent_ns: int | None
    """Time just before the request's bytes were handed to the kernel; None when no connection was had."""
    chunk_ns: tuple[int, ...]
    """Receive time of every chunk that carried tokens."""
    chunk_tokens: tuple[int, ...] | None
    """Tokens of each of these chunks where the server reported them; None where only the total is known."""
    first_output_ns: int | None
    """First chunk with non-reasoning tokens; None when there was none."""
    end_ns: int
    """Last byte of the response, or the moment of the failure."""
    input_tokens: int | None
    output_tokens: int | None
    requested_output_tokens: int
    token_source: TokenSource | None
    """Source of `output_tokens`; None when the request failed before any."""
    finish_reason: str | None
    status: int | None
    """HTTP status; None when no response was had."""
    error: str | None
    coalesced_chunks: int
    """Token chunks that share their receive time with another of the same answer, because one read returned several."""
    prompts: int = 1
    """Prompts in this request: token counts and chunks are of all together."""
    cancelled: bool = False
    """Broken off by the client as the load asks for it: neither ok nor failed."""
    held_ns: int = 0
    """Nanoseconds for which `max_in_flight` kept it from being sent."""
    connect_ns: int | None = None
    """Nanoseconds in which its own connection was opened, before it was sent; None on one that is kept."""
    input_tokens_source: InputTokensSource | None = None
    """Source of `input_tokens`: the server, or the prompt that was sent; None when neither is known."""
    server_ns: ServerTimes | None = None
    """Times that the server itself reports (TensorRT-LLM's perf metrics); None where it does not."""
    conversation: int | None = None
    """Number of the conversation that this is a turn of; None for a request by itself."""
    turn: int = 0
    """Index of the turn, from 0."""
    tokenless_ns: tuple[int, ...] = ()
    """Receive time of every chunk with `choices` that carried no token: role-only, finish-only. For dialects."""
    textless_chunks: tuple[int, ...] = ()
    """Positions in `chunk_ns` of token chunks without any text. For dialects."""
    first_late_ns: int | None = None
    """Lateness of the client when it read the first token together with the next, so that the time of the first is
    the next one's: as late as any read within a millisecond. None where the first came alone, or without kernel
    stamps.
    """
    shared_late_ns: tuple[int, ...] = ()
    """Lateness of each of the `coalesced_chunks`; empty without kernel stamps, and of several answers."""
    answers: int = 1
    """Answers (choices) that this request asked for: `prompts` times the body's `n`."""
    chunk_answers: tuple[int, ...] = ()
    """Index of the answer that each chunk belongs to, one per entry of `chunk_ns`; empty where there is one answer."""
    first_chunk_tokens: tuple[float, ...] = ()
    """Tokens in the first chunk of each answer, in order of the answers' indices: as the server counted them, else
    estimated from the share of the text. An answer without any chunk has no entry."""
    hidden_tokens: int = 0
    """Part of `output_tokens` that the server counted and never streamed, such as reasoning that it keeps to itself."""
    unknown_fields: tuple[str, ...] = ()
    """Names of fields of a delta that are in no known API and carried content; their chunks count as token chunks."""
    usage_doubt: str | None = None
    """The reason why the server's token counts were not believed as they stood, as a sentence's end; None where they
    were.
    """
    end_told: bool = True
    """True if the server said that the answer was over: a finish reason, an event for it, or [DONE]."""
    replica: int | None = None
    """Replica that the load driver sent it to, from 0; None where there is one target, or it was not sent."""
    prompt: str | None = None
    """Text that was asked; None unless the load asks for texts to be kept."""
    text: str | None = None
    """Text of the first answer, without reasoning, under the same condition."""
    references: tuple[str, ...] = ()
    """Right answers, under the same condition as `prompt`; empty where none are known."""
    prompt_id: str | None = None
    """Digest of the prompt; None unless the load scores or guards answers."""
    output_id: str | None = None
    """Digest of the answer, where the load guards it; None otherwise."""
    scores: Mapping[str, float] | None = None
    """Scores of the answer in 0..1 by the names of a load's `answers`; None where it was not scored."""

    @property
    def unit(self) -> int:
        """Number of the conversation, or of the request by itself: a slot takes a whole unit at a time."""
        return self.index if self.conversation is None else self.conversation

    @property
    def ok(self) -> bool:
        return self.error is None and not self.cancelled

    @property
    def late_ns(self) -> int | None:
        """Sent minus due as far as it is the client's own doing; None in closed loop and when it was not sent."""
        if self.sent_ns is None or self.due_ns is None:
            return None
        return self.sent_ns - self.due_ns - self.held_ns - (self.connect_ns or 0)


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """Health of the load driver itself: the facts from which a run is declared invalid.

    `receive_lag_*` is user-space minus kernel time of a read (None without kernel stamps); `send_late_*` is
    RequestRecord.late_ns (None in closed loop); shares are in 0..1. `loop_lag_*` is the lateness of the event loop's
    timers (None when none fired in the window).
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
    """Mean time to open a connection, before the window (each request's own, where it opens one)."""
    loop_lag_p99_ms: float | None = None
    loop_lag_max_ms: float | None = None
    requested_rate: float | None = None
    """Requests per second of an open loop's schedule as drawn, first to last; None in closed loop."""
    achieved_rate: float | None = None
    """Requests per second as they were sent."""
    tcp_retransmits: int | None = None
    """Segments that had to be sent again, of all connections; None where the kernel does not report them."""
    tcp_out_of_order: int | None = None
    """Segments of the server that came after a gap: a loss on the way to us."""
    gc_collections: int = 0
    """Runs of the garbage collector in the window; it is off there, so something else ran it."""
    scheduling: Scheduling = "normal"
    """Priority that the driver had in the window."""
    resent: int = 0
    """Requests that were sent a second time: their kept connection was closed or reset before any byte came."""


@dataclass(frozen=True, slots=True)
class ModelSide:
    """Counts of a model server for one model during a run. Times are sums over its requests."""

    model: str
    requests: int
    """Requests that succeeded."""
    failed: int
    inferences: int
    executions: int
    """Calls of the model; fewer than inferences where requests were batched."""
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    batch_sizes: tuple[tuple[int, int], ...] = ()
    """Size of a batch, and how many executions had it."""

    @property
    def average_batch(self) -> float | None:
        """Inferences per execution; None when nothing was executed."""
        return self.inferences / self.executions if self.executions else None

    def mean_ms(self, total_ns: int) -> float | None:
        """A sum of times per request; None without requests."""
        return total_ns / self.requests / 1e6 if self.requests else None


@dataclass(frozen=True, slots=True)
class ServerSide:
    """The server's own account of a run, beside the client's."""

    models: tuple[ModelSide, ...]
    metrics: tuple[tuple[str, float], ...] = ()
    """Gains of the server's other counters, by name and labels."""


@dataclass(frozen=True, slots=True)
class Track:
    """Samples of one source (a server, its processes, a GPU) over a run."""

    source: str
    at_ns: tuple[int, ...]
    """Times of the samples, by CLOCK_REALTIME."""
    series: tuple[tuple[str, tuple[float | None, ...]], ...]
    """Values by name, one per moment; None where the source gave none."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Server and GPUs over a run: a sample every `interval_s`, fewer in a long run, none where nothing is sampled."""

    interval_s: float
    tracks: tuple[Track, ...]
    notes: tuple[str, ...] = ()
    """Reasons why something that was asked for could not be had."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The load's own requests that ran unmeasured after a start of the server."""

    requests: int
    seconds: float
    steady: bool
    """True if the last batches took no less time than those before, given their scatter."""
    drift: str = ""
    """The metric that still changed at the end, where it is not steady."""


@dataclass(frozen=True, slots=True)
class HostLoad:
    """Load of the machine that the load driver ran on, during a run."""

    cores: int
    """Processors that may be used here."""
    load_average: float
    """Load average of the last minute, at the run's end."""
    other_cores: float | None
    """Processors' worth of time that processes of others took; None where they cannot be separated from the
    server's.
    """
    stolen_cores: float | None = None
    """Processors' worth of time that a hypervisor gave to other machines; None where it is not told."""
    waiting: float | None = None
    """Share of the time in which some process, ours or not, waited for a processor; None where it is not told."""
    clock_mhz: float | None = None
    """Mean clock of these processors at the run's end; None where it is not told."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a load point: its requests in trace order, and the state of the client."""

    index: int
    started_ns: int
    ended_ns: int
    trace_hash: str
    records: tuple[RequestRecord, ...]
    client: ClientHealth
    workers: int = 1
    """Processes that shared the load: request `i` of the trace was sent by number `i % workers`."""
    launch: int = 1
    """Number of the server's start that it was made on, from 1."""
    spoiled: tuple[str, ...] = ()
    """Executions of it that were thrown away and done over: what kept the client from driving each as it should."""
    server_side: ServerSide | None = None
    """Counts of the server, where it has them: Triton."""
    telemetry: Telemetry | None = None
    """Samples of server and GPUs; None where nothing was to be sampled."""
    notes: tuple[str, ...] = ()
    """Remarks on the files that the load's prompts come from, and on what could not be checked."""
    warmup: WarmUp | None = None
    """The warm-up before it, where it is the first run after a start; None where nothing beyond single requests was
    sent.
    """
    host: HostLoad | None = None
    """None where the system does not report it, and in runs of earlier versions."""

    @property
    def measured(self) -> list[RequestRecord]:
        """All requests but those that only fill the server."""
        return [record for record in self.records if record.phase == "measured"]
