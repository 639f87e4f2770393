"""A proxy that makes everything later: `python late.py PORT URL`, by the factor in LATE (1.1: every token 10 %).

Bytes are passed on as they are. What came so long after the request's last byte leaves LATE times as long after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

FACTOR = float(os.environ.get("LATE", "1"))


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str) -> None:
    upstream, to_upstream = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    now = asyncio.get_running_loop().time
    asked_s = now()

    async def requests() -> None:
        nonlocal asked_s
        while data := await reader.read(1 << 16):
            asked_s = now()
            to_upstream.write(data)
        to_upstream.close()

    async def answers() -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(_delayed(queue, writer, now))
            while data := await upstream.read(1 << 16):
                queue.put_nowait((asked_s + FACTOR * (now() - asked_s), data))
            queue.put_nowait((now(), b""))

    with contextlib.suppress(OSError, ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(requests())
            group.create_task(answers())
    writer.close()


async def _delayed(
    queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, now: Callable[[], float]
) -> None:
    while True:
        due_s, data = await queue.get()
        await asyncio.sleep(max(0.0, due_s - now()))
        if not data:
            writer.close()
            return
        writer.write(data)


async def main(port: int, url: str) -> None:
    server = await asyncio.start_server(lambda reader, writer: relay(reader, writer, url), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
