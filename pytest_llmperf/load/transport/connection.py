"""One keep-alive connection in the asyncio loop, with the kernel's receive timestamps.

While a response streams, a readable socket costs one `recvmsg`, two stamps, an append and the removal of the HTTP
framing, which tells exactly when the response is over; everything else is done after the run, from the Capture.
(Framing kept for the end of a response is no cheaper, and a burst of ends then delays the next requests.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
from urllib.parse import urlsplit

from pytest_llmperf import clock
from pytest_llmperf.load.transport.http.http1 import ProtocolError
from pytest_llmperf.load.transport.link import Exchange, Link
from pytest_llmperf.load.transport.reception import Ancillary, Reception
from pytest_llmperf.load.transport.tape import READ_SIZE
from pytest_llmperf.load.transport.tcp import tcp_losses
from pytest_llmperf.load.transport.tls import TlsSession

# Not in Python's socket module. The value of asm-generic, which x86, arm64, riscv, ppc and s390 share.
_SO_TIMESTAMPNS = 35
_FIRST_READS = 2
"""Reads at the begin of a response: the head, then a role and the first token, which many servers write at once."""


class Origin:
    """The addresses of a target's host: they are looked up once, and the one that answered last is tried first."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.netloc = parts.netloc.rpartition("@")[2]
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        self._addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []

    def tls_session(self) -> TlsSession | None:
        return TlsSession(self.host, self._context) if self._context else None

    async def connect(self) -> socket.socket:
        """A connected non-blocking socket that stamps what it receives. Raises OSError."""
        loop = asyncio.get_running_loop()
        if not self._addresses:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            self._addresses = [(info[0], info[4]) for info in found]
        failure: OSError | None = None
        for family, address in self._addresses:
            try:
                sock = await _connect(loop, family, address)
            except OSError as error:
                failure = failure or error
            else:
                others = (other for other in self._addresses if other != (family, address))
                self._addresses = [(family, address), *others]
                return sock
        raise failure or OSError(f"{self.host} has no address")


