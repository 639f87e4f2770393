"""The addresses of a host, of which one may die."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pytest_llmperf.load.transport.connection import Origin


async def _port_that_answers(origin: Origin) -> int:
    with await origin.connect() as sock:
        return int(sock.getpeername()[1])


def test_the_address_that_answered_last_is_tried_first_and_the_others_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    names = [server.getsockname() for server in servers]
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", name) for name in names]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)

    async def main() -> list[int]:
        origin = Origin("http://replicated.invalid")
        answered = [await _port_that_answers(origin)]
        servers[0].close()
        return [*answered, await _port_that_answers(origin), await _port_that_answers(origin)]

    try:
        assert asyncio.run(main()) == [names[0][1], names[1][1], names[1][1]]
    finally:
        for server in servers:
            server.close()
