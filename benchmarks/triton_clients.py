"""How late each client of Triton sees a token: its receive time minus the model's own time of sending.

    python benchmarks/triton_clients.py [--busy]     needs make engine-triton

The model sends every 5 ms and writes down when. The difference holds Triton's own way from the model to its port, which
is the same for both clients; the difference between the clients is the error of the later one. --busy keeps every core
busy meanwhile, as an engine on the same machine does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.servers.start import start_server

ROOT = Path(__file__).resolve().parents[1]
TOKENS, REQUESTS = 32, 40
CLIENTS = ("generate", "grpc")


def config(log: Path) -> TritonServer:
    model = {
        "backend": "python",
        "files": str(ROOT / "tests/engines/triton_models/timed"),
        "parameters": {"gap_ms": 5, "log": str(log)},
    }
    executable = str(ROOT / ".engines/triton/bin/tritonserver")
    given = {"engine": "triton", "name": "timed", "model": "timed", "executable": executable, "gpus": 0}
    return TritonServer.model_validate({**given, "models": {"timed": model}})


@contextlib.contextmanager
def busy(wanted: bool) -> Iterator[None]:
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(len(os.sched_getaffinity(0)) if wanted else 0)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def delays_us(run: Run, log: Path) -> np.ndarray:
    """Of every token of the run, in order; the requests are the last ones of the model's log."""
    sent = [times for line in log.read_text().splitlines() if len(times := json.loads(line)) == TOKENS]
    if failed := next((record.error for record in run.records if record.error), None):
        raise SystemExit(f"a request failed: {failed}")
    pairs = zip(run.records, sent[-len(run.records) :], strict=True)
    return np.array([np.subtract(record.chunk_ns, times) / 1e3 for record, times in pairs]).ravel()


def main() -> None:
    wanted = "--busy" in sys.argv
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        log = Path(folder) / "sent.jsonl"
        server = stack.enter_context(start_server(config(log), Path(folder), ()))
        print("client     stamps    p50 us   p99 us   max us  gap sd us  loop lag p99 ms")
        for client in CLIENTS:
            load = {"endpoint": client, "input_tokens": 8, "output_tokens": TOKENS, "requests": REQUESTS}
            point = LoadSpec.model_validate({**load, "concurrency": 1, "warmup_requests": 2}).points(client)[0]
            runs: list[Run] = []
            with busy(wanted):
                asyncio.run(Measurement(server, point, client, runs.append, workers=1).run())
            found, health = delays_us(runs[-1], log), runs[-1].client
            gaps = np.concatenate([np.diff(record.chunk_ns) / 1e3 for record in runs[-1].records])
            row = (*np.percentile(found, (50, 99)), found.max(), gaps.std())
            lag = f"{health.loop_lag_p99_ms or 0:16.2f}"
            print(f"{client:10} {health.stamps:7} {row[0]:8.0f} {row[1]:8.0f} {row[2]:8.0f} {row[3]:10.0f} {lag}")


if __name__ == "__main__":
    main()
