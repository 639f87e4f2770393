"""Waits until a server is ready: its check of health first, then one request, which is the load's own.

Waiting is no load: a server of others is asked after 1 s, 2 s, 4 s, …, at most every 10 s.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from pytest_llmperf import clock
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.answers.messages import read_message
from pytest_llmperf.load.answers.refusal import is_event_stream, not_streamed, refused
from pytest_llmperf.load.answers.sse import Message, SseParser
from pytest_llmperf.load.endpoints.openai import NOT_UNDERSTOOD, shorten
from pytest_llmperf.load.endpoints.table import ENDPOINTS, Endpoint
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.endpoints.triton_generate import TRITON_READY
from pytest_llmperf.load.loops.requests import first_body, request_headers
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server import urls
from pytest_llmperf.plan.server.base import BaseServer, Ready
from pytest_llmperf.plan.server.engines.remote import RemoteServer
from pytest_llmperf.servers.http import ask
from pytest_llmperf.servers.process.process import ServerProcess, backing_off, wait_until

_PROBE_TIMEOUT_S = 5.0
_LEAST_TIMEOUT_S = 0.05
_OVER_TENSORS = ("infer", "grpc")
"""Endpoints of models whose inputs are known, which only Triton's own engines report."""


def wait_for_remote(target: Target, config: RemoteServer, loads: Sequence[LoadPoint]) -> None:
    """Returns when a server that is up already has answered a request of one of `loads`. Raises ServerError."""
    name, begun_s = f"server {config.name!r} at {urls.shown(config.url)}", clock.monotonic()
    if config.ready is not False:
        wait_until_up(target, config, name, lambda deadline: _usual_problem(target, loads, deadline))
    left_s = begun_s + config.ready_timeout - clock.monotonic()
    if failure := first_failure(target, config, loads, retries_503=config.ready is not False, within_s=left_s):
        raise ServerError(f"{name}: its first request failed: {failure}")


def check_listening(url: str, timeout_s: float = 3.0) -> None:
    """Raises ServerError where nothing listens at a URL for so long; says nothing of a name that is not found."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("https", "grpcs") else 80)
    deadline = clock.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=timeout_s).close()
            return
        except ConnectionRefusedError:
            if clock.monotonic() >= deadline:
                raise ServerError(
                    f"nothing listens at {urls.shown(url)}: the connection was refused for {timeout_s:g} s; is the "
                    "port right, and the server up? --ready-timeout waits longer"
                ) from None
        except OSError:
            return  # the readiness check says more
        time.sleep(0.2)


def wait_until_up(target: Target, config: RemoteServer, name: str, usual: Callable[[float], str | None]) -> None:
    """Asks what the plan names, or `usual`, for what keeps the server from being up. Raises ServerError."""
    named, problem, deadline = config.ready, "", clock.monotonic() + config.ready_timeout

    def up() -> bool:
        nonlocal problem
        problem = (health_problem(target, named, deadline) if named else usual(deadline)) or ""
        return not problem

    cure = "" if named else "; `ready: false` does not ask for it, and sends the load's own request at once"
    wait_until(up, None, name, config.ready_timeout, lambda: f"; {problem}{cure}", backing_off())


def _usual_problem(target: Target, loads: Sequence[LoadPoint], deadline: float) -> str | None:
    """A sentence on why the server is not up; None where it answers, also without such a route: the first request
    decides then.
    """
    routes = {ENDPOINTS[load.endpoint].up for load in loads} or {endpoint.up for endpoint in ENDPOINTS.values()}
    problems = [_problem(target, route, deadline) for route in sorted(routes)]
    return None if None in problems else problems[0]


def _problem(target: Target, route: str, deadline: float) -> str | None:
    answer = _asked(target, "GET", target.at(route), probe_timeout_s(deadline))
    if isinstance(answer, str):
        return f"GET {route}: {answer}"
    status = answer.status_code
    comes_up = (
        status in (408, 425, 429) or (status >= 500 and status != 501) or (status == 400 and route == TRITON_READY)
    )
    return f"GET {route}: {_refused(answer)}" if comes_up else None


def probe_timeout_s(deadline: float) -> float:
    """Seconds that one question may take, of those up to `deadline` (by `clock.monotonic`)."""
    return min(_PROBE_TIMEOUT_S, max(_LEAST_TIMEOUT_S, deadline - clock.monotonic()))


def health_problem(target: Target, ready: Ready, deadline: float = math.inf) -> str | None:
    """A sentence on what is wrong with the answer to a check of health; None when it is as wanted.

    Raises ServerError when waiting will not help. The question is over at `deadline` (by `clock.monotonic`), or after 5
    s.
    """
    url = urls.on_host(target.url, ready.path)
    answer = _asked(target, "GET", url, probe_timeout_s(deadline))
    what = f"GET {urls.bare(ready.path)}"
    if isinstance(answer, str):
        return f"{what}: {answer}"
    status = answer.status_code
    if status == ready.status if ready.status else 200 <= status < 300:
        return None
    _check_credentials(url, answer)
    if 300 <= status < 400:
        raise ServerError(f"{target.shown}: {what}: {_refused(answer)}")
    wanted = f", not {ready.status}" if ready.status else ""
    return f"{what}: {_refused(answer)}{wanted}"


def ailment(target: Target, ready: Ready) -> str | None:
    """A sentence on what is wrong with a server that was ready, and whose process is up; None when its health is as
    wanted.

    A server that does not answer need not be dead: it may be stopped, or hang.
    """
    problem = health_problem(target, ready)
    if problem is None:
        return None
    if "Connection refused" in problem:
        return f"nothing listens on its port any more: {problem}"
    is_answered = problem.startswith(f"GET {urls.bare(ready.path)}: HTTP ")
    return f"{ready.path} says that its engine is dead" if is_answered else f"it hangs or is stopped: {problem}"


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A request that a server which is ready answers."""

    url: str
    headers: Mapping[str, str]
    body: object
    """Bytes, or what is sent as JSON."""
    failure: Callable[[httpx.Response], str | None]
    """Reads an error from an answer of status 200; None when it is as wanted."""


