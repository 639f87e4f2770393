"""Requests to a server beside the load: is it ready, which version is it, does it answer."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import queue
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator

import httpx

from pytest_llmperf import clock
from pytest_llmperf.load.endpoints.openai import shorten
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.transport.http.decoding import decoded
from pytest_llmperf.load.transport.http.http1 import ProtocolError, ResponseReader
from pytest_llmperf.load.transport.tape import Reads

_VERSION_TIMEOUT_S = 5.0
_READ_BYTES = 1 << 16
_MOST_BYTES = 64 << 20
"""Most bytes of an answer, far more than any question here is answered with: a longer one is a stream without an
end.
"""
_KEPT_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30),
)
"""An answer may take minutes, in which routers and proxies forget a connection that nothing goes over."""
_KEPT = ("content-type", "location", "retry-after")
"""Headers of an answer that are looked at."""


def ask(
    method: str, url: str, *, timeout_s: float, headers: Iterable[tuple[str, str]] = (), body: object = None
) -> httpx.Response:
    """One request, past the proxies that the environment names, and its whole answer, decoded; no redirect is followed.

    `body` is sent as it is where it is bytes, else as JSON. `timeout_s` is for all of it, from the name's address to
    the last byte. Raises httpx.TransportError, also where the answer does not come to its end.
    """
    with open_request(method, url, timeout_s=timeout_s, headers=headers, body=body) as (connection, deadline):
        answer, raw = _answer(connection, deadline)
    reads, undecodable = decoded(Reads(ends=(len(raw),), body=raw), answer.headers.get("content-encoding", ""))
    if undecodable and answer.status == 200:
        raise httpx.RemoteProtocolError(undecodable)
    kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
    return httpx.Response(answer.status or 0, headers=kept, content=reads.body)


@contextlib.contextmanager
def open_request(
    method: str, url: str, *, timeout_s: float, headers: Iterable[tuple[str, str]] = (), body: object = None
) -> Iterator[tuple[socket.socket, float]]:
    """The connection over which the request of `ask` was sent, closed on leaving, and the end of its time.

    Raises httpx.TransportError for what goes wrong on it: ConnectError before the request was sent, else others.
    """
    deadline = clock.monotonic() + timeout_s
    content = {"content" if isinstance(body, bytes) else "json": body}
    request = httpx.Request(method, url, headers=dict(headers), **content)  # type: ignore[arg-type]
    was_sent = False
    try:
        with _connected(request.url, deadline) as connection:
            connection.settimeout(_left_s(deadline))
            connection.sendall(_bytes(request))
            was_sent = True
            yield connection, deadline
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no end of the answer within {timeout_s:.3g} s ({error})") from None
    except ProtocolError as error:
        raise httpx.RemoteProtocolError(str(error)) from None
    except OSError as error:
        raise (httpx.ReadError if was_sent else httpx.ConnectError)(str(error)) from error


def _left_s(deadline: float) -> float:
    left_s = deadline - clock.monotonic()
    if left_s <= 0:
        raise TimeoutError("time is over")
    return left_s


def _connected(url: httpx.URL, deadline: float) -> socket.socket:
    """Raises OSError of the last address that was tried; TimeoutError and ssl.SSLError are such."""
    port = url.port or (443 if url.scheme == "https" else 80)
    failure = OSError(f"{url.host} has no address")
    for address in _addresses(url.host, port, deadline):
        try:
            connection = socket.create_connection(address, _left_s(deadline))
        except OSError as error:
            failure = error
            continue
        for option in _KEPT_ALIVE:
            connection.setsockopt(*option)
        if url.scheme != "https":
            return connection
        try:
            trusted = _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
            connection.settimeout(_left_s(deadline))
            return trusted.wrap_socket(connection, server_hostname=url.host)
        except BaseException:
            connection.close()
            raise
    raise failure


def _addresses(host: str, port: int, deadline: float) -> list[tuple[str, int]]:
    """A resolver that does not answer has time limits of its own, which are longer: it is left to its thread."""
    with contextlib.suppress(ValueError):
        return [(str(ipaddress.ip_address(host)), port)]
    found: queue.SimpleQueue[list[tuple[str, int]] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put(list(dict.fromkeys((str(info[4][0]), port) for info in infos)))
        except (OSError, UnicodeError) as error:
            found.put(error if isinstance(error, OSError) else OSError(f"{host!r} is no host's name: {error}"))

    threading.Thread(target=look_up, daemon=True).start()
    try:
        addresses = found.get(timeout=_left_s(deadline))
    except queue.Empty:
        raise TimeoutError(f"the address of {host} was not found") from None
    if isinstance(addresses, OSError):
        raise addresses
    return addresses


def _bytes(request: httpx.Request) -> bytes:
    """Closed after the answer, whatever the server would like."""
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw if name.lower() != b"connection"]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""]) + request.read()


def _answer(connection: socket.socket, deadline: float) -> tuple[ResponseReader, bytes]:
    """The answer up to its end. Raises ProtocolError and OSError."""
    reader, pieces, size = ResponseReader(), list[bytes](), 0
    while not reader.complete:
        connection.settimeout(_left_s(deadline))
        data = connection.recv(_READ_BYTES)
        if not data:
            reader.feed_eof()
            break
        pieces.append(reader.feed(data))
        size += len(pieces[-1])
        if size > _MOST_BYTES:
            raise ProtocolError(f"an answer of more than {_MOST_BYTES >> 20} MiB, which none here has")
    return reader, b"".join(pieces)


@functools.cache
def _tls_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """The certificates that the load driver trusts: the system's, or those of OpenSSL's two variables, which are read
    here.

    Made once: loading them takes far longer than a request to a server on this machine, and one that starts is asked
    every 50 ms.
    """
    return ssl.create_default_context()


def longest_context(target: Target) -> int | None:
    """Tokens that a prompt and its answer may have together, as `/v1/models` gives them; None where it does not."""
    try:
        answer = ask("GET", target.at("/v1/models"), headers=target.headers, timeout_s=_VERSION_TIMEOUT_S)
        models = {model["id"]: model.get("max_model_len") for model in answer.json()["data"]}
    except (httpx.TransportError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    most = models.get(target.model)
    return most if isinstance(most, int) and most > 0 else None


def version_at(target: Target, path: str) -> str | None:
    """The `version` in the JSON that a GET of `path` gives; None where there is none."""
    try:
        answer = ask("GET", target.at(path), headers=target.headers, timeout_s=_VERSION_TIMEOUT_S)
        version = answer.json()["version"]
    except (httpx.TransportError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return shorten(str(version)) or None
