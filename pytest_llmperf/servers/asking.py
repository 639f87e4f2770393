"""Requests to a server beside the load: is it ready, which version is it, does it answer."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterable

import httpx


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """httpx's own, made once: loading the certificates takes far longer than a request to a server on this machine,
    and one that starts is asked every 50 ms."""
    return httpx.create_ssl_context(trust_env=False)


def ask(
    method: str, url: str, *, timeout_s: float, headers: Iterable[tuple[str, str]] = (), json: object = None
) -> httpx.Response:
    """One request, past the proxies that the environment names. Raises httpx.TransportError."""
    return httpx.request(
        method, url, json=json, headers=dict(headers), timeout=timeout_s, trust_env=False, verify=_tls_context()
    )
