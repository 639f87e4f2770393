"""What an MLNode is sent, and what is made of every answer that it may give."""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from samples import server

from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.search.snippet import launch_command
from pytest_llmperf.servers.deployments.mlnode.api import State, Unreachable, parse_state, up_problem
from pytest_llmperf.servers.deployments.mlnode.engine import up_body
from pytest_llmperf.servers.deployments.mlnode.instances import NotCountable, instances_up
from pytest_llmperf.servers.engines.commands import missing_requirement, steps

HEAD = "engine: mlnode, url: 'http://10.0.0.5:8080', inference_url: 'http://10.0.0.5:5000', gpus: 8"


def test_the_body_of_up_is_the_seeds():
    config = server(
        f"{{{HEAD}, args: {{tp: 8, pp: 1, enforce-eager: true, enable-prefix-caching: false}}}}",
        model="Qwen/QwQ-32B",
        locked="{dtype: float16, quantization: fp8, kv-cache-dtype: fp8}",
    )
    assert up_body(config) == {
        "model": "Qwen/QwQ-32B",
        "dtype": "float16",
        "additional_args": [
            *("--quantization", "fp8", "--kv-cache-dtype", "fp8"),
            *("--tensor-parallel-size", "8", "--pipeline-parallel-size", "1"),
            *("--enforce-eager", "--no-enable-prefix-caching"),
        ],
    }
    assert up_body(server(f"{{{HEAD}}}"))["dtype"] == "auto"


def test_steps_are_shell_lines_with_references_for_secrets():
    entry = f"{{{HEAD}, bearer: '${{KEY}}', args: {{tp: 4}}, stop: stop, replace: true}}"
    lines = list(steps(server(entry)))
    assert lines == [
        'curl -H "Authorization: Bearer ${KEY}" http://10.0.0.5:8080/api/v1/state  # 1/5 state: what it runs is '
        "stopped by POST http://10.0.0.5:8080/api/v1/stop",
        "curl -H \"Authorization: Bearer ${KEY}\" -H 'Content-Type: application/json' -d "
        '\'{"model": "m", "dtype": "auto", "additional_args": ["--tensor-parallel-size", "4"]}\' '
        "http://10.0.0.5:8080/api/v1/inference/up  # 2/5 up: 2 instances of 4 GPUs",
        'curl -H "Authorization: Bearer ${KEY}" http://10.0.0.5:8080/api/v1/state  # 3/5 state: until INFERENCE',
        'curl -H "Authorization: Bearer ${KEY}" http://10.0.0.5:5000/v1/models  # 4/5 model: until it lists m',
        "# 5/5 instances: counted at http://10.0.0.5:5000/metrics while streams are held open, until all answer",
        'curl -H "Authorization: Bearer ${KEY}" -X POST http://10.0.0.5:8080/api/v1/stop  # afterwards, whatever '
        "happened",
    ]
    assert launch_command(server(entry), ()) == "; ".join(lines)


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("args: {tp: 16}", "needs 16 GPUs, the node has 8"),
        ("args: {tp: 2}, instance_urls: ['http://h:1']", "needs 4 instance_urls, one per instance; the plan has 1"),
        ("args: {tp: 8}, instance_urls: ['http://h:1', 'http://h:2']", None),
    ],
)
def test_what_the_node_lacks(rest, reason):
    assert missing_requirement(server(f"{{{HEAD}, {rest}}}"), ()) == reason


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"state": "STOPPED"}, State("STOPPED", True, "", None)),
        (
            {"state": "INFERENCE", "version": "3.0.8", "inference_healthy": False, "loaded_model": "m"},
            State("INFERENCE", False, "m", "3.0.8"),
        ),
        ({"state": "INFERENCE", "inference_healthy": None}, State("INFERENCE", True, "", None)),
    ],
)
def test_states_of_old_and_new_nodes(body, state):
    assert parse_state(json.dumps(body).encode()) == state


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"status": "OK"}', b"[" * 100_000], ids=len)
def test_what_is_no_state(body):
    with pytest.raises(Unreachable, match="not the answer of an MLNode"):
        parse_state(body)


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, {"status": "ERROR", "message": "out of memory"}, "status ERROR: out of memory. vLLM did not start"),
        (200, {"status": "ERROR"}, "status ERROR: no message. vLLM did not start"),
        (200, {}, "HTTP 200 without a `status`: {}. Is `url` the node's management port?"),
        (200, "<html>\x1b[31m", "HTTP 200 without a `status`"),
        (
            409,
            {"detail": "in ServiceState.POW mode"},
            "HTTP 409: in ServiceState.POW mode. `replace: true` in the plan",
        ),
        (
            422,
            {"detail": [{"loc": ["body", "dtype"], "msg": "Field required"}]},
            "HTTP 422: body.dtype: Field required. The node did not take the request's body",
        ),
        (422, {"detail": [{"loc": None, "msg": "bad"}, {"loc": "body"}]}, "HTTP 422: None: bad; body: None. The node"),
        (409, "[" * 100_000, "HTTP 409"),
        (200, "[" * 100_000, "HTTP 200 without a `status`"),
        (500, {"detail": "boom"}, "HTTP 500: boom. vLLM did not start"),
        (404, {"detail": "Not Found"}, "HTTP 404: Not Found. Is `url` the node's management port (8080)"),
        (403, {"detail": "no"}, "HTTP 403: no. The credentials are missing or wrong"),
        (503, "busy", "HTTP 503: busy"),
    ],
)
def test_every_answer_to_up_is_explained(status, body, told):
    text = body if isinstance(body, str) else json.dumps(body)
    assert re.search(re.escape(told), up_problem(httpx.Response(status, text=text)) or "")


def test_an_ok_is_no_problem():
    assert up_problem(httpx.Response(200, json={"status": "OK"})) is None


class _Endless(BaseHTTPRequestHandler):
    """An instance whose streams hold no event, and have no end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(b'{"data": []}' if self.path == "/v1/models" else b"vllm:num_requests_running 0\n")

    def do_POST(self):
        self._answer(b"")
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b": nothing yet\n\n" * 1000)

    def _answer(self, body):
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_stream_without_an_event_is_given_up():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        target = Target(f"http://127.0.0.1:{served.server_port}", "m", ())
        with pytest.raises(NotCountable, match=r"POST /v1/completions: HTTP/1.1 200"):
            instances_up(target, 2)
        served.shutdown()
