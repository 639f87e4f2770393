"""One client connection: bytes <-> HTTP/1.1 by h11, keep-alive, streamed or whole answers.

Knows nothing of what is asked. asyncio sets TCP_NODELAY, so each write leaves at once.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import h11

_MAX_BODY = 64 << 20
_SPLIT = 3  # TCP segments per write where writes are split


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received_ns: int  # CLOCK_REALTIME, when its last byte was read


class ServerConnection(asyncio.Protocol):
    """Calls `handle` for each request, one at a time; the handler answers now or later."""

    def __init__(
        self, handle: "Callable[[ServerConnection, HttpRequest], None]", *, split_writes: bool = False
    ) -> None:
        self._handle = handle
        self._split_writes = split_writes
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._received_ns = 0
        self._transport: asyncio.Transport | None = None
        self.on_lost: Callable[[], None] | None = None  # set while an answer is under way
        self.on_closed: Callable[[], None] | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received_ns = time.time_ns()
        self._http.receive_data(data)
        self._read()

    def connection_lost(self, error: Exception | None) -> None:
        for callback in (self.on_lost, self.on_closed):
            if callback:
                callback()
        self.on_lost = self.on_closed = None
        self._transport = None

    # The handler's side. Writing to a client that has gone does nothing; on_lost has been called.

    def reply(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        headers = [("content-type", content_type), ("content-length", str(len(body)))]
        reason = HTTPStatus(status).phrase.encode()
        data = self._send(h11.Response(status_code=status, headers=headers, reason=reason))
        data += self._send(h11.Data(data=body))
        self._finish(data)

    def begin_stream(self, content_type: str) -> None:
        headers = [("content-type", content_type), ("cache-control", "no-cache")]
        self._write(self._send(h11.Response(status_code=200, headers=headers, reason=b"OK")))

    def send_chunks(self, *chunks: bytes) -> None:
        """Several HTTP chunks that leave in one write."""
        self._write(b"".join(self._send(h11.Data(data=chunk)) for chunk in chunks))

    def end_stream(self, *chunks: bytes) -> None:
        self._finish(b"".join(self._send(h11.Data(data=chunk)) for chunk in chunks))

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def abort(self) -> None:
        """Close without sending what is still buffered."""
        if self._transport:
            self._transport.abort()

    def _read(self) -> None:
        try:
            self._read_events()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.reply(error.error_status_hint, str(error).encode(), "text/plain")
            self.close()

    def _read_events(self) -> None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request = event
                self._body.clear()
                if self._http.they_are_waiting_for_100_continue:
                    self._write(self._send(h11.InformationalResponse(status_code=100, headers=[])))
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > _MAX_BODY:
                    raise h11.RemoteProtocolError("Body too large", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                self._dispatch()
            else:  # NEED_DATA, PAUSED until the answer is complete, or the client is done sending
                return

    def _dispatch(self) -> None:
        request = self._request
        assert request is not None
        self._handle(
            self,
            HttpRequest(
                method=request.method.decode("ascii"),
                path=request.target.decode("ascii").partition("?")[0],
                headers={name.decode("ascii"): value.decode("latin-1") for name, value in request.headers},
                body=bytes(self._body),
                received_ns=self._received_ns,
            ),
        )

    def _send(self, event: "h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage") -> bytes:
        return self._http.send(event) or b""

    def _write(self, data: bytes) -> None:
        if not self._transport or self._transport.is_closing():
            return
        step = -(-len(data) // _SPLIT) if self._split_writes else len(data)
        for start in range(0, len(data), step or 1):
            self._transport.write(data[start : start + step])

    def _finish(self, data: bytes) -> None:
        self._write(data + self._send(h11.EndOfMessage()))
        self.on_lost = None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            # A pipelined request is read from the loop: answering it from within this answer would recurse.
            if self._http.trailing_data[0]:
                asyncio.get_running_loop().call_soon(self._read)
        else:
            self.close()
