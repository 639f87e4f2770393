"""A server on a socket that answers as a script says."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import ssl
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Request:
    """One request as the server got it, and the means to answer it."""

    number: int
    head: str
    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def read_by_client(self) -> None:
        """Until the client, which shares the event loop, has read all that was sent: its socket holds nothing more."""
        client = self.writer.get_extra_info("peername")
        while _holds_bytes(client):  # noqa: ASYNC110  # no event tells of a socket that somebody else has read
            await asyncio.sleep(0)


def _holds_bytes(name: tuple[str, int]) -> bool:
    """Whether bytes wait to be read from this process's IPv4 socket of that name."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # no socket, or closed meanwhile
            found = socket.socket(fileno=number)
            try:
                if found.family == socket.AF_INET and found.getsockname() == name:
                    return fcntl.ioctl(found, termios.FIONREAD, bytes(4)) != bytes(4)
            finally:
                found.detach()
    return False


Script = Callable[[Request], Awaitable[None]]


@dataclass
class Scripted:
    url: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listen(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The URL of a server whose connections are all closed at the end."""
    handlers: set[asyncio.Task[Any] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        async with server:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        # The client has closed its connections, so that every handler ends by itself; wait_closed does not wait for it.
        for _ in range(5):  # a connection that was accepted just now has no handler yet
            await asyncio.sleep(0)
            await asyncio.gather(*[task for task in handlers if task], return_exceptions=True)


@contextlib.asynccontextmanager
async def serve(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Answers every request by `script`, on as many connections as are made; keep-alive unless the script closes."""
    scripted = Scripted("")

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scripted.connections += 1
        while not writer.is_closing():
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(next(line for line in head.split("\r\n") if line.startswith("Content-Length"))[16:])
            body = json.loads(await reader.readexactly(length))
            request = Request(len(scripted.requests), head, body, reader, writer)
            scripted.requests.append(request)
            await script(request)

    async with listen(handler, context) as scripted.url:
        yield scripted
