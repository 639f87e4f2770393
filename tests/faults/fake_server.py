"""A chat server with faults, on threads and raw sockets: in the test's own process, or as a program of its own.

    python fake_server.py --port N [--answer NAME] [--where ROUTE] [--after N] [--every N] [--until N] [--life NAME:ARG]

`answer` names the fault, one of ANSWERS, and `where` the route that has it: stream (a request of the load), first (the
first request, of one token), or the path of a GET. Of the load's requests `after` are answered well, then
each `every`th is not, up to request `until`. `life` names what happens to the whole process, one of LIVES.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

TOKEN_S = 0.002
LONG_S = 3600.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


class Close(Exception):
    """The connection ends here."""


@dataclass
class Exchange:
    """One request, and the socket that its answer goes to."""

    socket: socket.socket
    path: str
    headers: dict[str, str]
    asked: dict[str, object]
    ended: threading.Event
    """Set when the server goes down: what waits ends."""

    @property
    def tokens(self) -> int:
        return int(self.asked.get("max_tokens") or self.asked.get("max_completion_tokens") or 8)  # type: ignore[call-overload]

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def chunks(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))

    def whole(self, status: str, body: bytes, kind: str = "application/json", more: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        self.send(head.encode(), body)

    def wait(self, seconds: float) -> None:
        if self.ended.wait(seconds):
            raise Close

    def forever(self, pause: float) -> Iterator[int]:
        count = 0
        while True:
            yield count
            count += 1
            if pause:
                self.wait(pause)


Answer = Callable[[Exchange], None]


def event(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def token(number: int, text: str = " x") -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return event({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": number}})


def last(count: object, finish: str = "length") -> bytes:
    """The last events: the reason, the usage (`count` is written as it is where it is bytes), the end."""
    usage = count if isinstance(count, bytes) else str(count).encode()
    reason = event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return reason + event(b'{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":%b}}' % usage) + DONE


def good(exchange: Exchange) -> None:
    if not exchange.asked.get("stream"):
        exchange.whole("200 OK", json.dumps({
            "choices": [{"text": "x", "message": {"content": "x"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }).encode())  # fmt: skip
        return
    exchange.send(HEAD)
    for number in range(1, exchange.tokens + 1):
        exchange.chunks(token(number))
        exchange.wait(TOKEN_S)
    exchange.chunks(last(exchange.tokens))
    exchange.send(END)


def begun(exchange: Exchange) -> None:
    """Head and first token of an answer that then goes wrong."""
    exchange.send(HEAD)
    exchange.chunks(token(1))


def reset(exchange: Exchange) -> None:
    exchange.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Close


def close(exchange: Exchange) -> None:
    raise Close


def silence(exchange: Exchange) -> None:
    exchange.wait(LONG_S)


def drip_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    for _ in exchange.forever(0.2):
        exchange.send(b"a")


def drip_body(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    for _ in exchange.forever(0.2):
        exchange.send(b" ")


def endless_interim(exchange: Exchange) -> None:
    for _ in exchange.forever(0.02):
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def endless_events(exchange: Exchange) -> None:
    begun(exchange)
    for _ in exchange.forever(0.0):
        exchange.chunks(token(1) * 500)


def endless_garbage(exchange: Exchange) -> None:
    exchange.send(HEAD)
    for _ in exchange.forever(0.0):
        exchange.chunks(b"x" * 65536)


def counting(count: bytes, finish: str = "stop") -> Answer:
    """As many tokens as asked for, and a usage that says `count`."""

    def answer(exchange: Exchange) -> None:
        if not exchange.asked.get("stream"):
            return good(exchange)
        exchange.send(HEAD)
        for _ in range(exchange.tokens):
            exchange.chunks(event({"choices": [{"index": 0, "delta": {"content": " x"}, "finish_reason": None}]}))
            exchange.wait(TOKEN_S)
        exchange.chunks(last(count, finish))
        exchange.send(END)

    return answer


def then(*parts: Answer) -> Answer:
    def answer(exchange: Exchange) -> None:
        for part in parts:
            part(exchange)

    return answer


def whole(status: str, body: bytes, kind: str = "application/json", more: str = "") -> Answer:
    return lambda exchange: exchange.whole(status, body, kind, more)


def raw(*pieces: bytes) -> Answer:
    return lambda exchange: exchange.send(*pieces)


def signalled(signum: int) -> Answer:
    def answer(exchange: Exchange) -> None:
        begun(exchange)
        os.kill(os.getpid(), signum)
        exchange.wait(LONG_S)

    return answer


def dying(exchange: Exchange) -> None:
    begun(exchange)
    print("RuntimeError: CUDA error: an illegal memory access", flush=True)
    os._exit(7)


def echo(exchange: Exchange) -> None:
    """A gateway that says what it got."""
    said = {"error": {"message": f"not known: {_credentials(exchange)}"}}
    exchange.whole("401 Unauthorized", json.dumps(said).encode())


def echo_event(exchange: Exchange) -> None:
    begun(exchange)
    exchange.chunks(event({"error": {"message": f"upstream said 401 to {_credentials(exchange)}"}}))
    exchange.send(END)


def _credentials(exchange: Exchange) -> str:
    return ", ".join(value for name, value in exchange.headers.items() if name in ("authorization", "x-secret"))


def saying(message: str) -> Answer:
    return whole("500 Internal Server Error", json.dumps({"error": {"message": message}}).encode())


DEEP = b"[" * 200_000 + b"]" * 200_000
ANSWERS: dict[str, Answer] = {
    "good": good,
    "reset_before": reset,
    "reset_midway": then(begun, reset),
    "close_before": close,
    "close_midway": then(begun, close),
    "silence": silence,
    "silence_midway": then(begun, silence),
    "drip_head": drip_head,
    "drip_body": drip_body,
    "endless_interim": endless_interim,
    "endless_events": endless_events,
    "endless_garbage": endless_garbage,
    "garbage": then(raw(bytes(range(128, 256)) * 16 + b"\r\n\r\n"), close),
    "error_500": whole("500 Internal Server Error", b'{"error": {"message": "boom"}}'),
    "error_429": whole("429 Too Many Requests", b'{"error": {"message": "slow down"}}', more="Retry-After: 1\r\n"),
    "redirect": whole("307 Temporary Redirect", b"", more="Location: https://elsewhere.example/v1\r\n"),
    "html": whole("200 OK", b"<html><h1>502 Bad Gateway</h1></html>", "text/html"),
    "html_as_events": whole("200 OK", b"<html><h1>502 Bad Gateway</h1></html>", "text/event-stream"),
    "short": then(raw(HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 5000") + token(1)), close),
    "bad_chunk": then(raw(HEAD + b"zz\r\n"), close),
    "bad_length": then(raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), close),
    "two_lengths": then(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nabcde"), close),
    "long_head": then(raw(b"HTTP/1.1 200 OK\r\n" + b"X-Y: a\r\n" * 20_000 + b"\r\n"), close),
    "no_stream": whole("200 OK", b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}'),
    "no_end": then(begun, raw(END)),
    "choices_text": then(begun, lambda exchange: exchange.chunks(event({"choices": "x"})), raw(END)),
    "bad_utf8": then(begun, lambda exchange: exchange.chunks(event(b'{"choices": "\xff"}')), raw(END)),
    "empty": whole("200 OK", b"", "text/event-stream"),
    "bad_gzip": whole("200 OK", b"not gzip at all", more="Content-Encoding: gzip\r\n"),
    "gzip_bomb": lambda exchange: exchange.whole("200 OK", _bomb(), more="Content-Encoding: gzip\r\n"),
    "deep": whole("200 OK", DEEP),
    "echo": echo,
    "echo_event": echo_event,
    "escapes": saying("\x1b]0;owned\x07\x1b[2J\x1b]52;c;b3duZWQ=\x07\u202ertl"),
    "half_surrogate": saying("\ud800 half"),
    "markup": saying("[/x] [bold] :bomb:"),
    "http09": then(raw(b"<html>hello</html>"), close),
    "gzip_stream": lambda exchange: exchange.whole(
        "200 OK", gzip.compress(event({"choices": []}) + DONE), "text/event-stream", "Content-Encoding: gzip\r\n"
    ),
    "deep_error": whole("500 Internal Server Error", DEEP),
    "deep_event": then(begun, lambda exchange: exchange.chunks(event(b'{"choices":%b}' % DEEP)), close),
    "die": dying,
    "kill_self": signalled(signal.SIGKILL),
    "crash_self": signalled(signal.SIGSEGV),
    "stop_self": signalled(signal.SIGSTOP),
    "count_huge": counting(b"9" * 30),
    "count_hugest": counting(b"9" * 400),
    "count_negative": counting(b"-5"),
    "count_fraction": counting(b"1.5"),
    "count_true": counting(b"true"),
    "count_infinite": counting(b"Infinity"),
    "count_nan": counting(b"NaN"),
    "count_overflow": counting(b"1e999"),
    "count_thousandfold": counting(b"8000"),
}


def _bomb() -> bytes:
    return gzip.compress(b"0" * (64 << 20), 1)


def _sleep_in_other_session() -> None:
    """A process that left the server's group and ignores a polite stop."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.close(1)
        os.close(2)
        time.sleep(LONG_S)


