"""Requests to a server beside the load: is it ready, which version is it, does it answer."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterable, Iterator

import httpx

from pytest_llmperf import clock
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.transport.http.decoding import decoded
from pytest_llmperf.load.transport.tape import Reads

_VERSION_TIMEOUT_S = 5.0
_MOST_BYTES = 64 << 20
"""Far more than any answer that is asked for here: one that goes on is a stream without an end."""
_TOLD = ("content-type", "location", "retry-after")
"""Headers of an answer that are looked at."""


def ask(
    method: str, url: str, *, timeout_s: float, headers: Iterable[tuple[str, str]] = (), body: object = None
) -> httpx.Response:
    """One request, past the proxies that the environment names, and its whole answer, decoded; no redirect is followed.

    `body` is sent as it is where it is bytes, else as JSON. Raises httpx.TransportError, also where the answer does not
    come to its end: httpx's own timeout starts anew with every piece of it.
    """
    deadline = clock.monotonic() + timeout_s
    trusted = _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    content = {"content" if isinstance(body, bytes) else "json": body}
    asked = {**content, "headers": dict(headers), "timeout": timeout_s, "trust_env": False, "verify": trusted}
    with httpx.stream(method, url, **asked) as response:  # type: ignore[arg-type]
        raw = b"".join(_pieces(response, deadline, timeout_s))
    reads, error = decoded(Reads(ends=(len(raw),), body=raw), response.headers.get("content-encoding", ""))
    if error and response.status_code == 200:
        raise httpx.RemoteProtocolError(error)
    told = {name: response.headers[name] for name in _TOLD if name in response.headers}
    return httpx.Response(response.status_code, headers=told, content=reads.body)


def _pieces(response: httpx.Response, deadline: float, timeout_s: float) -> Iterator[bytes]:
    size = 0
    for piece in response.iter_raw():
        size += len(piece)
        if clock.monotonic() > deadline or size > _MOST_BYTES:
            raise httpx.ReadTimeout(f"no end of the answer within {timeout_s:g} s and {_MOST_BYTES >> 20} MiB")
        yield piece


@functools.cache
def _tls_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """What the load driver trusts: the system's certificates, or those of OpenSSL's two variables, which are read here.

    Made once: loading them takes far longer than a request to a server on this machine, and one that starts is asked
    every 50 ms.
    """
    return ssl.create_default_context()


def version_at(target: Target, path: str) -> str | None:
    """The `version` in the JSON that a GET of `path` gives; None where there is none."""
    try:
        answer = ask("GET", target.at(path), headers=target.headers, timeout_s=_VERSION_TIMEOUT_S)
        version = answer.json()["version"]
    except (httpx.TransportError, ValueError, KeyError, TypeError):
        return None
    return str(version)
