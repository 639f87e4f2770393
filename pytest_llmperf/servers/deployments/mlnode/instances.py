"""Counts the instances that answer behind a node's proxy, which has no call for it.

The node counts as up when its first instance is, and its proxy takes the others in one by one. It sends each request to
the instance with the fewest, so that streams which are held open take one instance each, and the next question reaches
one that runs nothing as long as there is one more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx

from pytest_llmperf import clock
from pytest_llmperf.load.endpoints.openai import shorten
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.servers.http import ask, longest_context, open_request
from pytest_llmperf.telemetry.sampler import parse

_TIMEOUT_S = 30.0
_HELD_TOKENS = 4096
"""Length of a stream that is held open, which must outlast the questions."""
_PROMPT_ROOM = 64
_USUAL_CONTEXT = 1024
"""Tokens, where the server does not tell."""
_WELL = b"HTTP/1.1 200"
_MOST_BYTES = 1 << 20
"""The most that may come before a stream's first event."""


class NotCountable(Exception):
    """A proxy does not pass on what tells its instances apart; the message says what."""


def instances_up(target: Target, wanted: int) -> int:
    """Returns how many of the `wanted` instances answer. Raises NotCountable, or httpx.TransportError for no answer."""
    with contextlib.ExitStack() as held:
        for found in range(wanted):
            if _requests_running(target):
                return found
            if found < wanted - 1:
                held.enter_context(_stream(target))
    return wanted


def _requests_running(target: Target) -> float:
    answer = ask("GET", target.at("/metrics"), headers=target.headers, timeout_s=_TIMEOUT_S)
    metrics = parse(answer.content) if answer.status_code == 200 else {}
    if "requests_running" not in metrics:
        raise NotCountable(f"GET /metrics: HTTP {answer.status_code}, and no vllm:num_requests_running")
    return metrics["requests_running"]


@contextlib.contextmanager
def _stream(target: Target) -> Iterator[None]:
    """A request that one instance is busy with."""
    tokens = max(1, min(_HELD_TOKENS, (longest_context(target) or _USUAL_CONTEXT) - _PROMPT_ROOM))
    body = {"model": target.model, "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    url = target.at("/v1/completions")
    with open_request("POST", url, headers=target.headers, body=body, timeout_s=_TIMEOUT_S) as (connection, deadline):
        begin = b""
        while b"data:" not in begin:
            data = connection.recv(1 << 16)
            begin += data
            is_late = len(begin) > _MOST_BYTES or clock.monotonic() > deadline
            if not data or is_late or not begin.startswith(_WELL[: len(begin)]):
                raise NotCountable(f"POST /v1/completions: {shorten(begin.decode('utf-8', 'replace'))}")
        yield


def missing_model(answer: httpx.Response, model: str) -> str | None:
    """A sentence on why an answer to `/v1/models` is not that of a server of `model`; None when it is."""
    try:
        names = [str(entry["id"]) for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "GET /v1/models: not the answer of a vLLM server"
    return None if model in names else f"GET /v1/models: serves {', '.join(names) or 'nothing'}, not {model}"
