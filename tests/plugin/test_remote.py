"""A URL that is already up: what is sent to it, and what becomes of credentials."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SECRET = "s3cr3t-t0ken"
PLAN = """
model: remote
runs: 1
servers:
  prod: {{engine: openai, url: "http://127.0.0.1:{port}/v1", hardware: h200x8, {auth}}}
loads:
  short: {{input_tokens: 8, output_tokens: 2, concurrency: 2, requests: 4, warmup_requests: 1}}
sla: {{error_rate: "<= 0"}}
"""
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
"""


class Guarded(BaseHTTPRequestHandler):
    """The least of an OpenAI server: it answers those who have the right header, and tells its owner what it saw."""

    protocol_version = "HTTP/1.1"
    wanted = ("", "")
    seen: list[tuple[str, bool]]

    def do_GET(self) -> None:
        self._answer(b'{"data": []}', "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not body.get("stream"):
            self._answer(b'{"choices": [{}]}', "application/json")
            return
        chunks = [{"choices": [{"index": 0, "delta": {"content": "a"}}]}] * 2
        usage = {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 2}}
        events = "".join(f"data: {json.dumps(event)}\n\n" for event in [*chunks, usage]) + "data: [DONE]\n\n"
        self._answer(events.encode(), "text/event-stream")

    def _answer(self, body: bytes, kind: str) -> None:
        name, value = self.wanted
        known = self.headers.get(name) == value
        self.seen.append((self.path, known))
        body = body if known else b'{"error": {"message": "who are you?"}}'
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Guarded,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def _write(suite, server: ThreadingHTTPServer, auth: str, wanted: tuple[str, str]) -> None:
    server.RequestHandlerClass.wanted = wanted
    suite.write(plan=PLAN.format(port=server.server_address[1], auth=auth), test=TEST)


@pytest.mark.parametrize(
    ("auth", "wanted"),
    [
        ("bearer: '${LLM_KEY}'", ("Authorization", f"Bearer {SECRET}")),
        (
            "basic: '${LLM_USER}:${LLM_KEY}'",
            ("Authorization", "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()),
        ),
        ("headers: {X-Api-Key: '${LLM_KEY}'}", ("X-Api-Key", SECRET)),
        ("headers: {X-Team: serving}", ("X-Team", "serving")),
    ],
)
def test_credentials_reach_the_server_and_nothing_else(suite, server, monkeypatch, auth, wanted):
    monkeypatch.setenv("LLM_KEY", SECRET)
    monkeypatch.setenv("LLM_USER", "me")
    _write(suite, server, auth, wanted)
    result = suite.run("-v", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1)
    assert {known for _, known in server.RequestHandlerClass.seen} == {True}
    assert ("/v1/chat/completions", True) in server.RequestHandlerClass.seen
    point = suite.points()["prod-short"]
    assert point["metrics"]["requests"] == {"sent": 4, "ok": 4, "failed": 0, "cancelled": 0}
    assert point["environment"] == "h200x8-openai"
    hidden = (SECRET, base64.b64encode(f"me:{SECRET}".encode()).decode())
    files = [path for path in suite.pytester.path.rglob("*") if path.is_file()]
    for text in [result.stdout.str(), *(path.read_text(errors="replace") for path in files)]:
        assert not [secret for secret in hidden if secret in text]


def test_wrong_credentials_are_told_at_once(suite, server, monkeypatch):
    monkeypatch.setenv("LLM_KEY", "wrong")
    _write(suite, server, "bearer: '${LLM_KEY}'", ("Authorization", f"Bearer {SECRET}"))
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*answers 401: the credentials are missing or wrong*"])


def test_a_variable_that_is_not_set_is_no_reason_to_skip(suite, server, monkeypatch):
    monkeypatch.delenv("LLM_KEY", raising=False)
    _write(suite, server, "bearer: '${LLM_KEY}'", ("", ""))
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*plan.yaml:5: servers.prod.bearer: needs the environment variable LLM_KEY, which*"])


def test_a_url_where_nothing_answers_fails_with_the_url(suite, server):
    _write(suite, server, "ready_timeout: 100 ms", ("", ""))
    suite.edit_plan(str(server.server_address[1]), "1")
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*server 'prod' at http://127.0.0.1:1*was not ready within 0.1 s (ready_timeout); GET /v1/models: Conn*"]
    )


def _speak_tls(suite, server: ThreadingHTTPServer, certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    _write(suite, server, "gpus: 1", ("", None))
    suite.edit_plan("http:", "https:")


def test_a_certificate_of_ones_own_is_trusted_by_the_load_and_by_what_asks_before_it(
    suite, server, certificate, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    _speak_tls(suite, server, certificate)
    suite.run().assert_outcomes(passed=1)


def test_a_certificate_that_nobody_vouches_for_is_told_at_once_with_the_remedy(suite, server, certificate, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    _speak_tls(suite, server, certificate)
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*certificate verify failed*SSL_CERT_FILE names a file of certificates to trust*"])


def test_a_first_answer_without_an_end_fails_in_time(suite, server, monkeypatch):
    over = threading.Event()

    def chatter(handler: Guarded) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not over.wait(0.01):  # a fast machine would reach the bound of an answer's bytes first
                handler.wfile.write(b'data: {"choices": [{"text": "a"}]}\n\n')

    monkeypatch.setattr(server.RequestHandlerClass, "do_POST", chatter)
    _write(suite, server, "ready_timeout: 2 s", ("", None))
    result = suite.run()
    result.assert_outcomes(errors=1)
    over.set()
    result.stdout.fnmatch_lines(["*its first request failed: ReadTimeout: no end of the answer within *"])
