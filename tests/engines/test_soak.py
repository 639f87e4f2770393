"""Sessions one after the other in one process: what a session held is free again when it is over (`make soak`)."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import sys
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from embedded_engine import small_load

from pytest_llmperf.plan.server.engines.remote import OpenAIServer
from pytest_llmperf.records import RequestRecord
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.session.fixtures import LoadDriver
from pytest_llmperf.session.state import prepare

_SESSIONS = int(os.environ.get("LLMPERF_SOAK_SESSIONS", "5"))
_STREAMS = int(os.environ.get("LLMPERF_SOAK_STREAMS", "64"))
_TOKENS = 200
_SETTLED = _SESSIONS // 2
"""Sessions after which caches are full and the allocator's free lists no longer grow."""
_MOST_MIB, _MOST_OBJECTS = 12.0, 1000
"""What the process may grow by from then on: of `make soak` half of what the tokens take while they are held."""
_BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "client"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="the token source needs Linux and a C compiler"
)


def _measured(url: str, folder: Path) -> tuple[int, int]:
    """Numbers of streams and tokens of a whole session of one run."""
    given = defaultdict[str, Any](lambda: None, {"margins": [], "output": str(folder / "out"), "runs": 1})
    session = prepare(given, folder, folder).begin(Live())
    config = OpenAIServer.model_validate(
        {"name": "a", "engine": "openai", "model": "source", "url": url, "ready": False}
    )
    load = small_load(name="short", concurrency=32, requests=_STREAMS, output_tokens=_TOKENS)
    with start_server(config, folder, ()) as server:
        (run,) = LoadDriver(session, "test_perf.py::test_it[a-short]", None).run(server, load).runs
    assert not [record.error for record in run.records if record.error]
    return len(run.records), sum(record.output_tokens or 0 for record in run.records)


def _state() -> dict[str, float]:
    gc.collect()
    objects = gc.get_objects()
    return {
        "MiB": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "objects": len(objects),
        "records": sum(type(one) is RequestRecord for one in objects),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def test_memory_is_flat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, any_machine: None) -> None:
    monkeypatch.syspath_prepend(str(_BENCHMARK))
    source = importlib.import_module("source")
    total, states = Counter[str](), []
    fast = ["--ttft-ms", "2", "--interval-ms", "2"]
    with source.running(source.build(tmp_path), tmp_path / "truth.bin", fast) as served:
        for number in range(_SESSIONS):
            folder = tmp_path / str(number)
            folder.mkdir()
            streams, tokens = _measured(served.url, folder)
            shutil.rmtree(folder)
            total.update(streams=streams, tokens=tokens)
            states.append(_state())
            sys.stdout.write(f"{ {**total, **states[-1]} }\n")
    settled, last = states[_SETTLED - 1], states[-1]
    assert last["records"] == 0
    assert last["threads"] <= settled["threads"]
    assert last["descriptors"] <= settled["descriptors"]
    assert last["objects"] <= settled["objects"] + _MOST_OBJECTS
    assert last["MiB"] <= settled["MiB"] + _MOST_MIB
