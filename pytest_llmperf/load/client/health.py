"""The client's health: what is watched while requests are sent, and the ClientHealth that comes of it."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf import clock
from pytest_llmperf.load.client.priority import urgent
from pytest_llmperf.load.transport.tape import Tape
from pytest_llmperf.load.transport.tcp import NO_LOSSES, TcpLosses
from pytest_llmperf.records import ClientHealth, RequestRecord, Scheduling, Stamps


class RunPeriod:
    """The time of a run in which requests are sent and received; 0 and None until it has begun and ended."""

    def __init__(self, *, every_thread: bool = False) -> None:
        self.every_thread = every_thread
        """True if other threads than this one receive too."""
        self.started_ns = 0
        self.ended_ns = 0
        self.cpu_share: float | None = None
        self.clock_step_ns = 0
        self.scheduling: Scheduling = "normal"
        self.gc_collections = 0
        self.loop_lags_s: list[float] = []
        self._idle_turns = 0
        self._idle_turn_s = math.inf

    def idle_turn(self, took_s: float) -> None:
        """The event loop went round once only to look at the clock, and served what there was meanwhile."""
        self._idle_turns += 1
        self._idle_turn_s = min(self._idle_turn_s, took_s)

    @property
    def is_open(self) -> bool:
        return self.started_ns != 0 and self.ended_ns == 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Turns garbage collection off and raises our scheduling priority; watches CPU time and clock.

        A collection would stop every stream at once, and a busy server would keep the processor from us.
        """
        gc.collect()
        offset_ns, collections = clock.realtime_offset_ns(), _gc_collections()
        cpu, wall = clock.thread_time(), clock.perf_counter()
        self.started_ns = clock.now_ns()
        try:
            with no_collection(), urgent(every_thread=self.every_thread) as self.scheduling:
                yield
        finally:
            self.ended_ns = clock.now_ns()
            # Waiting for due times takes CPU time too: the shortest turn is one in which nothing was served.
            spun_s = self._idle_turns * self._idle_turn_s if self._idle_turns else 0.0
            self.cpu_share = (clock.thread_time() - cpu - spun_s) / (clock.perf_counter() - wall)
            self.clock_step_ns = clock.realtime_offset_ns() - offset_ns
            self.gc_collections = _gc_collections() - collections


@contextmanager
def no_collection() -> Iterator[None]:
    """Turns garbage collection off, and on again where it was on."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _gc_collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def client_health(
    period: RunPeriod,
    stamps: Stamps,
    lags_us: Sequence[float] | NDArray[np.float64],
    records: Sequence[RequestRecord],
    connect_s: Sequence[float],
    losses: Sequence[TcpLosses] = (),
    resent: int = 0,
) -> ClientHealth:
    """`lags_us`: how long each read waited for us; `connect_s`: how long each connection took that was opened before
    the window, or for one request only; `losses`: of every connection; `resent`: requests that were sent twice.
    """
    tcp = functools.reduce(TcpLosses.plus, losses, NO_LOSSES)
    lag_ms = [lag * 1e3 for lag in period.loop_lags_s]
    lags = lags_us if stamps == "kernel" else []
    late = [record.late_ns / 1e3 for record in records if record.late_ns is not None]
    return ClientHealth(
        stamps=stamps,
        cpu_share=period.cpu_share,
        receive_lag_p50_us=_percentile(lags, 50),
        receive_lag_p99_us=_percentile(lags, 99),
        receive_lag_max_us=_percentile(lags, 100),
        send_late_p50_us=_percentile(late, 50),
        send_late_p99_us=_percentile(late, 99),
        coalesced_share=_coalesced_share(records),
        clock_step_ns=period.clock_step_ns,
        connect_ms=fmean(connect_s) * 1e3 if connect_s else None,
        loop_lag_p99_ms=_percentile(lag_ms, 99),
        loop_lag_max_ms=_percentile(lag_ms, 100),
        requested_rate=requested_rate(records),
        achieved_rate=achieved_rate(records),
        tcp_retransmits=tcp.retransmitted,
        tcp_out_of_order=tcp.out_of_order,
        gc_collections=period.gc_collections,
        scheduling=period.scheduling,
        resent=resent,
    )


def merged_health(parts: Sequence[ClientHealth], records: Sequence[RequestRecord]) -> ClientHealth:
    """The health of several processes that shared a run: the worst of each fact, and the facts in `records` (of
    all).
    """
    tcp = functools.reduce(TcpLosses.plus, (TcpLosses(p.tcp_retransmits, p.tcp_out_of_order) for p in parts))
    connect_ms = [part.connect_ms for part in parts if part.connect_ms is not None]
    worst: dict[str, Any] = {name: _worst(getattr(part, name) for part in parts) for name in _WORST_COUNTS}
    return replace(
        parts[0],
        stamps="kernel" if all(part.stamps == "kernel" for part in parts) else "user",
        coalesced_share=_coalesced_share(records),
        clock_step_ns=max((part.clock_step_ns for part in parts), key=abs),
        connect_ms=fmean(connect_ms) if connect_ms else None,
        requested_rate=requested_rate(records),
        achieved_rate=achieved_rate(records),
        tcp_retransmits=tcp.retransmitted,
        tcp_out_of_order=tcp.out_of_order,
        gc_collections=sum(part.gc_collections for part in parts),
        scheduling=max((part.scheduling for part in parts), key=_SLOWNESS.index),
        resent=sum(part.resent for part in parts),
        **worst,
    )


def _coalesced_share(records: Sequence[RequestRecord]) -> float | None:
    token_chunks = sum(len(record.chunk_ns) for record in records)
    return sum(record.coalesced_chunks for record in records) / token_chunks if token_chunks else None


_WORST_COUNTS = (
    *("cpu_share", "receive_lag_p50_us", "receive_lag_p99_us", "receive_lag_max_us"),
    *("send_late_p50_us", "send_late_p99_us", "loop_lag_p99_ms", "loop_lag_max_ms"),
)
"""Facts of which the worst of several processes is the run's."""
_SLOWNESS: tuple[Scheduling, ...] = ("real-time", "nice", "normal")


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def requested_rate(records: Sequence[RequestRecord]) -> float | None:
    """Requests per second of an open loop's schedule; None in closed loop, or below two requests."""
    return _rate([record.due_ns for record in records if record.due_ns is not None])


def achieved_rate(records: Sequence[RequestRecord]) -> float | None:
    """The same, as they were sent."""
    return _rate([r.sent_ns for r in records if r.due_ns is not None and r.sent_ns is not None])


def _rate(moments_ns: Sequence[int]) -> float | None:
    """Rate of moments per second, from the first to the last; None where they are at one time."""
    span_ns = max(moments_ns, default=0) - min(moments_ns, default=0)
    return (len(moments_ns) - 1) / span_ns * 1e9 if span_ns else None


def stamps_of(tapes: Sequence[Tape]) -> Stamps:
    """The kernel's only if every read has one, so that no user-space time passes for a better one."""
    any_read = any(tape.count for tape in tapes)
    return "kernel" if any_read and not any(tape.unstamped for tape in tapes) else "user"


def _percentile(values: Sequence[float] | NDArray[np.float64], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None
