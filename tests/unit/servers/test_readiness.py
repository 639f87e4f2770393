"""When a server that is up already counts as ready: asked seldom, and last with the load's own request."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.engines.remote import OpenAIServer, TritonRemoteServer
from pytest_llmperf.servers.process.process import backing_off
from pytest_llmperf.servers.start import start_server

EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}\n\n'


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


STREAM = Answer(body=EVENT + b"data: [DONE]\n\n", kind="Text/Event-Stream; charset=utf-8")
Script = Callable[[str, str, Any], Answer]
"""Method, path and body of a request to what is answered."""


@contextlib.contextmanager
def _serving(script: Script) -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """The URL, and what was asked so far."""
    seen: list[tuple[str, str, Any]] = []

    class Scripted(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
            seen.append((self.command, self.path, body))
            answer = script(self.command, self.path, body)
            self.send_response(answer.status)
            headers = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body)), **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Not to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def _load(**changes: Any) -> LoadPoint:
    keys = {"input_tokens": 8, "output_tokens": 500, "concurrency": 1, "requests": 1, **changes}
    return LoadSpec.model_validate(keys).points("p")[0]


def _start(tmp_path: Path, url: str, *loads: LoadPoint, **keys: Any) -> None:
    config = OpenAIServer(engine="openai", name="far", model="m", url=url, **{"ready_timeout": "20 s", **keys})
    with start_server(config, tmp_path, (), loads=loads or (_load(),)):
        pass


def _refusal(tmp_path: Path, script: Script, *loads: LoadPoint, **keys: Any) -> str:
    began = time.monotonic()
    with _serving(script) as (url, seen), pytest.raises(ServerError) as caught:
        _start(tmp_path, url, *loads, **keys)
    assert time.monotonic() - began < 15, f"told at once, after {seen}"
    return str(caught.value)


def _only_chat(method: str, path: str, body: Any) -> Answer:
    return (
        STREAM
        if method == "POST" and path.partition("?")[0] == "/v1/chat/completions"
        else Answer(404, b'{"error": "no route"}')
    )


def test_pauses_grow_and_are_bounded() -> None:
    assert list(itertools.islice(backing_off(), 6)) == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize("status", [401, 403, 404, 405, 422, 501])
def test_a_server_without_a_route_for_models_is_asked_what_the_load_asks(tmp_path: Path, status: int) -> None:
    def script(method: str, path: str, body: Any) -> Answer:
        return STREAM if method == "POST" else Answer(status)

    with _serving(script) as (url, seen):
        _start(tmp_path, url, _load(extra_body={"top_p": 0.5, "temperature": None}))
    assert [(method, path) for method, path, _ in seen] == [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/version"),
    ]
    sent = seen[1][2]
    assert (sent["max_tokens"], sent["stream"], sent["top_p"]) == (1, True, 0.5)
    assert "temperature" not in sent


def test_the_plan_names_what_says_ready(tmp_path: Path) -> None:
    def script(method: str, path: str, body: Any) -> Answer:
        return Answer(204) if path == "/healthz?deep=1&v=2" else _only_chat(method, path, body)

    with _serving(script) as (url, seen):
        _start(tmp_path, f"{url}?v=2", ready="/healthz?deep=1", path="/v1/chat/completions")
        assert seen[0][:2] == ("GET", "/healthz?deep=1&v=2")
        _start(tmp_path, f"{url}?v=2", ready={"path": "/healthz?deep=1", "status": 204}, path="/v1/chat/completions")
    assert seen[1][:2] == ("POST", "/v1/chat/completions?v=2")


def test_a_named_check_that_says_no_is_told_with_its_last_answer(tmp_path: Path) -> None:
    found = _refusal(tmp_path, _only_chat, ready={"path": "/healthz", "status": 204}, ready_timeout="1 s")
    assert "was not ready within 1 s (ready_timeout); GET /healthz: HTTP 404: no route, not 204" in found


def test_without_a_check_the_first_request_decides(tmp_path: Path) -> None:
    with _serving(_only_chat) as (url, seen):
        _start(tmp_path, url, ready=False)
    assert seen[0][:2] == ("POST", "/v1/chat/completions")
    with pytest.raises(ServerError, match="its first request failed: ConnectError"):
        _start(tmp_path, url, ready=False)


def test_a_server_that_comes_up_is_waited_for_and_not_asked_without_pause(tmp_path: Path) -> None:
    answers = iter([Answer(503, b"loading")])

    def script(method: str, path: str, body: Any) -> Answer:
        return next(answers, Answer(body=b"{}")) if method == "GET" else STREAM

    with _serving(script) as (url, seen):
        _start(tmp_path, url)
    assert [path for _, path, _ in seen].count("/v1/models") == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_first_request_that_is_to_come_later_comes_later(tmp_path: Path, status: int) -> None:
    answers = iter([Answer(status, b"busy", headers={"Retry-After": "1"})])

    def script(method: str, path: str, body: Any) -> Answer:
        return Answer(404) if method == "GET" else next(answers, STREAM)

    with _serving(script) as (url, seen):
        _start(tmp_path, url)
    assert [method for method, _, _ in seen].count("POST") == 2


@pytest.mark.parametrize("later", ["3600", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "date"])
def test_one_that_is_to_come_after_the_timeout_is_told_at_once(tmp_path: Path, later: str) -> None:
    def script(method: str, path: str, body: Any) -> Answer:
        return Answer(429, b'{"error": "quota"}', headers={"Retry-After": later})

    assert "HTTP 429: quota (to be asked again in 3" in _refusal(tmp_path, script, ready=False)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(401, b'{"error": "who?"}'), "answers 401: the credentials are missing or wrong; HTTP 401: who?"),
        (Answer(403, b""), "answers 403: the credentials are missing or wrong; HTTP 403 without a body"),
        (Answer(404, b'{"detail": "no model m"}'), "its first request failed: HTTP 404: no model m (POST /v1/chat/com"),
        (Answer(422, b'{"message": "top_k"}'), "HTTP 422: top_k"),
        (Answer(429, b"quota"), "HTTP 429: quota"),
        (
            Answer(308, headers={"Location": "https://me:s3cret@h/v1/chat/completions?key=s3cret"}),
            "HTTP 308: a redirect to 'https://***@h/v1/chat/completions?…', which is not followed",
        ),
        (Answer(302), "HTTP 302: a redirect to nowhere"),
        (Answer(body=b'{"choices": []}'), "no event stream but application/json: the server did not stream: {"),
        (Answer(body=b"<p>sign in</p>", kind="text/html"), "no event stream but text/html: <p>sign in</p>"),
        (Answer(body=b'data: {"error": "boom"}\n\n', kind="text/event-stream"), "error in the stream: boom"),
        (Answer(kind="text/event-stream"), "a stream without an event"),
        (Answer(body=b"?", headers={"Content-Encoding": "br"}), "content-encoding 'br', which nobody asked for: br is"),
    ],
)
def test_what_waiting_does_not_mend_is_told_at_once(tmp_path: Path, answer: Answer, told: str) -> None:
    found = _refusal(tmp_path, lambda method, path, body: answer if method == "POST" else Answer(404))
    assert told in found
    assert "s3cret" not in found


def test_any_load_of_the_server_will_do(tmp_path: Path) -> None:
    """Its other loads are told by their own warm-up."""
    with _serving(_only_chat) as (url, seen):
        _start(tmp_path, url, _load(endpoint="completions"), _load(), _load(temperature=1))
    assert [path for method, path, _ in seen if method == "POST"] == ["/v1/completions", "/v1/chat/completions"]


def test_a_compressed_answer_and_a_last_event_without_its_blank_line(tmp_path: Path) -> None:
    packed = Answer(body=gzip.compress(EVENT.rstrip()), kind="text/event-stream", headers={"Content-Encoding": "gzip"})
    with _serving(lambda method, path, body: packed) as (url, _):
        _start(tmp_path, url)


def test_openais_own_responses_take_no_shorter_answer_than_16_tokens(tmp_path: Path) -> None:
    event = b'data: {"type": "response.output_text.delta", "delta": "a"}\n\n'
    with _serving(lambda *_: Answer(body=event, kind="text/event-stream")) as (url, seen):
        _start(tmp_path, url, _load(endpoint="responses"))
    assert seen[1][2]["max_output_tokens"] == 16


def test_a_secret_in_the_query_is_sent_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "s3cret&x")
    script: Script = lambda method, path, body: Answer(500, b"no")  # noqa: E731
    with _serving(script) as (url, seen), pytest.raises(ServerError) as caught:
        _start(tmp_path, f"{url}/v1?subscription-key=${{FAR_KEY}}&v=1", ready=False)
    assert seen[0][1] == "/v1/chat/completions?subscription-key=s3cret%26x&v=1"
    assert "s3cret" not in str(caught.value)
    monkeypatch.delenv("FAR_KEY")
    with pytest.raises(MissingRequirement, match="FAR_KEY"):
        _start(tmp_path, f"{url}/v1?subscription-key=${{FAR_KEY}}", ready=False)


def test_what_is_no_answer_of_triton_is_told(tmp_path: Path) -> None:
    """As of an ingress that answers everything with a page."""
    far = {"engine": "triton-remote", "name": "far", "model": "m", "ready_timeout": "20 s"}
    page = Answer(body=b"<html>sign in</html>", kind="text/html")
    with (
        _serving(lambda *_: page) as (url, _),
        pytest.raises(ServerError, match="/v2/models/m/config is not Triton's answer: <html>sign in</html>"),
        start_server(TritonRemoteServer(**far, url=url), tmp_path, ()),
    ):
        pass


def test_triton_is_asked_where_the_plan_says(tmp_path: Path) -> None:
    def script(method: str, path: str, body: Any) -> Answer:
        if path in ("/live", "/v2"):
            return about[path]
        if path == "/v2/models/m/config":
            return Answer(body=b'{"input": [{"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]}]}')
        return Answer(body=b'data: {"text_output": "a"}\n\n') if method == "POST" else Answer(500)

    config = {"engine": "triton-remote", "name": "far", "model": "m", "ready_timeout": "20 s"}
    about = {"/live": Answer(), "/v2": Answer(body=b'{"version": "2"}')}
    for ready in ("/live", False):
        with _serving(script) as (url, seen):
            far = TritonRemoteServer(**config, url=url, ready=ready)
            with start_server(far, tmp_path, ()) as server:
                assert server.version == ("2" if ready else None)
        assert (seen[0][1] == "/live") is (ready == "/live")
        about["/v2"] = Answer(404, b"a gateway knows the models alone")
    with (
        pytest.raises(ServerError, match="ConnectError"),
        start_server(TritonRemoteServer(**config, url=url, ready=False), tmp_path, ()),
    ):
        pass
    with pytest.raises(ValueError, match="asked over HTTP"):
        TritonRemoteServer(**config, url="grpc://h:1", ready="/live")
