"""The driver against the embedded engine, whose emission log is the truth: what was measured is what was sent."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from embedded_engine import embedded_engine, small_load

from pytest_llmperf.embedded.truth import Emission, read_emission_log
from pytest_llmperf.load import driver
from pytest_llmperf.load.driver import run_load, warm_up
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.load.transport.tape import Store
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.trust.saturation import saturation
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import RequestRecord, Run

CLOCKS_NS = 2_000
"""Kernel and user space read the same clock at different resolution."""


def _run(url: str, point: LoadPoint, *, every_chunk: bool = True) -> Run:
    targets = (Target(url, "embedded", continuous_usage=every_chunk),)
    return asyncio.run(run_load(targets, point, make_trace(point, "key"), run_index=0))


def _check_against_truth(record: RequestRecord, truth: Emission) -> None:
    """`token_ns` is noted just after the write, so that a loopback stamp may lie before it, but not before the last."""
    assert record.error is None
    assert record.sent_ns is not None
    assert record.sent_ns <= truth.received_ns
    assert record.output_tokens == len(truth.token_ns)
    assert record.input_tokens == truth.prompt_tokens
    assert len(record.chunk_ns) == len(truth.tokens_per_chunk)
    assert record.chunk_tokens in (None, truth.tokens_per_chunk)
    assert list(record.chunk_ns) == sorted(record.chunk_ns)
    firsts = [sum(truth.tokens_per_chunk[:chunk]) for chunk in range(len(truth.tokens_per_chunk))]
    written = [truth.first_scheduled_ns, *(truth.token_ns[first] for first in firsts)]
    for received, before in zip(record.chunk_ns, written, strict=False):
        assert received >= before - CLOCKS_NS
    assert record.end_ns >= record.chunk_ns[-1]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("every_chunk", [True, False], ids=["every-chunk", "last-chunk"])
@pytest.mark.parametrize("load", [{}, {"concurrency": None, "request_rate": 100.0}], ids=["closed", "open"])
@pytest.mark.parametrize(
    "engine",
    [(), ("--stream-interval", "4"), ("--split-writes",), ("--crlf",), ("--role-chunk-first",)],
    ids=["plain", "several tokens", "split writes", "crlf", "role chunk first"],
)
def test_what_is_measured_is_what_was_sent(
    endpoint: str, every_chunk: bool, load: dict[str, Any], engine: tuple[str, ...], tmp_path: Path
) -> None:
    log = tmp_path / "truth.jsonl"
    with embedded_engine("--emission-log", str(log), *engine) as url:
        run = _run(url, small_load(endpoint=endpoint, **load), every_chunk=every_chunk)
    truth = {emission.request_id: emission for emission in read_emission_log(log)}
    assert len(truth) == len(run.records) == (8 if load else 12)
    assert run.client.stamps == "kernel"
    for record in run.records:
        _check_against_truth(record, truth[record.request_id])


@pytest.mark.parametrize("every_chunk", [True, False], ids=["every-chunk", "last-chunk"])
def test_empty_text_is_a_token_exactly_when_the_server_says_so(every_chunk: bool, tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"
    with embedded_engine("--emission-log", str(log), "--empty-text-every", "3") as url:
        run = _run(url, small_load(), every_chunk=every_chunk)
    for record in run.records:
        assert record.output_tokens == 12
        assert record.token_source == "usage"
        assert len(record.chunk_ns) == 12 if every_chunk else len(record.chunk_ns) < 12


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("status", "HTTP 503: "),
        ("stream-error", "error in the stream: "),
        ("disconnect", "connection closed by the server in the middle of the response"),
        ("hang", "no further data within 2 s (no_data_timeout)"),
    ],
)
def test_every_third_request_fails_and_only_these(fault: str, error: str) -> None:
    with embedded_engine(f"--fault-{fault}-every", "3") as url:
        run = _run(url, small_load(no_data_timeout="2 s" if fault == "hang" else "60 s"))
    failed = [record for record in run.records if record.error]
    assert len(failed) == 4
    assert all((record.error or "").startswith(error) for record in failed)
    assert {record.output_tokens for record in run.records if record.ok} == {12}
    if fault != "status":
        assert {len(record.chunk_ns) for record in failed} == {2}


def test_server_that_dies_in_the_middle() -> None:
    with embedded_engine("--fault-die-after", "6") as url:
        run = _run(url, small_load())
    assert len(run.records) == 12
    assert 0 < sum(record.error is not None for record in run.records) < 12


def test_no_run_finds_its_prompts_in_the_prefix_cache() -> None:
    """Though each sends the same trace: the engine counts what it took from its cache."""
    point = small_load(endpoint="completions", input_tokens=100, warmup_requests=4)
    trace = make_trace(point, "key")

    async def main(url: str) -> list[Run]:
        targets = (Target(url, "embedded"),)
        await warm_up(targets, point, trace)
        return [await run_load(targets, point, trace, run_index=index) for index in range(2)]

    with embedded_engine() as url:
        runs = asyncio.run(main(url))
        metrics = httpx.get(f"{url}/metrics").text
    assert runs[0].trace_hash == runs[1].trace_hash
    counts = dict(re.findall(r"^\S*prefix_cache_(queries|hits)_total\S* (\S+)$", metrics, re.MULTILINE))
    assert float(counts["queries"]) > 0
    assert float(counts["hits"]) == 0


def _cache_counts(url: str) -> tuple[float, float]:
    """Tokens looked up in the engine's prefix cache, and tokens found there."""
    metrics = httpx.get(f"{url}/metrics").text
    counts = dict(re.findall(r"^\S*prefix_cache_(queries|hits)_total\S* (\S+)$", metrics, re.MULTILINE))
    return float(counts["queries"]), float(counts["hits"])


