"""`llmperf …` from the shell, against a real server process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result

from pytest_llmperf.cli.main import main
from pytest_llmperf.gate import judge as judging
from pytest_llmperf.gate.verdict import judge
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

LOAD = ("--requests", "20", "--input-tokens", "8", "--output-tokens", "4")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    args = {"step": "modelled", "decode-ms-per-step": 1}
    config = EmbeddedServer(engine="embedded", name="cli", model="embedded", args=args)
    with start_server(config, tmp_path_factory.mktemp("logs"), ()) as running:
        yield running


def _profile(server: LlmServer, folder: Path, *args: str) -> Result:
    common = ["profile", "--url", server.url, "--model", "embedded", "--output", str(folder / "out"), *LOAD]
    return CliRunner().invoke(main, [*common, *args])


def test_schema_is_the_plans_json_schema():
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    schema = json.loads(result.output)
    assert set(schema["required"]) == {"model", "servers", "loads"}
    assert {"concurrency", "request_rate", "input_tokens"} <= set(schema["$defs"]["LoadSpec"]["properties"])


def test_profile_closed_loop_prints_the_table_and_writes_the_report(server, tmp_path):
    result = _profile(server, tmp_path, "--concurrency", "2", "--runs", "2", "--json", str(tmp_path / "r.json"))
    assert result.exit_code == 0, result.output
    assert "Time to first token (ms)" in result.output
    assert "40 of 40 requests succeeded; receive times: kernel" in result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "llmperf.report/1"
    (point,) = report["points"]
    assert point["metrics"]["output_tokens"]["mean"] == 4
    assert len(point["runs"]) == 2
    assert len((tmp_path / "out" / "requests" / "profile.jsonl").read_text().splitlines()) == 2 * (20 + 2)


def test_profile_searches_a_capacity(server, tmp_path):
    asked = ("--capacity", "concurrency=1:4")
    result = _profile(server, tmp_path, *asked, "--sla", "ttft_mean<=500ms")
    assert result.exit_code == 0, result.output
    assert "capacity is at least 4 requests in flight: the end of the range still holds" in result.output
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert [level["level"] for level in point["capacity"]["searches"][0]["levels"]] == [1, 2, 4]
    assert "--capacity needs --sla" in _profile(server, tmp_path, *asked).output
    assert "is not a limit such as" in _profile(server, tmp_path, *asked, "--sla", "ttft_mean=500ms").output


def test_profile_judges_limits_and_writes_a_page(server, tmp_path):
    page = tmp_path / "r.html"
    fine = _profile(server, tmp_path, "--concurrency", "2", "--sla", "ttft_p50<=10 s", "--html", str(page))
    assert fine.exit_code == 0, fine.output
    assert "PASS ttft_p50: " in fine.output
    assert "<html" in page.read_text()
    broken = _profile(server, tmp_path / "b", "--concurrency", "2", "--sla", "ttft_p50<=1us")
    assert broken.exit_code == 1
    assert "FAIL ttft_p50: " in broken.output
    (point,) = json.loads((tmp_path / "b" / "out" / "report.json").read_text())["points"]
    assert (point["passed"], point["sla"]["verdict"]) == (False, "FAIL")


def test_profile_takes_a_list_of_rates(server, tmp_path):
    result = _profile(server, tmp_path, "--request-rate", "200,400")
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert [point["id"] for point in points] == ["profile-200rps", "profile-400rps"]


def test_profile_gives_up_where_nothing_listens(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    common = ["profile", "--url", f"http://127.0.0.1:{port}", "--model", "m", "--output", str(tmp_path / "o"), *LOAD]
    result = CliRunner().invoke(main, [*common, "--concurrency", "2"])
    assert result.exit_code == 1
    assert "the connection was refused for 3 s; is the port right, and the server up?" in result.output


def test_https_to_an_http_port_is_told_at_once(server, tmp_path):
    url = server.url.replace("http://", "https://")
    common = ["profile", "--url", url, "--model", "embedded", "--output", str(tmp_path / "o"), *LOAD]
    result = CliRunner().invoke(main, [*common, "--concurrency", "2"])
    assert result.exit_code == 1
    assert "it is an http port, so write http://" in result.output


def test_the_package_is_the_command():
    shown = subprocess.run([sys.executable, "-m", "pytest_llmperf", "--version"], capture_output=True, text=True)
    assert shown.stdout.startswith("llmperf, version ")


def test_profile_open_loop_on_completions(server, tmp_path):
    result = _profile(server, tmp_path, "--request-rate", "100", "--arrival", "poisson", "--endpoint", "completions")
    assert result.exit_code == 0, result.output
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert point["load"]["arrival"] == "poisson"
    assert point["runs"][0]["client"]["send_late_p50_us"] is not None


def test_profile_counts_what_meets_the_slo(server, tmp_path):
    result = _profile(server, tmp_path, "--concurrency", "2", "--slo", "ttft<=10s", "--slo", "itl <= 1 us")
    assert result.exit_code == 0, result.output
    assert "Goodput (req/s)" in result.output
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert point["load"]["slo"] == {"ttft": 10_000.0, "itl": 0.001}
    assert point["metrics"]["goodput"]["value"] == 0


@pytest.mark.parametrize(
    ("timeouts", "told"),
    [
        (("--no-data-timeout", "2 s"), "no further data within 2 s (no_data_timeout)"),
        (("--read-timeout", "2 s"), "response not complete within 2 s (read_timeout)"),
    ],
)
def test_profile_waits_no_longer_than_it_is_told(tmp_path, timeouts, told):
    args = {"step": "modelled", "fault-hang-every": 4}
    config = EmbeddedServer(engine="embedded", name="hanging", model="embedded", args=args)
    with start_server(config, tmp_path, ()) as hanging:
        result = _profile(hanging, tmp_path, "--request-rate", "100", *timeouts)
    assert result.exit_code == 1
    assert f"5 of 20 requests failed: 5 x {told}" in result.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["points"][0]["passed"] is False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_profile_keeps_what_it_measured(server, tmp_path, signum):
    common = ["profile", "--url", server.url, "--model", "embedded", "--output", str(tmp_path), *LOAD]
    command = [sys.executable, "-c", "from pytest_llmperf.cli.main import main; main()", *common]
    with subprocess.Popen([*command, "--concurrency=2", "--runs=1000"], stdout=subprocess.PIPE, text=True) as process:
        requests = tmp_path / "requests" / "profile.jsonl"
        deadline = time.monotonic() + 60
        while not (requests.exists() and requests.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signum)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "interrupted; what was measured until then: " in output
    (point,) = json.loads((tmp_path / "report.json").read_text())["points"]
    assert point["error"] == "interrupted"
    assert point["metrics"]["requests"]["ok"] >= 20


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "either `concurrency` (closed loop) or `request_rate` (open loop)"),
        (["--concurrency", "2", "--request-rate", "3"], "either `concurrency`"),
        (["--concurrency", "0"], "Error: concurrency: "),
        (["--request-rate", "3,x"], "--request-rate '3,x' is neither a number nor a list such as 5,10,20"),
        (["--request-rate", "0"], "Error: request_rate: '0.0 req/s' must be more than 0"),
        (["--concurrency", "40"], "less than concurrency: 40"),
        (["--concurrency", "2", "--slo", "ttft=1s"], "--slo 'ttft=1s' is not a limit such as 'ttft<=500ms'"),
        (["--concurrency", "2", "--slo", "ttft<=1"], "'1' has no unit"),
        (["--concurrency", "2", "--slo", "speed<=1s"], "slo cannot limit 'speed'; allowed: "),
        (["--concurrency", "2", "--header", "nonsense"], "is not 'NAME: VALUE'"),
        (["--concurrency", "2", "--bearer-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--concurrency", "2", "--endpoint", "telepathy"], "telepathy"),
        (["--concurrency", "2", "--extra-body", "{a: 1}"], "--extra-body '{a: 1}' is no JSON"),
        (["--concurrency", "2", "--extra-body", "[]"], "--extra-body '[]' is no JSON object"),
        (["--concurrency", "2", "--extra-body", '{"prompt": null}'], "null would leave out the prompt itself"),
        (["--concurrency", "2", "--ready", "healthz"], "'healthz' is not a whole path of the host"),
        (["--concurrency", "2", "--path", "v1"], "'v1' is not a whole path of the host"),
        (["--concurrency", "2", "-i", "http", "--path", "/v1"], "--path is for OpenAI's endpoints"),
    ],
)
def test_profile_mistakes_are_named(server, tmp_path, args, message):
    result = _profile(server, tmp_path, *args)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_profile_of_a_server_that_wants_to_be_asked_otherwise(tmp_path):
    seen: list[tuple[str, dict]] = []

    class Odd(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body))
            event = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}
            answer = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(event).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Not to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as odd:
        thread = threading.Thread(target=odd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{odd.server_port}?v=1"
        common = ["profile", "--url", url, "--model", "m", "--output", str(tmp_path / "out"), "--concurrency", "1"]
        how = ["--ready", "false", "--path", "/ask", "--max-tokens-field", "max_completion_tokens"]
        extra = ["--extra-body", '{"stream_options": null, "temperature": null}', "--no-ignore-eos"]
        result = CliRunner().invoke(main, [*common, *LOAD, *how, *extra])
        odd.shutdown()
        thread.join()
    assert "20 of 20 requests succeeded" in result.output
    assert {path for path, _ in seen} == {"/ask?v=1"}
    assert {name for _, body in seen for name in body} == {"model", "messages", "stream", "max_completion_tokens"}


def test_profile_of_a_model_that_is_not_there_fails_with_the_servers_words(server, tmp_path):
    result = _profile(server, tmp_path, "--concurrency", "2", "--model", "other")
    assert result.exit_code == 1
    assert "its first request failed: HTTP 404" in result.output


class _Triton(BaseHTTPRequestHandler):
    """Triton's HTTP front end with one model `m`, as far as a load needs it."""

    protocol_version = "HTTP/1.1"
    posted: ClassVar[list[tuple[str, dict]]] = []

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v2/health/ready" else 404, "application/json", b"")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.posted.append((self.path, body))
        if self.path == "/v2/models/m/generate":
            self._answer(200, "application/json", b'{"model_name":"m","text_output":"a"}')
        elif self.path == "/v2/models/m/generate_stream":
            events = [{"text_output": "a"}] * body["parameters"]["max_tokens"] + [{"text_output": ""}]
            self._answer(200, "text/event-stream", b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in events))
        else:
            self._answer(404, "application/json", b'{"error":"not found"}')

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not to stderr."""


def test_profile_of_tritons_generate(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Triton) as triton:
        thread = threading.Thread(target=triton.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{triton.server_port}"
        common = ["profile", "--url", url, "--model", "m", "--output", str(tmp_path / "out"), *LOAD]
        result = CliRunner().invoke(main, [*common, "--endpoint", "generate", "--concurrency", "2"])
        triton.shutdown()
        thread.join()
    assert "20 of 20 requests succeeded" in result.output  # though INVALID: the fake sends all tokens at once
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert point["metrics"]["output_tokens"]["mean"] == 4
    assert point["metrics"]["token_sources"] == ["chunks"]
    assert point["metrics"]["input_tokens_source"] == []


def test_profile_with_a_tokenizer_that_is_none(server, tmp_path):
    result = _profile(server, tmp_path, "--concurrency", "2", "--tokenizer", str(tmp_path))
    assert result.exit_code == 1
    assert "cannot be loaded" in result.output


def test_a_report_that_cannot_be_written_is_no_success(server, tmp_path):
    (tmp_path / "file").touch()
    result = _profile(server, tmp_path, "--concurrency", "2", "--json", str(tmp_path / "file" / "r.json"))
    assert result.exit_code == 1, result.output
    assert "Error: report was not written: " in result.output
    assert "20 of 20 requests succeeded" in result.output


def test_a_page_needs_its_libraries_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    command = ["profile", "--url", "http://127.0.0.1:9", "--model", "m", "--html", str(tmp_path / "r.html")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    assert "--html needs plotly and jinja2: pip install 'pytest-llmperf[report]'" in result.output


def test_profile_in_another_tools_words(server, tmp_path):
    result = _profile(server, tmp_path, "--concurrency", "2", "--dialect", "vllm")
    assert result.exit_code == 0, result.output
    assert "profile by the definitions of vllm" in result.output
    assert "e2el_ms (ms)" in result.output


def test_profile_compares_with_what_it_recorded(server, tmp_path, monkeypatch):
    together = []
    monkeypatch.setattr(judging, "judge", lambda points, *more: together.append({*points}) or judge(points, *more))
    folder, two = str(tmp_path / "baselines"), ("--concurrency", "2,4")
    first = _profile(server, tmp_path / "none", "--concurrency", "2", "--baseline", folder)
    assert "profile: not compared: no baseline for this point" in first.output
    assert first.exit_code == 1
    (lost,) = json.loads((tmp_path / "none" / "out" / "report.json").read_text())["points"]
    assert lost["passed"] is False
    assert lost["error"].startswith("not compared: no baseline for this point")
    recorded = _profile(server, tmp_path / "recorded", *two, "--record", folder)
    assert recorded.exit_code == 0, recorded.output
    assert len(list((tmp_path / "baselines").rglob("*.json"))) == 2
    compared = _profile(server, tmp_path / "compared", *two, "--baseline", folder)
    assert "against the baseline" in compared.output
    assert together[-1] == {"profile-c2", "profile-c4"}, "Holm's correction is over all that the command compares"
    assert "Time to second token" not in compared.output, "of several points the report has the statistics"
    points = json.loads((tmp_path / "compared" / "out" / "report.json").read_text())["points"]
    assert {point["regression"]["verdict"] for point in points} <= {"PASS", "FAIL", "INCONCLUSIVE", "IMPROVED"}
    assert all(point["passed"] is (point["regression"]["verdict"] != "FAIL") for point in points)
    both = _profile(server, tmp_path / "both", "--record", folder, "--baseline", folder)
    assert both.exit_code == 2
    assert "exclude each other" in both.output