def _daemonize() -> None:
    for _ in range(2):
        if os.fork():
            os._exit(0)
        os.setsid()


def _leave_shared_memory(name: str) -> None:
    import mmap

    descriptor = os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, 4096)
    globals()["kept"] = mmap.mmap(descriptor, 4096)


def _say_and_exit(code: str) -> None:
    print("INFO loading the model\nValueError: max-num-seqs must be positive\nINFO bye", flush=True)
    os._exit(int(code))


def _print_environment(names: str) -> None:
    print("INFO arguments:", sys.argv, {name: os.environ.get(name) for name in names.split(",")}, flush=True)


def _many_processes(lines: str) -> None:
    sys.stdout.write("".join(f"(Worker pid={n}) ERROR 11-21 03:04:05 [x.py:1] nothing\n" for n in range(int(lines))))
    sys.stdout.flush()
    os._exit(1)


def _flood(line: str) -> None:
    def write() -> None:
        while True:
            os.write(1, (line * 4000 + "\n").encode() * 16)

    threading.Thread(target=write, daemon=True).start()


LIVES: dict[str, Callable[[str], None]] = {
    "exit": _say_and_exit,
    "signal": lambda number: os.kill(os.getpid(), int(number)),
    "never_listens": lambda _: time.sleep(LONG_S),
    "late": lambda seconds: time.sleep(float(seconds)),
    "ignore_stop": lambda _: [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGINT)] and None,
    "daemonize": lambda _: _daemonize(),
    "strays": lambda _: _sleep_in_other_session(),
    "shared_memory": _leave_shared_memory,
    "print_environment": _print_environment,
    "many_processes": _many_processes,
    "flood": _flood,
}