def first_failure(
    target: Target,
    config: BaseServer,
    loads: Sequence[LoadPoint],
    *,
    process: ServerProcess | None = None,
    retries_503: bool = False,
    within_s: float | None = None,
) -> str | None:
    """The first failure of the loads' shortest requests; None when the server answers one of them.

    A server can say that it is healthy and fail every request, so the first token is the last readiness check. Where no
    load is known, every dialect is tried. A request that is to come later (429 or 503 with Retry-After; with
    `retries_503` any 503) is repeated within `ready_timeout`, while its `process`, if it is ours, lives. Raises
    ServerError for wrong credentials.
    """
    deadline = clock.monotonic() + (config.ready_timeout if within_s is None else within_s)
    attempts = _of_loads(target, loads) or _of_every_dialect(target)
    failures = (_failure(target, attempt, deadline, retries_503, process) for attempt in attempts)
    failure = next(failures)
    return failure if failure and all(failures) else None


def _of_loads(target: Target, loads: Sequence[LoadPoint]) -> list[_Attempt]:
    different: dict[tuple[str, bytes], _Attempt] = {}
    for load in loads:
        if load.endpoint not in _OVER_TENSORS:
            url, body = target.posted_at(ENDPOINTS[load.endpoint].path(target.model)), first_body(load, target)
            found = _Attempt(url, request_headers(target), body, _judge(ENDPOINTS[load.endpoint]))
            different.setdefault((url, body), found)
    return list(different.values())


def _judge(endpoint: Endpoint) -> Callable[[httpx.Response], str | None]:
    def failure(answer: httpx.Response) -> str | None:
        content_type = answer.headers.get("content-type", "")
        if endpoint.framing == "sse" and not is_event_stream(content_type, answer.content):
            return not_streamed(content_type, answer.content)
        return _bad_start(endpoint, answer.content)

    return failure


def _bad_start(endpoint: Endpoint, body: bytes) -> str | None:
    """An error before the first token; how a stream must end is for the load to say."""
    parser = SseParser()
    events = [*parser.feed(body), *parser.end()] if endpoint.framing == "sse" else [Message(body)]
    for message in events:
        try:
            event = read_message(message, endpoint.read)
        except NOT_UNDERSTOOD as error:
            return shorten(f"event not understood ({error}): {message.data.decode('utf-8', 'replace')}")
        if event.error or event.odd:
            return f"error in the stream: {event.error or event.odd}"
        if event.output or event.reasoning:
            return None
    return None if events else "a stream without an event"


