"""The REST API of a Gonka MLNode: its calls, and what its answers mean.

Routes, bodies and answers as in gonka-ai/gonka, mlnode/packages/api (commit 312044d); nodes before it answer HTTP 500
where that one answers 200 with `status: ERROR`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from pytest_llmperf.load.answers.refusal import refused
from pytest_llmperf.load.endpoints.openai import shorten
from pytest_llmperf.plan.server import urls
from pytest_llmperf.servers.http import ask

_STATE_TIMEOUT_S = 10.0
PREFIX = "/api/v1"
_REFUSALS = (301, 302, 307, 308, 401, 403, 404, 405)


class Unreachable(Exception):
    """A call got no answer, or none of a node; the message says why."""

    def __init__(self, message: str, *, is_lost: bool = False, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_lost = is_lost
        """True if the call reached the node, and its answer was lost on the way."""
        self.is_refusal = is_refusal
        """True if the same call would be refused again."""


class State(NamedTuple):
    """The answer of `GET /api/v1/state`."""

    state: str
    """POW, INFERENCE, TRAIN or STOPPED."""
    is_healthy: bool
    """False where a newer node says that its instances are not."""
    model: str
    """The loaded model, where a newer node reports it; else empty."""
    version: str | None
    """The node's own version; None of nodes that do not report it."""


class Node:
    """A node's management API."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = url, headers

    def state(self) -> State:
        """Returns what the node is doing. Raises Unreachable."""
        answer = self._call("GET", "/state", None, _STATE_TIMEOUT_S)
        if answer.status_code != 200:
            raise Unreachable(f"GET {PREFIX}/state: {refusal(answer)}", is_refusal=answer.status_code in _REFUSALS)
        return parse_state(answer.content)

    def up(self, body: Mapping[str, Any], timeout_s: float) -> httpx.Response:
        """Asks for instances; the node answers when the first of them serves. Raises Unreachable."""
        return self._call("POST", "/inference/up", body, timeout_s)

    def end(self, call: str, timeout_s: float) -> str | None:
        """Calls `/inference/down` or `/stop`; returns what went wrong, None when nothing did."""
        try:
            answer = self._call("POST", call, None, timeout_s)
        except Unreachable as error:
            return str(error)
        return None if answer.status_code == 200 else f"POST {PREFIX}{call}: {refusal(answer)}"

    def _call(self, method: str, route: str, body: object, timeout_s: float) -> httpx.Response:
        try:
            url = urls.address(self._url, PREFIX + route)
            return ask(method, url, headers=self._headers.items(), body=body, timeout_s=timeout_s)
        except httpx.TransportError as error:
            lost = isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError)
            raise Unreachable(f"{method} {PREFIX}{route}: {type(error).__name__}: {error}", is_lost=lost) from error


def parse_state(body: bytes) -> State:
    """Reads the answer to `GET /api/v1/state`. Raises Unreachable where it is not a node's."""
    try:
        found = json.loads(body)
        return State(
            state=str(found["state"]),
            is_healthy=found.get("inference_healthy") is not False,
            model=str(found.get("loaded_model") or ""),
            version=str(found["version"]) if found.get("version") else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unreachable(f"GET {PREFIX}/state: not the answer of an MLNode: {_shown(body)}") from None


def up_problem(answer: httpx.Response) -> str | None:
    """Reads an error and its cure from an answer to `/inference/up`; None where the instances are up."""
    status = answer.status_code
    if status == 200:
        return _in_body(answer.content)
    error = refusal(answer)
    if status == 409:
        return f"{error}. `replace: true` in the plan stops what the node runs before"
    if status == 422:
        return f"{error}. The node did not take the request's body: does its version have this API?"
    if status == 404:
        return f"{error}. Is `url` the node's management port (8080), not the inference port (5000)?"
    if status in (401, 403):
        return f"{error}. The credentials are missing or wrong: give `headers` or `bearer`"
    if status == 500:
        return f"{error}. vLLM did not start: the node's log (docker logs) has its first error"
    return error


def _in_body(body: bytes) -> str | None:
    try:
        found = json.loads(body)
        status = found["status"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"HTTP 200 without a `status`: {_shown(body)}. Is `url` the node's management port?"
    if status == "OK":
        return None
    message = found.get("message") or "no message"
    return (
        f"HTTP 200 with status {status}: {shorten(str(message))}. vLLM did not start: the node's log (docker logs) "
        "has its first error; often no such model, a wrong argument, too few GPUs or too little memory"
    )


def refusal(answer: httpx.Response) -> str:
    """The status and the node's words of an answer that is a refusal; each field that a 422 complains of."""
    detail = _detail(answer.content)
    if detail is None:
        return refused(answer.status_code, answer.content, answer.headers.get("location", ""))
    return f"HTTP {answer.status_code}: {shorten(detail)}"


def _detail(body: bytes) -> str | None:
    """FastAPI's words for a refusal; None where the body has none."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(detail, list):
        return str(detail)
    problems = [problem for problem in detail if isinstance(problem, Mapping)]
    return "; ".join(f"{_field(p.get('loc'))}: {p.get('msg')}" for p in problems) or str(detail)


def _field(place: object) -> str:
    return ".".join(map(str, place)) if isinstance(place, list) else str(place)


def _shown(body: bytes) -> str:
    return shorten(body.decode("utf-8", "replace")) or "an empty answer"