@dataclass
class FakeServer:
    """Listens on loopback; `with` takes it down with its connections."""

    answer: str = "good"
    where: str = "stream"
    after: int = 0
    every: int = 1
    until: int = sys.maxsize
    port: int = 0
    tls: tuple[str, str] | None = None
    speaks: bool = False
    """Whether it prints, as a program of its own does."""
    requests: int = 0
    """Requests of the load so far."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeServer:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._context = None
        if self.tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*self.tls)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def serve_forever(self) -> None:
        self._thread.join()

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threads.append(threading.Thread(target=self._converse, args=(connection,), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _converse(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        try:
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as stream:
                while (exchange := self._read(connection, stream)) is not None:
                    self._answer_to(exchange)(exchange)
        except (Close, OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _read(self, connection: socket.socket, stream: object) -> Exchange | None:
        line = stream.readline()  # type: ignore[attr-defined]
        if not line:
            return None
        path = line.split(b" ")[1].decode()
        headers: dict[str, str] = {}
        while (header := stream.readline().strip()) != b"":  # type: ignore[attr-defined]
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]
        return Exchange(connection, path, headers, json.loads(body) if body else {}, self._ended)

    def _answer_to(self, exchange: Exchange) -> Answer:
        fault = ANSWERS[self.answer]
        if not exchange.asked:
            if exchange.path == self.where:
                return fault
            bodies = {"/v1/models": b'{"data": [{"id": "m"}]}', "/health": b"", "/version": b'{"version": "fake-1"}'}
            known = exchange.path in bodies
            return whole("200 OK", bodies[exchange.path]) if known else whole("404 Not Found", b"{}")
        if not exchange.asked.get("stream") or exchange.tokens == 1:
            return fault if self.where == "first" else good
        with self._lock:
            self.requests += 1
            number = self.requests - self.after
        if self.requests == 1 and self.speaks:
            print("INFO the load has begun", flush=True)
        wrong = number > 0 and number % self.every == 0 and self.requests <= self.until
        return fault if self.where == "stream" and wrong else good


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--life", action="append", default=[])
    parser.add_argument("--answer", default="good")
    parser.add_argument("--where", default="stream")
    for number, default in (("after", 0), ("every", 1), ("until", sys.maxsize)):
        parser.add_argument(f"--{number}", type=int, default=default)
    options = vars(parser.parse_args())
    for life in options.pop("life"):
        name, _, argument = life.partition(":")
        LIVES[name](argument)
    with FakeServer(**options, speaks=True) as server:
        print(f"INFO listening on {server.url}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