async def _connect(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, address: tuple[object, ...]
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _ask_for_stamps(sock)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _ask_for_stamps(sock: socket.socket) -> None:
    if sys.platform == "linux":
        # Without the option reads come without a stamp, and the run says that its times are user-space ones.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


class Connection(Link):
    """A TCP connection to `origin`."""

    # Hundreds are asked in turn: each object that one is spread over is one more that the processor has to fetch.
    __slots__ = ("_reception", "_sock", "_tls", "_unsent", "_used", "origin")

    def __init__(self, origin: Origin, reception: Reception) -> None:
        super().__init__()
        self.origin = origin
        self._reception = reception
        self._sock: socket.socket | None = None
        self._tls: TlsSession | None = None
        self._unsent = memoryview(b"")
        self._used = False

    async def open(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            sock = await self.origin.connect()
            try:
                self._tls = await self._handshake(sock)
            except BaseException:
                sock.close()
                raise
        self._sock = sock
        self.is_open = True
        self._used = False
        self._reception.add(sock, self._on_read if self._tls is None else self._on_read_tls, self._on_error)

    async def _handshake(self, sock: socket.socket) -> TlsSession | None:
        tls = self.origin.tls_session()
        received = b""
        while tls and not tls.handshake(received):
            await self._loop.sock_sendall(sock, tls.to_send())
            received = await self._loop.sock_recv(sock, READ_SIZE)
            if not received:
                raise ConnectionResetError("connection closed by the server in the TLS handshake")
        if tls:
            await self._loop.sock_sendall(sock, tls.to_send())
        return tls

    def start(self, request: bytes, exchange: Exchange, cancel_after_s: float | None = None) -> None:
        assert self._sock is not None
        self._begin(exchange, cancel_after_s)
        self._reception.streams += 1
        self._unsent = memoryview(request if self._tls is None else self._tls.encrypt(request))
        exchange.sent_ns = clock.now_ns()
        with contextlib.suppress(OSError):  # it is met again below
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        if self._unsent:
            self._send()
        self._reception.glance()

    def close(self, error: str = "interrupted") -> None:
        self._disconnect()
        self._end(error)

    def _lost(self, error: str) -> None:
        """The connection is gone. One that served a request before may have been closed while this one was sent."""
        if self._exchange is not None:
            self._exchange.retry = self._used and not self._exchange.tape.count
        self.close(error)

    def _on_read(self, data: bytes, ancillary: Ancillary, user_ns: int) -> None:
        """The hot path: runs once per token."""
        exchange = self._exchange
        if exchange is None or not data:
            self._on_end(exchange)
            return
        piece = exchange.reader.one_chunk(data)
        if piece is None:
            self._take(exchange, self._stamp(ancillary), user_ns, data)
        else:
            exchange.tape.add(ancillary[0][2] if ancillary else self._stamp(ancillary), user_ns, piece)

    def _on_read_tls(self, data: bytes, ancillary: Ancillary, user_ns: int) -> None:
        assert self._tls is not None
        try:
            plain = self._tls.decrypt(data) if data else b""
        except ssl.SSLError as error:
            self._on_error(error)
            return
        exchange = self._exchange
        if plain and exchange is not None:
            self._take(exchange, self._stamp(ancillary), user_ns, plain)
        if not data or self._tls.eof or (plain and exchange is None):
            self._on_end(self._exchange)
        elif self.is_open and (answer := self._tls.to_send()):
            self._unsent = memoryview(bytes(self._unsent) + answer)
            self._send()

    def _on_error(self, error: OSError) -> None:
        self._lost(describe(error))

    def _stamp(self, ancillary: Ancillary) -> bytes:
        """The kernel's `struct timespec`; empty without one."""
        if ancillary:
            return ancillary[0][2]
        self._reception.unstamped += 1
        return b""

    def _take(self, exchange: Exchange, stamp: bytes, user_ns: int, data: bytes) -> None:
        reader = exchange.reader
        streaming = reader.streaming
        try:
            piece = reader.feed(data)
        except ProtocolError as error:
            exchange.tape.add(stamp, user_ns, b"")
            self.close(f"malformed HTTP response: {error}")
            return
        exchange.tape.add(stamp, user_ns, piece)
        if reader.complete:
            if not reader.keep_alive or self._unsent:
                self._disconnect()
            self._used = True
            self._end()
        elif streaming and reader.chunks > 1 and exchange.tape.count > _FIRST_READS:
            self._reception.shared += 1

    def _on_end(self, exchange: Exchange | None) -> None:
        """The server closed, or sent something that nobody asked for."""
        if exchange is None:
            self._disconnect()
            return
        try:
            exchange.reader.feed_eof()
        except ProtocolError as error:
            self._lost(str(error))
            return
        self._disconnect()
        self._end()

    def _end(self, error: str | None = None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._reception.streams -= 1
            exchange.end(error)

    def _send(self) -> None:
        assert self._sock is not None
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # A server that refuses a request early may have said why: read that first, the reset comes after it.
            self._loop.remove_writer(self._sock)
            return
        if self._unsent:
            self._loop.add_writer(self._sock, self._send)
        else:
            self._loop.remove_writer(self._sock)

    def _disconnect(self) -> None:
        sock, self._sock = self._sock, None
        self.is_open = False
        if sock is not None:
            self._reception.remove(sock)
            self._loop.remove_writer(sock)
            self.losses = self.losses.plus(tcp_losses(sock))
            sock.close()


def describe(error: OSError) -> str:
    """`connection refused` rather than a number and a tuple."""
    plain = isinstance(error, (ssl.SSLError, socket.gaierror)) or not error.errno
    text = (error.strerror or str(error)) if plain else os.strerror(error.errno or 0)
    return text[:1].lower() + text[1:] if text else type(error).__name__