def test_shared_prefixes_are_found_in_the_prefix_cache_and_only_they() -> None:
    point = small_load(endpoint="completions", shared_prefix={"prefixes": 2, "tokens": 160}, warmup_requests=1)
    trace = make_trace(point, "key")

    async def main(url: str) -> Run:
        targets = (Target(url, "embedded"),)
        await warm_up(targets, point, trace)
        return await run_load(targets, point, trace, run_index=0)

    with embedded_engine() as url:
        run = asyncio.run(main(url))
        _, hits = _cache_counts(url)
    assert {record.error for record in run.records} == {None}
    assert {record.input_tokens for record in run.records} == {180}
    assert hits / len(run.records) == pytest.approx(160, abs=16)


def test_dataset_entries_are_found_when_they_come_again_in_a_run() -> None:
    point = small_load(endpoint="completions", input_tokens=160, dataset_entries=4, concurrency=4, requests=8)
    with embedded_engine() as url:
        _run(url, point)
        _, hits = _cache_counts(url)
    assert hits / 8 == pytest.approx(160, abs=17)


@pytest.mark.parametrize("tokens", [5, 200])
def test_token_ids_are_exactly_as_many_as_asked_for(tokens: int) -> None:
    lengths = {"mean": 50, "sd": 10, "min": 20}
    point = small_load(endpoint="completions", prompt_as="token-ids", input_tokens=tokens, output_tokens=lengths)
    with embedded_engine() as url:
        run = _run(url, point)
    assert {(record.input_tokens, record.input_tokens_source) for record in run.records} == {(tokens, "usage")}
    assert [record.output_tokens for record in run.records] == [r.requested_output_tokens for r in run.records]
    assert len({record.output_tokens for record in run.records}) > 4


