"""Whatever a file, a server or a node sends: it is read, or refused with an error of ours. Never anything else.

`make fuzz` runs each for minutes; `make test` for a few examples. What hypothesis finds it keeps in `.hypothesis`, and
what is found becomes an example here or a row of tests/faults.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.gate.baselines.file import read_baseline
from pytest_llmperf.history.session import session_of, stored_session
from pytest_llmperf.interchange.compressa.config import parse_experiments
from pytest_llmperf.interchange.readers.detect import parse_import
from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.load.transport.http.http1 import ProtocolError, ResponseReader
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.load.files.datasets import parse_dataset
from pytest_llmperf.plan.load.files.traces import parse_trace
from pytest_llmperf.plan.load.shapes import TraceReplay
from pytest_llmperf.runner.resume.stored_point import parse_point
from pytest_llmperf.servers.process.log import cause_of_death, first_error
from pytest_llmperf.telemetry.sampler import parse as parse_metrics
from tests.fuzz.mutations import bytes_like, json_like, text_like
from tests.unit.load.answers.test_interpret import PLANNED

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = int(os.environ.get("LLMPERF_FUZZ_EXAMPLES", "25"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

PLANS = sorted((ROOT / "perf_tests").glob("*.yaml"))
BASELINES = sorted((ROOT / "baselines").rglob("*.json"))[:2]
IMPORTS = sorted(
    path for path in (ROOT / "tests" / "unit" / "data").iterdir() if path.suffix in (".json", ".jsonl", ".csv")
)
RESPONSES = {
    "length": b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"a": [1]}\n',
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: x\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nno",
}
STREAM = (
    b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n'
    b': keep-alive\n\nevent: x\nid: 1\ndata: {"choices": [{"index": 0, "delta": {"reasoning_content": "b"}}]}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}\n\ndata: [DONE]\n\n'
)
METRICS = b"""# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
nv_inference_queue_duration_us{model="m",version="1"} 1.2e+06 1395066363000
"""
DATASETS = {
    "jsonl": '{"input": "a prompt", "output_tokens": 5}\n{"messages": [{"role": "user", "content": "b"}]}\n',
    "sharegpt": json.dumps([{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]),
    "csv": 'prompt,output_tokens\n"a, b",5\nc,6\n',
}
TRACES = {
    "mooncake": '{"timestamp": 0, "input_length": 20, "output_length": 3, "hash_ids": [1]}\n{"timestamp": 9, "input_length": 5, "output_length": 3, "hash_ids": [1]}\n',
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,37,4\n2023-11-16 18:15:47.1,3,4\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,4,2,6,Conversation log\n",
}
EXPERIMENTS = (
    "- {experiment_name: a, model_name: m, num_tasks: 3, num_runners: 1, generate_prompts: true, prompt_length: 9}\n"
)
REPORT = json.dumps(
    {
        "schema": "llmperf.report/1",
        "llmperf": "0.1.0",
        "started": "2026-01-01T00:00:00+00:00",
        "environments": {"e": {"engine": "vllm", "engine_version": "1"}},
        "points": [
            {
                "test": "t",
                "id": "p",
                "environment": "e",
                "valid": True,
                "server": {"args": {"tp": 4}},
                "load": {},
                "metrics": {"itl_ms": {"mean": 1.0, "p50": 1.0}, "error_rate": {"value": 0.0}},
                "runs": [
                    {
                        "run": 1,
                        "started": "2026-01-01T00:00:01+00:00",
                        "invalid_reasons": [],
                        "metrics": {"itl_ms": {"p50": 1}},
                    }
                ],
                "sla": {"checks": [{"quantity": "itl_p50", "verdict": "PASS"}]},
                "regression": {"verdict": "PASS", "metrics": []},
            }
        ],
    }
)
SESSION = json.dumps({"id": "a", "started": "2026-01-01T00:00:00+00:00", "commit": None, "version": "1", "points": []})


def read_or_refused(read: Callable[[], Any], *errors: type[Exception]) -> None:
    told = "read"
    try:
        read()
    except (LlmPerfError, *errors) as error:
        told = str(error)
    assert told


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
@fuzz
@given(data=st.data())
def test_plans(path: Path, data: st.DataObject) -> None:
    text = data.draw(text_like(path.read_text()))
    read_or_refused(lambda: parse_plan(text, "plan.yaml", path.parent))


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
@pytest.mark.parametrize("like", [text_like, json_like])
def test_baselines(path: Path, like: Callable[[str], st.SearchStrategy[str]], tmp_path: Path) -> None:
    file = tmp_path / path.name

    @fuzz
    @given(text=like(path.read_text()))
    def check(text: str) -> None:
        file.write_text(text, encoding="utf-8", errors="replace")
        read_or_refused(lambda: read_baseline(file))

    check()


@pytest.mark.parametrize("path", IMPORTS, ids=lambda path: path.name)
@fuzz
@given(data=st.data())
def test_files_of_other_tools(path: Path, data: st.DataObject) -> None:
    whole = path.read_text()
    like = json_like(whole) | text_like(whole) if path.suffix == ".json" and len(whole) < 300_000 else text_like(whole)
    text = data.draw(like)
    read_or_refused(lambda: parse_import(text, path.name))


@pytest.mark.parametrize("kind", DATASETS)
@fuzz
@given(data=st.data())
def test_prompts(kind: Any, data: st.DataObject) -> None:
    text = data.draw(text_like(DATASETS[kind]))
    read_or_refused(lambda: parse_dataset(text, kind, "prompts"))


@pytest.mark.parametrize("kind", TRACES)
@fuzz
@given(data=st.data())
def test_traces(kind: Any, data: st.DataObject) -> None:
    text = data.draw(text_like(TRACES[kind]))
    given_trace = TraceReplay.model_validate({"file": "trace", "format": kind})
    read_or_refused(lambda: parse_trace(text.splitlines(keepends=True), given_trace))


@fuzz
@given(text=json_like(REPORT) | text_like(REPORT))
def test_reports_for_the_history(text: str) -> None:
    read_or_refused(lambda: session_of(json.loads(text), "report.json"), ValueError)


@fuzz
@given(text=json_like(SESSION))
def test_exports_of_the_history(text: str) -> None:
    read_or_refused(lambda: stored_session(json.loads(text), "export"), ValueError)


@fuzz
@given(text=text_like(EXPERIMENTS))
def test_experiments(text: str) -> None:
    read_or_refused(lambda: parse_experiments(text, "config.yml"))


@fuzz
@given(text=text_like('{"schema": "llmperf.point/4", "test": "t", "asked": {}, "sides": []}') | st.text())
def test_stored_points(text: str) -> None:
    read_or_refused(lambda: parse_point(text.encode("utf-8", "replace"), "a point"))


@pytest.mark.parametrize("kind", RESPONSES)
@fuzz
@given(data=st.data())
def test_http(kind: str, data: st.DataObject) -> None:
    stream = data.draw(bytes_like(RESPONSES[kind]))
    cut = data.draw(st.integers(0, len(stream)))

    def read() -> None:
        reader = ResponseReader()
        for piece in (stream[:cut], stream[cut:]):
            if piece and not reader.complete:
                reader.feed(piece)
        reader.feed_eof()

    read_or_refused(read, ProtocolError)


@fuzz
@given(stream=bytes_like(STREAM), cut=st.integers(0, len(STREAM)))
def test_streams_become_records_whatever_is_in_them(stream: bytes, cut: int) -> None:
    cut = min(cut, len(stream))
    capture = Capture(
        sent_ns=500,
        ended_ns=99_999,
        kernel_ns=(1000, 2000),
        user_ns=(1050, 2050),
        ends=(cut, len(stream)),
        body=stream,
        status=200,
        content_type="text/event-stream",
        error=None,
    )
    record = AnswerReader().record(capture, PLANNED, "kernel", request_id="id", due_ns=None)
    assert record.error is None or record.error.isprintable()
    assert len(record.chunk_ns) <= len(stream)


@fuzz
@given(text=bytes_like(METRICS))
def test_metrics(text: bytes) -> None:
    assert all(isinstance(value, float) for value in parse_metrics(text).values())


@fuzz
@given(lines=st.lists(st.text(max_size=300), max_size=60))
def test_logs(lines: list[str]) -> None:
    for find in (first_error, cause_of_death):
        assert find(lines) is None or find(lines)