def _of_every_dialect(target: Target) -> list[_Attempt]:
    """A request of one token in every dialect that a server may speak."""
    common = {"model": target.model, "max_tokens": 1}
    triton = f"/v2/models/{quote(target.model, safe='')}/generate"
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {**common, "prompt": "Hello"},
        "/v1/chat/completions": {**common, "messages": [{"role": "user", "content": "Hello"}]},
        triton: {"text_input": "Hello", "parameters": {"max_tokens": 1}},
    }
    return [_Attempt(target.at(route), dict(target.headers), body, _no_answer) for route, body in bodies.items()]


def _no_answer(answer: httpx.Response) -> str | None:
    found = any(key in answer.text for key in ("choices", "text_output"))
    return None if found else f"HTTP 200: {shorten(answer.text)}"


def _failure(
    target: Target, attempt: _Attempt, deadline: float, retries_503: bool, process: ServerProcess | None
) -> str | None:
    """A sentence on what went wrong with a request; None when it gave an answer."""
    for pause_s in backing_off():
        timeout_s = max(_LEAST_TIMEOUT_S, deadline - clock.monotonic())
        answer = _asked(target, "POST", attempt.url, timeout_s, headers=attempt.headers, body=attempt.body)
        if isinstance(answer, str):
            return answer
        if answer.status_code == 200:
            return attempt.failure(answer)
        _check_credentials(attempt.url, answer)
        wait_s = _asked_to_wait_s(answer, pause_s, retries_503)
        if wait_s is None or clock.monotonic() + wait_s > deadline:
            later = "" if wait_s is None else f" (to be asked again in {wait_s:.0f} s, after ready_timeout)"
            return f"{_refused(answer)}{later} (POST {urls.request_target(urls.bare(attempt.url))})"
        if process is None:
            time.sleep(wait_s)
        elif process.has_ended_within(wait_s):
            return "the server ended"
    return None


def _asked_to_wait_s(answer: httpx.Response, pause_s: float, retries_503: bool) -> float | None:
    """Seconds to wait before the same request is sent again; None when repeating it is of no use."""
    given = answer.headers.get("retry-after", "").strip()
    if answer.status_code not in (429, 503) or not (given or (retries_503 and answer.status_code == 503)):
        return None
    return max(pause_s, _retry_after_s(given))


def _retry_after_s(given: str) -> float:
    """Seconds that a header gives, as a number or a date; 0 where it gives neither."""
    if given.isascii() and given.isdigit():
        return float(given[:9])
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return 0.0
    return (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def _refused(answer: httpx.Response) -> str:
    return refused(answer.status_code, answer.content, answer.headers.get("location", ""))


def _check_credentials(url: str, answer: httpx.Response) -> None:
    if answer.status_code in (401, 403):
        what = f"answers {answer.status_code}: the credentials are missing or wrong"
        raise ServerError(f"{urls.bare(url)} {what}; {_refused(answer)}")


def _certificate_cure(error: str) -> str:
    """The cure for a certificate that was not accepted, by OpenSSL's error."""
    if "mismatch" in error or "not valid for" in error:
        return "the certificate is another host's: write the URL with a name or an address that it holds"
    if "has expired" in error:
        return "the certificate must be renewed, or this machine's clock is wrong"
    if "not yet valid" in error:
        return "the certificate is valid later, or this machine's clock is wrong"
    return "SSL_CERT_FILE names a file of certificates to trust"


def _asked(
    target: Target,
    method: str,
    url: str,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    body: object = None,
) -> httpx.Response | str:
    """The answer, or why there is none. ServerError when the server's certificate is not trusted."""
    try:
        return ask(method, url, headers=(headers or dict(target.headers)).items(), body=body, timeout_s=timeout_s)
    except httpx.TransportError as error:
        if url.startswith("https:") and re.search("WRONG_VERSION_NUMBER|record layer failure", str(error)):
            raise ServerError(
                f"{target.shown} answers, but not with TLS: it is an http port, so write http://…"
            ) from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ServerError(f"{target.shown}: {foreign(str(error))}; {_certificate_cure(str(error))}") from error
        return f"{type(error).__name__}: {error}"
