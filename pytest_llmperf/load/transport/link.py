"""A request and its response while they happen, and what every kind of connection does with them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from pytest_llmperf import clock
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.load.transport.http.decoding import decoded, is_encoded
from pytest_llmperf.load.transport.http.http1 import ResponseReader
from pytest_llmperf.load.transport.tape import READ_SIZE, Store, Tape
from pytest_llmperf.load.transport.tcp import NO_LOSSES
from pytest_llmperf.plan.load.point import LoadPoint


class Exchange:
    """One request and its response while they happen."""

    __slots__ = (
        "cancelled",
        "connect_ns",
        "ended",
        "ended_ns",
        "error",
        "held_ns",
        "reader",
        "retry",
        "sent_ns",
        "tape",
    )

    def __init__(self, store: Store) -> None:
        self.sent_ns: int | None = None
        self.ended_ns = 0
        self.error: str | None = None
        self.cancelled = False
        self.held_ns = 0
        """Nanoseconds for which it was kept back though it was due."""
        self.connect_ns: int | None = None
        """Nanoseconds in which the connection was opened that serves it alone; None on one that is kept."""
        self.retry = False
        """Failed on a stale connection before any byte of a response: to be sent once more."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reader = ResponseReader()
        self.tape = Tape(store)

    @property
    def has_ended(self) -> bool:
        return self.ended_ns != 0

    def restart(self) -> None:
        """Resets it to the state before sending; nothing of a response had come."""
        self.sent_ns = self.error = None
        self.ended_ns = 0
        self.retry = False
        self.ended = asyncio.get_running_loop().create_future()

    def end(self, error: str | None = None) -> None:
        self.ended_ns = clock.now_ns()
        self.error = error
        if not self.ended.done():
            self.ended.set_result(None)

    def capture(self) -> Capture:
        """Raises OSError when the tape cannot be read back."""
        reads, headers, error = self.tape.reads(), self.reader.headers, self.error
        coding = headers.get("content-encoding", "")
        if is_encoded(coding):
            reads, undecodable = decoded(reads, coding)
            error = undecodable or error
        return Capture(
            sent_ns=self.sent_ns,
            ended_ns=self.ended_ns,
            kernel_ns=reads.kernel_ns,
            user_ns=reads.user_ns,
            ends=reads.ends,
            body=reads.body,
            status=self.reader.status,
            content_type=headers.get("content-type", ""),
            error=error,
            location=headers.get("location", ""),
            cancelled=self.cancelled,
            held_ns=self.held_ns,
            connect_ns=self.connect_ns,
        )


class Link(ABC):
    """A connection, opened and opened again as needed; at most one exchange at a time."""

    __slots__ = ("_exchange", "_loop", "_quiet_since_s", "_reads_seen", "_started_s", "is_open", "losses")
    _longest_read = READ_SIZE
    """Bytes that a read on a tape has at most."""

    def __init__(self) -> None:
        self.is_open = False
        self.losses = NO_LOSSES
        """Losses of every socket that this connection had; complete when it is closed."""
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None

    @abstractmethod
    async def open(self, timeout_s: float) -> None:
        """Raises OSError (TimeoutError and ssl.SSLError are such) with the connection closed."""

    @abstractmethod
    def start(self, request: bytes, exchange: Exchange, cancel_after_s: float | None = None) -> None:
        """Sends `request`; the outcome is in `exchange` when its `ended` is done. Needs an open connection.

        The exchange is broken off when it takes longer than `cancel_after_s`.
        """

    @abstractmethod
    def close(self, error: str = "interrupted") -> None:
        """Ends the exchange, if there is one, with `error`."""

    def _begin(self, exchange: Exchange, cancel_after_s: float | None) -> None:
        self._exchange = exchange
        self._started_s = self._quiet_since_s = self._loop.time()
        self._reads_seen = 0
        if cancel_after_s is not None:
            self._loop.call_later(cancel_after_s, self.cancel, exchange)

    def cancel(self, exchange: Exchange) -> None:
        """Breaks `exchange` off if it is still under way: the server sees its client go."""
        if exchange is self._exchange:
            exchange.cancelled = True
            self.close("cancelled")

    def check(self, now_s: float, point: LoadPoint) -> None:
        """Ends an exchange that is past its limits. Called now and then, so that no chunk has to set a timer."""
        if self._exchange is None:
            return
        reads, no_data_s = self._exchange.tape.count, point.no_data_timeout
        if reads != self._reads_seen:
            self._reads_seen, self._quiet_since_s = reads, now_s
        if now_s - self._quiet_since_s > no_data_s:
            what = "no further data" if reads else "no response"
            self.close(f"{what} within {no_data_s:g} s (no_data_timeout)")
        elif now_s - self._started_s > point.read_timeout:
            self.close(f"response not complete within {point.read_timeout:g} s (read_timeout)")
        elif self._exchange.tape.is_larger_than(point.max_response_mib << 20, self._longest_read):
            self.close(f"response of more than {point.max_response_mib} MiB (max_response_mib)")