def test_a_warm_cache_has_every_prompt_of_every_run() -> None:
    point = small_load(input_tokens=64, concurrency=2, requests=6, prefix_cache="warm")
    trace = make_trace(point, "key")
    with embedded_engine() as url:
        targets = (Target(url, "embedded"),)
        asyncio.run(warm_up(targets, point, trace, salt="a"))
        _, before = _cache_counts(url)
        for index in (0, 1):
            asyncio.run(run_load(targets, point, trace, run_index=index, salt=str(index)))
        _, after = _cache_counts(url)
    assert after - before >= 2 * 8 * 48, "all but the last block of every prompt"


def test_conversations_grow_by_what_was_said_and_find_it_in_the_cache() -> None:
    """Template: one token before and one after each message, one that opens the answer."""
    point = small_load(conversation={"turns": 3, "think_time": "1 ms"}, concurrency=3, requests=12, output_tokens=32)
    with embedded_engine() as url:
        run = _run(url, point)
        _, hits = _cache_counts(url)
    assert {record.error for record in run.records} == {None}
    for record in run.records:
        least = (20 + 2) * (record.turn + 1) + 2 * record.turn + 1
        assert record.input_tokens is not None
        assert least <= record.input_tokens
        assert record.output_tokens == 32
        assert record.input_tokens >= least + 20 * record.turn
    assert hits > 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", '{"input": "what about the time"}\n{"input": "who are you"}\n'),
        ("x.csv", "prompt\nwhat about the time\nwho are you\n"),
        ("x.json", '[{"conversations": [{"from": "human", "value": "what about the time"}]}]'),
    ],
)
def test_prompts_of_a_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with embedded_engine() as url:
        run = _run(url, small_load(input_tokens=None, prompts={"file": str(tmp_path / name)}))
    assert {record.error for record in run.records} == {None}
    # Three words of mark, three or four of the prompt, and the template around them.
    assert {record.input_tokens for record in run.records} <= {9, 10}


def test_a_role_chunk_sent_early_is_vllms_first_token_and_nobody_elses() -> None:
    with embedded_engine("--role-chunk-first", "--prefill-ms-per-token", "3") as url:
        run = _run(url, small_load())
    vllm, aiperf = (dialect_metrics(name, [run]) for name in ("vllm", "aiperf"))
    assert all(record.tokenless_ns[0] < record.chunk_ns[0] for record in run.records)
    assert vllm["ttft_ms"]["mean"] < aiperf["time_to_first_token"]["mean"] - 10
    assert vllm["itl_ms"]["n"] == aiperf["inter_chunk_latency"]["n"] + len(run.records)


def test_the_tools_that_time_chunks_with_text_pass_over_empty_ones() -> None:
    with embedded_engine("--empty-text-every", "3") as url:
        run = _run(url, small_load())
    assert {len(record.textless_chunks) for record in run.records} == {3}
    vllm, aiperf = (dialect_metrics(name, [run]) for name in ("vllm", "aiperf"))
    assert vllm["itl_ms"]["n"] > aiperf["inter_chunk_latency"]["n"]


@pytest.mark.parametrize(("rate", "saturated"), [(20.0, False), (400.0, True)], ids=["below", "above"])
def test_a_rate_above_what_the_engine_takes_is_seen(rate: float, saturated: bool) -> None:
    """Two requests at once of 12 tokens at 2 ms each: some 80 requests per second."""
    point = small_load(concurrency=None, request_rate=rate, requests=40 if rate < 100 else 200)
    with embedded_engine("--max-num-seqs", "2") as url:
        found = saturation(_run(url, point), point)
    assert found is not None
    assert found.saturated is saturated


def test_a_capture_that_does_not_fit_in_memory_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tape goes to the file several times while it grows."""
    moved: list[int] = []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda store, data: moved.append(len(data)) or write(store, data))
    monkeypatch.setattr(driver, "KEPT_BYTES", 1_000)
    with embedded_engine() as url:
        run = _run(url, small_load(output_tokens=200, requests=8, concurrency=4))
    assert len(moved) > 4
    assert [record.error for record in run.records] == [None] * len(run.records)
    assert all(len(record.chunk_ns) == record.output_tokens == 200 for record in run.records)
