"""Stands in for a router before replicas: `python balancer.py --port N URL ...`, least connections."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from urllib.parse import urlsplit

from mlnode import Request, relay, send, serve


async def main(port: int, urls: list[str]) -> None:
    ports = [int(urlsplit(url).port or 0) for url in urls]
    counts = dict.fromkeys(ports, 0)

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer(request: Request) -> bool:
            if request.path == "/health":
                send(writer, 200, b"")
                return True
            chosen = min(ports, key=lambda one: counts[one])
            counts[chosen] += 1
            try:
                return await relay(chosen, request, writer)
            except OSError:
                send(writer, 502, b"upstream failure")
                return False
            finally:
                counts[chosen] -= 1

        await serve(reader, writer, answer)

    server = await asyncio.start_server(on_connection, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[2]), sys.argv[3:]))
