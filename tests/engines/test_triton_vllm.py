"""Triton's vLLM backend on the CPU; skipped where its sources, which no package holds, were not put into .engines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.servers.start import start_server

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / ".engines" / "triton-vllm" / "bin" / "tritonserver"


@pytest.mark.skipif(not ENGINE.exists(), reason="needs .engines/triton-vllm: make engine-triton-vllm")
def test_vllm_inside_triton(tmp_path: Path) -> None:
    """Streams over both clients with vLLM's own counts, its metrics beside them, and none of its processes left."""
    config = load_plan(ROOT / "perf_tests" / "triton_vllm.yaml").server_configs()[1]
    with start_server(config, tmp_path, ()) as server:
        supervisor = server.processes[0].handle.pid
        family = _family(supervisor)
        for endpoint in ("generate", "grpc"):
            load = {"endpoint": endpoint, "input_tokens": 8, "output_tokens": 12, "concurrency": 4, "requests": 8}
            runs: list[Run] = []
            asyncio.run(Measurement(server, LoadSpec.model_validate(load).points("l")[0], "l", runs.append).run())
            for record in runs[-1].records:
                assert (record.error, record.output_tokens, record.token_source) == (None, 12, "usage")
            side = runs[-1].server_side
            assert side is not None
            grown = {name.partition("{")[0]: value for name, value in side.metrics}
            assert grown["vllm:generation_tokens_total"] == 12 * len(runs[-1].records)
        assert any("EngineCor" in name for name in family.values())
    assert not [pid for pid in family if _name(pid) == family[pid]]


def _family(root: int) -> dict[int, str]:
    """Names of all descendants, by process id."""
    found: dict[int, str] = {}
    more = [root]
    while more:
        pid = more.pop()
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            children = [int(child) for child in task.read_text().split()]
            found |= {child: _name(child) for child in children}
            more += children
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
