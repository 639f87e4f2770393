"""The embedded engine as its users meet it: a process, a port, bytes on a socket."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pytest_llmperf.embedded.truth import read_emission_log

FAST = ("--step", "modelled", "--decode-ms-per-step", "1", "--step-overhead-ms", "0")
SLOW = ("--step", "modelled", "--decode-ms-per-step", "20")


@dataclass
class Running:
    process: "subprocess.Popen[str]"
    client: httpx.Client
    log: str

    @property
    def port(self) -> int:
        return self.client.base_url.port or 0

    def complete(self, **body) -> httpx.Response:
        return self.client.post("/v1/completions", json={"prompt": "word", "max_tokens": 4, "ignore_eos": True} | body)

    def chat(self, **body) -> httpx.Response:
        message = {"role": "user", "content": "word word"}
        return self.client.post("/v1/chat/completions", json={"messages": [message], "max_tokens": 4} | body)

    def wait(self) -> tuple[int, str]:
        """Exit code and the whole log."""
        rest = self.process.stderr.read()
        return self.process.wait(60), self.log + rest


def launch(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pytest_llmperf.embedded", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    with launch("--port", "0", *arguments) as process:
        try:
            log = ""
            for line in process.stderr:
                log += line
                if "Application startup complete." in line:
                    break
            port = re.search(r"Started server process on http://127.0.0.1:(\d+)", log)
            assert port, log
            with httpx.Client(base_url=f"http://127.0.0.1:{port[1]}", timeout=60) as client:
                yield Running(process, client, log)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Running]:
    with running("--max-model-len", "512") as engine:
        yield engine


@pytest.fixture(scope="module")
def modelled() -> Iterator[Running]:
    with running(*FAST, "--served-model-name", "tiny", "--max-model-len", "256") as engine:
        yield engine


def events(response: httpx.Response) -> list[dict]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [line for line in response.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def metric(engine: Running, name: str) -> float:
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", engine.client.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


# What is served


def test_a_completion_stream(decoder):
    chunks = events(decoder.complete(stream=True, temperature=0, stream_options={"include_usage": True}))
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("text_completion", "embedded")}
    assert len({chunk["id"] for chunk in chunks}) == 1
    *tokens, usage = chunks
    assert [chunk["choices"][0]["finish_reason"] for chunk in tokens] == [None, None, None, "length"]
    assert all(chunk["usage"] is None for chunk in tokens)
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}


def test_a_stream_has_the_text_of_the_whole_answer(decoder):
    body = {"prompt": "the world", "max_tokens": 40, "temperature": 0}
    text = "".join(chunk["choices"][0]["text"] for chunk in events(decoder.complete(stream=True, **body)))
    assert text == decoder.complete(**body).json()["choices"][0]["text"] != ""


def test_a_chat_stream_begins_with_a_role_and_counts_as_it_goes(decoder):
    options = {"include_usage": True, "continuous_usage_stats": True}
    first, *tokens, last = events(decoder.chat(stream=True, ignore_eos=True, stream_options=options))
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["usage"]["completion_tokens"] for chunk in [first, *tokens, last]] == [0, 1, 2, 3, 4, 4]
    assert {chunk["usage"]["prompt_tokens"] for chunk in [first, *tokens, last]} == {5}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in tokens)
    assert tokens[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []


def test_a_whole_chat_answer(modelled):
    answer = modelled.chat(ignore_eos=True).json()
    message = answer["choices"][0]["message"]
    assert answer["object"] == "chat.completion"
    assert message["role"] == "assistant"
    assert len(message["content"].split()) == 4
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_several_prompts_are_several_choices(decoder):
    body = {"prompt": ["word", "the world", "a"], "temperature": 0, "max_tokens": 6}
    whole = [choice["text"] for choice in decoder.complete(**body).json()["choices"]]
    streamed = ["", "", ""]
    for chunk in events(decoder.complete(stream=True, **body)):
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == whole


def test_token_ids_in_and_out(decoder):
    prompt = decoder.client.post("/tokenize", json={"prompt": "the world of words"}).json()
    assert (prompt["count"], prompt["max_model_len"]) == (len(prompt["tokens"]), 512)
    body = {"prompt": prompt["tokens"], "temperature": 0, "return_token_ids": True}
    choice = decoder.complete(**body).json()["choices"][0]
    assert choice["prompt_token_ids"] == prompt["tokens"]
    text = decoder.client.post("/detokenize", json={"tokens": choice["token_ids"]}).json()["prompt"]
    assert text == choice["text"]
    first = events(decoder.complete(stream=True, **body))[0]["choices"][0]
    assert (first["prompt_token_ids"], first["token_ids"]) == (prompt["tokens"], choice["token_ids"][:1])


def test_tokenize_counts_a_chat_as_the_server_does(modelled):
    messages = [{"role": "system", "content": "word"}, {"role": "user", "content": "word word"}]
    count = modelled.client.post("/tokenize", json={"messages": messages}).json()["count"]
    assert modelled.chat(messages=messages).json()["usage"]["prompt_tokens"] == count


def test_max_tokens_over_the_room_left_are_clamped(modelled):
    answer = modelled.complete(prompt=[1] * 250, max_tokens=100).json()
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["choices"][0]["finish_reason"] == "length"


def test_small_facts(modelled):
    model = modelled.client.get("/v1/models").json()["data"][0]
    assert (model["id"], model["root"], model["max_model_len"]) == ("tiny", "embedded", 256)
    assert modelled.client.get("/version").json()["step"] == "modelled"
    assert modelled.client.get("/health").status_code == 200
    assert modelled.client.post("/embedded/run", json={"run": 2}).json() == {"run": 2}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/completions", b"{", 400),
        ("POST", "/v1/completions", b'{"prompt": "a", "model": "other"}', 404),
        ("POST", "/v1/completions", json.dumps({"prompt": [1] * 256}).encode(), 400),
        ("POST", "/v1/chat/completions", b"{}", 400),
        ("POST", "/tokenize", b"{}", 400),
        ("POST", "/detokenize", b"{}", 400),
        ("POST", "/embedded/run", b"{}", 400),
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/completions", None, 405),
    ],
)
def test_errors_are_json_with_a_status(modelled, method, path, body, status):
    response = modelled.client.request(method, path, content=body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == status


def test_metrics_count_what_was_served():
    with running(*FAST, "--block-size", "4") as engine:
        for _ in range(2):
            engine.complete(prompt=[1] * 10, max_tokens=5)
        assert metric(engine, "prompt_tokens_total") == 20
        assert metric(engine, "generation_tokens_total") == 10
        assert metric(engine, "prefix_cache_queries_total") == 20
        assert metric(engine, "prefix_cache_hits_total") == 8
        assert engine.client.post("/reset_prefix_cache").status_code == 200
        engine.complete(prompt=[1] * 10, max_tokens=5)
        assert metric(engine, "prefix_cache_hits_total") == 8
        assert metric(engine, "time_to_first_token_seconds_count") == 3
        assert metric(engine, "num_requests_running") == metric(engine, "num_requests_waiting") == 0


# HTTP


def exchange(port: int, *sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for data in sent:
            connection.sendall(data)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


def test_pipelined_requests_are_answered_in_order(modelled):
    body = b'{"prompt": "a", "max_tokens": 3, "stream": true}'
    post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = exchange(modelled.port, post + post + last)
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(b"data: [DONE]") == 2
    assert received.index(b'"step"') > received.rindex(b"[DONE]")


def test_a_request_in_pieces_and_a_body_that_is_announced(modelled):
    body = b'{"prompt": "a", "max_tokens": 1}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: "
    received = exchange(modelled.port, head[:30], head[30:], b"%d\r\n\r\n" % len(body), body[:5], body[5:])
    assert received.startswith(b"HTTP/1.1 100 ")
    assert b'"text_completion"' in received


def test_what_is_not_http_is_refused(modelled):
    assert exchange(modelled.port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_http_1_0_gets_its_stream_without_chunks(modelled):
    body = b'{"prompt": "a", "max_tokens": 2, "stream": true}'
    received = exchange(
        modelled.port, b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    assert b"chunked" not in received
    assert received.endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_frees_its_place():
    with running(*SLOW, "--max-num-seqs", "1") as engine:
        with engine.client.stream(
            "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 4000, "stream": True}
        ) as left:
            next(left.iter_lines())
        assert engine.complete(max_tokens=1).status_code == 200
        assert 'finished_reason="abort"} 1.0' in engine.client.get("/metrics").text


# How events leave


def test_the_emission_log_has_a_line_per_request_before_the_stream_ends(tmp_path):
    path = tmp_path / "emissions.jsonl"
    with running(*FAST, "--emission-log", str(path), "--stream-interval", "4") as engine:
        body = {"prompt": "word word", "max_tokens": 10, "stream": True, "ignore_eos": True}
        request_id = {"X-Request-Id": "mine"}
        chunks = events(engine.client.post("/v1/completions", json=body, headers=request_id))
        (emission,) = read_emission_log(path)
        engine.complete(prompt=["a", "b"])
    assert chunks[0]["id"] == "cmpl-mine"
    assert emission.request_id == "mine"
    assert (emission.prompt_tokens, emission.tokens_per_chunk) == (2, (1, 4, 4, 1))
    assert len(emission.token_ns) == 10
    assert list(emission.token_ns) == sorted(emission.token_ns)
    assert emission.received_ns <= emission.first_scheduled_ns <= emission.token_ns[0]
    assert len(set(emission.token_ns)) == 4
    assert [item.request_id[-2:] for item in read_emission_log(path)] == ["ne", "-0", "-1"]


def test_the_role_can_come_before_the_first_token():
    with running(*FAST, "--role-chunk-first", "--fault-hang-every", "1") as engine:
        body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 9}
        with engine.client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert '"role"' in next(response.iter_lines())


def test_tokens_without_text_leave_the_text_whole():
    with running(*FAST, "--empty-text-every", "3") as engine:
        texts = [chunk["choices"][0]["text"] for chunk in events(engine.complete(max_tokens=10, stream=True))]
        assert [bool(text) for text in texts] == [True, True, False] * 3 + [True]
        assert "".join(texts) == engine.complete(max_tokens=10).json()["choices"][0]["text"]


def test_split_writes_and_crlf_change_only_the_framing():
    body = b'{"prompt": "a", "max_tokens": 20, "stream": true}'
    post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    with running(*FAST, "--split-writes", "--crlf") as engine:
        received = exchange(engine.port, post % (len(body), body))
        assert received.count(b"}\r\n\r\n") == 20
        assert received.endswith(b"data: [DONE]\r\n\r\n\r\n0\r\n\r\n")
        assert len(events(engine.complete(stream=True, max_tokens=20))) == 20


# Faults


def test_every_second_stream_ends_with_an_error():
    with running(*FAST, "--fault-stream-error-every", "2") as engine:
        assert len(events(engine.complete(stream=True))) == 4
        *tokens, error = events(engine.complete(stream=True))
        assert len(tokens) == 2
        assert "choices" not in error
        assert error["error"]["code"] == 500
        assert engine.complete().status_code == 200
        assert engine.complete().status_code == 500


def test_every_second_request_is_refused():
    with running(*FAST, "--fault-status-every", "2") as engine:
        responses = [engine.complete(stream=True) for _ in range(4)]
        assert [response.status_code for response in responses] == [200, 503, 200, 503]
        assert responses[1].json()["error"]["type"] == "ServiceUnavailableError"


def test_a_hanging_stream_stays_open_and_silent():
    body = b'{"prompt": "a", "max_tokens": 50, "stream": true, "ignore_eos": true}'
    post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with running(*FAST, "--fault-hang-every", "1") as engine:
        with socket.create_connection(("127.0.0.1", engine.port), timeout=60) as connection:
            connection.sendall(post)
            received = b""
            while received.count(b"data: ") < 2:
                received += connection.recv(65536)
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(65536)
        assert engine.client.get("/health").status_code == 200
        assert metric(engine, "num_requests_running") == 0


def test_a_connection_is_lost_within_the_stream():
    with running(*FAST, "--fault-disconnect-every", "2") as engine:
        assert len(events(engine.complete(stream=True))) == 4
        with pytest.raises(httpx.RemoteProtocolError):
            engine.complete(stream=True, max_tokens=50)
        assert engine.complete().status_code == 200


def test_a_dead_engine_is_unhealthy_and_says_so_in_the_stream():
    with running(*FAST, "--fault-engine-die-after", "1") as engine:
        assert engine.complete().status_code == 200
        last = events(engine.complete(stream=True, max_tokens=4000))[-1]
        assert "fault-engine-die-after" in last["error"]["message"]
        assert engine.client.get("/health").status_code == 503
        assert engine.complete().status_code == 503
        engine.process.terminate()
        code, log = engine.wait()
    assert code == 0
    assert "Traceback" in log


def test_the_process_dies_with_a_traceback():
    with running(*FAST, "--fault-die-after", "2") as engine:
        engine.complete()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(engine.complete)
            code, log = engine.wait()
    assert code == 1
    assert "Traceback" in log
    assert "RuntimeError: fault-die-after" in log


def test_a_failing_start_logs_the_cause_first():
    with launch("--port", "0", "--fault-start") as process:
        log = process.stderr.read()
        assert process.wait(60) == 1
    assert log.index("RuntimeError: fault-start") < log.index(
        "Engine core initialization failed. See root cause above."
    )
    assert "ERROR" in log


# Start and stop


def test_sigterm_ends_open_streams_and_exits_0():
    with running(*SLOW) as engine:
        body = {"prompt": "a", "stream": True, "max_tokens": 4000, "ignore_eos": True}
        with engine.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            engine.process.send_signal(signal.SIGTERM)
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                list(lines)
        assert engine.wait()[0] == 0


def test_sigterm_does_not_wait_for_a_long_step():
    with running("--step", "modelled", "--prefill-ms-per-token", "600000") as engine:
        body = {"prompt": "a", "stream": True, "max_tokens": 1}
        with engine.client.stream("POST", "/v1/completions", json=body):
            engine.process.terminate()
            code, log = engine.wait()
    assert code == 0
    assert "Traceback" not in log


def test_the_log_tells_the_settings(decoder):
    assert "INFO" in decoder.log
    assert "non-default args: {'max_model_len': 512}" in decoder.log
    assert "at most 16 requests at once" in decoder.log


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--max-num-seqs", "0"], 1, "--max-num-seqs is 0; allowed: at least 1"),
        (["--max-num-sequences", "1"], 2, "did you mean --max-num-seqs?"),
        (["--host", "no.such.host.invalid"], 1, "does not resolve"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, code, message):
    with launch(*arguments) as process:
        log = process.stderr.read()
        assert process.wait(60) == code
    errors = [line for line in log.splitlines() if "INFO" not in line]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_port_in_use_is_one_line(modelled: Running):
    with launch("--port", str(modelled.port)) as process:
        log = process.stderr.read()
        assert process.wait(60) == 1
    (error,) = [line for line in log.splitlines() if "INFO" not in line]
    assert re.match(rf"ERROR .*Cannot listen on 127.0.0.1 port {modelled.port}: Address already in use", error)


def test_an_emission_log_that_cannot_be_written_is_an_error(tmp_path: Path):
    with launch("--port", "0", *FAST, "--emission-log", str(tmp_path / "missing" / "log")) as process:
        log = process.stderr.read()
        assert process.wait(60) == 1
    assert "No such file or directory" in log
