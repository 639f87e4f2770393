"""`llmperf profile` against the token source of benchmarks/client: what is reported is what was really sent."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "client"
_TOKENS = 20
_CLOCKS_NS = 2_000
"""Kernel and user space read the same clock at different resolution."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="the token source needs Linux and a C compiler"
)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_BENCHMARK))
    return importlib.import_module("source")


def _profile(url: str, output: Path, *options: str, exit_code: int = 0) -> list[dict[str, Any]]:
    """The lines of the requests file."""
    program = Path(sys.executable).with_name("llmperf")
    load = ("--concurrency", "4", "--requests", "8", "--input-tokens", "10", "--output-tokens", str(_TOKENS))
    command = [str(program), "profile", "--url", url, "--model", "source", *load, *options, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return [json.loads(line) for line in (output / "requests" / "profile.jsonl").read_text().splitlines()]


def _check(line: dict[str, Any], sent: Any) -> None:
    """Over loopback the kernel receives a chunk while the source is still writing it."""
    assert line["error"] is None
    assert line["output_tokens"] == sent.tokens == _TOKENS
    assert line["sent_ns"] <= sent.arrived_ns + _CLOCKS_NS
    assert len(line["chunk_ns"]) == len(sent.before_ns)
    received, before, after = line["chunk_ns"], sent.before_ns.tolist(), sent.after_ns.tolist()
    assert all(stamp >= write - _CLOCKS_NS for stamp, write in zip(received, before, strict=True))
    if not line["coalesced_chunks"]:
        # The last read may hold the usage too, and then has the time of that.
        assert all(stamp <= written + _CLOCKS_NS for stamp, written in zip(received[:-1], after[:-1], strict=True))


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize(
    "options",
    [(), ("--role", "early"), ("--role", "none"), ("--tokens-per-chunk", "3"), ("--max-running", "2")],
    ids=["plain", "early role", "no role", "several tokens", "queue"],
)
def test_receive_stamps_lie_within_the_true_writes(
    source: ModuleType, options: tuple[str, ...], endpoint: str, tmp_path: Path
) -> None:
    program = source.build(tmp_path)
    fast = ("--ttft-ms", "5", "--interval-ms", "2")
    with source.running(program, tmp_path / "truth.bin", [*fast, *options]) as served:
        lines = _profile(served.url, tmp_path / "out", "--endpoint", endpoint, "--warmup-requests", "0")
    truth = {sent.id: sent for sent in served.sent}
    assert {line["request_id"] for line in lines} <= set(truth)
    (run,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"][0]["runs"]
    # A run that a busy machine has spoiled was done over, and the source has served it that often; once it is asked
    # whether it is ready.
    assert len(truth) - 1 == (1 + run["repeats"]) * len(lines) == (1 + run["repeats"]) * 12
    assert run["repeats"] or served.stats["chunks"] - 1 == sum(len(line["chunk_ns"]) for line in lines)
    for line in lines:
        _check(line, truth[line["request_id"]])


def test_every_fifth_request_is_refused(source: ModuleType, tmp_path: Path) -> None:
    program = source.build(tmp_path)
    with source.running(program, tmp_path / "truth.bin", ["--interval-ms", "1", "--fail-every", "5"]) as served:
        lines = _profile(served.url, tmp_path / "out", "--warmup-requests", "0", exit_code=1)
    refused = {sent.id for sent in served.sent if sent.status == 503}
    assert len(refused) == 2
    assert {line["request_id"] for line in lines if line["error"]} == refused


def test_a_reading_of_the_benchmark_and_its_tables(tmp_path: Path) -> None:
    """The scripts of the benchmark, as `make bench-client` calls them, on a load of nothing."""
    readings, core = tmp_path / "readings.jsonl", str(min(os.sched_getaffinity(0)))
    small = ("--streams", "2", "--per-slot", "2", "--tokens", "8", "--repeats", "1", "--tries", "1", "--quiet-s", "0")
    chosen = ("--tools", "llmperf", "--kinds", "load", "--probes", "none,queue", "--cores", core)
    table = _script("measure.py", *small, *chosen, "--json", str(readings))
    assert "| streams | tool |" in table  # a row too, unless other work takes a whole core
    plain, queue = map(json.loads, readings.read_text().splitlines())
    assert (plain["error"], plain["exit_code"], plain["reported"]["load"]["requests"]) == (None, 0, 2)
    assert plain["stamp_errors_us"]["n"] == 2 * 8
    assert queue["probe"] == "queue"
    assert "| llmperf | not measured |" in _script("probes.py", str(readings))
    assert "times better" in _script("ratios.py", str(readings))


def _script(name: str, *options: str) -> str:
    command = [sys.executable, str(_BENCHMARK / name), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
