"""Stands in for a Gonka MLNode: its REST API, its instances, its proxy, by the rules of mlnode/packages/api.

    python mlnode.py --port 8080 --inference-port 5000 --gpus 8 -- PROGRAM [ARGUMENT ...]

PROGRAM starts an instance, as `python -m pytest_llmperf.embedded`; the node adds `--model`, `--dtype`, `--port`,
`--host` and the arguments that `/inference/up` was given. Times that the real node takes (3 s between looks at a
start, 5 s between looks of the proxy, 2 s of the watcher) are --pause: tests cannot wait so long.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

PREFIX = "/api/v1"
START_LIMIT_S = 1200.0
STOP_LIMIT_S = 20.0

Answer = tuple[int, Any]


class Request:
    """The head and the body of an HTTP request."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head, self.body = head, body
        self.method, self.path = (word.decode() for word in head.split(b"\r\n", 1)[0].split(b" ")[:2])


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    return Request(head, await reader.readexactly(int(field(head, b"content-length") or 0)))


def field(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def with_fields(head: bytes, **fields: str) -> bytes:
    """The head with these fields in place of its own of the same names."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower().decode() not in fields]
    return b"\r\n".join([first, *kept, *(f"{name}: {value}".encode() for name, value in fields.items())]) + b"\r\n\r\n"


def invalid(location: list[Any], message: str, kind: str = "missing") -> Answer:
    return 422, {"detail": [{"type": kind, "loc": ["body", *location], "msg": message}]}


class Node:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.mode = options.mode
        self.processes: list[asyncio.subprocess.Process] = []
        self.ports: list[int] = []
        self.healthy: dict[int, bool] = {}
        self.counts: dict[int, int] = {}
        self.lock = asyncio.Lock()
        self.flows = asyncio.Event()
        """Whether the node's one event loop runs: `down` waits for a start while it holds the loop."""
        self.flows.set()
        self.calls: list[str] = []

    # The management API

    async def manage(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        self.note(f"{request.method} {path}")
        routes: dict[tuple[str, str], Callable[[bytes], Awaitable[Answer]]] = {
            ("GET", "/state"): self.state,
            ("POST", "/stop"): self.stop_all,
            ("POST", "/inference/up"): self.up,
            ("POST", "/inference/down"): self.down,
        }
        route = routes.get((request.method, path.removeprefix(PREFIX))) if path.startswith(PREFIX) else None
        if route is None:
            return 404, {"detail": "Not Found"}
        if self.options.token and field(request.head, b"authorization") != f"Bearer {self.options.token}".encode():
            return 401, {"detail": "Not authenticated"}
        await self.flows.wait()
        if path.startswith(f"{PREFIX}/inference/") and self.service() not in ("STOPPED", "INFERENCE"):
            mode = f"ServiceState.{self.service()}"
            return 409, {
                "detail": f"Cannot run INFERENCE because MLNode is currently in {mode} mode. Please stop {mode} first."
            }
        return await route(request.body)

    def note(self, call: str) -> None:
        self.calls.append(call)
        sys.stdout.write(f"{call}\n")
        sys.stdout.flush()

    def is_running(self) -> bool:
        return bool(self.processes) and all(process.returncode is None for process in self.processes)

    def service(self) -> str:
        return "INFERENCE" if self.is_running() else str(self.mode)

    async def state(self, body: bytes) -> Answer:
        return 200, {"state": self.service()}

    async def up(self, body: bytes) -> Answer:
        try:
            given = json.loads(body)
        except ValueError:
            return invalid([], "JSON decode error", "json_invalid")
        for name in ("model", "dtype"):
            if name not in given:
                return invalid([name], "Field required")
            if not isinstance(given[name], str):
                return invalid([name], "Input should be a valid string", "string_type")
        args = given.get("additional_args", [])
        for place, arg in enumerate(args):
            if not isinstance(arg, str):
                return invalid(["additional_args", place], "Input should be a valid string", "string_type")
        if self.is_running():
            async with self.lock:
                await self.end_processes()
        try:
            async with self.lock:
                await self.start(given["model"], given["dtype"], args)
        except RuntimeError as error:
            if self.options.old:
                return 500, {"detail": str(error)}
            return 200, {"status": "ERROR", "message": str(error)}
        return 200, {"status": "OK"}

    async def start(self, model: str, dtype: str, args: list[str]) -> None:
        each = self.size(args, "--tensor-parallel-size") * self.size(args, "--pipeline-parallel-size")
        count = min(128, max(1, max(self.options.gpus, 1) // each))
        self.ports = [self.options.inference_port + 1 + number for number in range(count)]
        self.counts = dict.fromkeys(self.ports, 0)
        self.healthy = dict.fromkeys(self.ports, False)
        for number, port in enumerate(self.ports):
            where = ["--model", model, "--dtype", dtype, "--port", str(port), "--host", "127.0.0.1"]
            late = ["sleep", str(self.options.late), "&&"] if number and self.options.late else []
            words = [*late, "exec", *map(quoted, [*self.options.program, *where, *args])]
            gpus = ",".join(map(str, range(number * each, (number + 1) * each)))
            self.processes.append(
                await asyncio.create_subprocess_exec(
                    *("sh", "-c", " ".join(words)),
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": gpus},
                    stdout=asyncio.subprocess.DEVNULL,
                    preexec_fn=die_with_the_node,
                )
            )
        await asyncio.sleep(self.options.slow)
        for _ in range(int(START_LIMIT_S / self.options.pause)):
            if not self.is_running():
                raise RuntimeError("vLLM process exited prematurely: None")
            if any([await answers(port, "/health") for port in self.ports]):
                return
            await asyncio.sleep(self.options.pause)
        raise RuntimeError("vLLM failed to start within the expected timeout: None")

    def size(self, args: list[str], name: str) -> int:
        return int(args[args.index(name) + 1]) if name in args else 1

    async def down(self, body: bytes) -> Answer:
        self.flows.clear()
        async with self.lock:
            self.flows.set()
            await self.end_processes()
        return 200, {"status": "OK"}

    async def stop_all(self, body: bytes) -> Answer:
        self.mode = "STOPPED"
        return await self.down(body) if self.is_running() else (200, {"status": "OK"})

    async def end_processes(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self.processes:
            try:
                await asyncio.wait_for(process.wait(), STOP_LIMIT_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        self.processes = []

    # The proxy

    async def watch(self) -> None:
        while True:
            for port in self.ports:
                self.healthy[port] = await answers(port, "/health")
            await asyncio.sleep(self.options.pause)

    async def proxy(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Passes the request on to the instance with the fewest; whether the connection can be used again."""
        await self.flows.wait()
        live = [port for port in self.ports if self.healthy.get(port)]
        if not live:
            send(writer, 503, b"vLLM backend not ready")
            return True
        port = min(live, key=lambda one: self.counts[one])
        self.counts[port] += 1
        try:
            return await relay(port, request, writer)
        except OSError:
            send(writer, 502, b"vLLM upstream failure")
            return False
        finally:
            self.counts[port] -= 1

    # Connections

    async def on_management(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer(request: Request) -> bool:
            if request.path.startswith("/v1"):
                return await self.proxy(request, writer)
            status, body = await self.manage(request)
            send(writer, status, json.dumps(body).encode(), "application/json")
            return True

        await serve(reader, writer, answer)

    async def on_inference(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer, lambda request: self.proxy(request, writer))


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[Request], Awaitable[bool]]
) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while (request := await read_request(reader)) and await answer(request):
            await writer.drain()
    writer.close()


def send(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str = "text/plain") -> None:
    writer.write(f"HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def relay(port: int, request: Request, writer: asyncio.StreamWriter) -> bool:
    """One exchange with an instance, on a connection of its own; what it sends goes out as it comes."""
    reader, upstream = await asyncio.open_connection("127.0.0.1", port)
    try:
        upstream.write(with_fields(request.head, connection="close", host=f"127.0.0.1:{port}") + request.body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = field(head, b"content-length")
        if length:
            writer.write(with_fields(head, connection="keep-alive") + await reader.readexactly(int(length)))
            return True
        writer.write(with_fields(head, connection="close"))
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        return False
    finally:
        upstream.close()


async def answers(port: int, path: str) -> bool:
    """Whether an instance says that it is well."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in line


def quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def die_with_the_node() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


async def main(options: argparse.Namespace) -> None:
    node = Node(options)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, done.set)
    management = await asyncio.start_server(node.on_management, "127.0.0.1", options.port)
    inference = await asyncio.start_server(node.on_inference, "127.0.0.1", options.inference_port)
    watching = asyncio.create_task(node.watch())
    async with management, inference:
        sys.stdout.write("node is up\n")
        sys.stdout.flush()
        await done.wait()
    watching.cancel()
    await node.end_processes()


def read(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlnode")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--inference-port", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--mode", default="STOPPED", choices=("STOPPED", "POW", "TRAIN"))
    parser.add_argument("--token", default="", help="what the management port asks for, as a gateway before it does")
    parser.add_argument("--old", action="store_true", help="a failed start is HTTP 500, as of older nodes")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between looks of all kinds")
    parser.add_argument("--slow", type=float, default=0.0, help="seconds that a start takes longer")
    parser.add_argument("--late", type=float, default=0.0, help="seconds by which instances after the first are late")
    split = argv.index("--")
    options = parser.parse_args(argv[:split])
    options.program = argv[split + 1 :]
    return options


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(read(sys.argv[1:])))
