"""What a measurement of the embedded engine has: telemetry, and all prompts of a longer trace in a warm cache."""

import asyncio
import json
import re
from datetime import UTC, datetime

import httpx
from samples import point, result, server

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.report.media import report_document
from pytest_llmperf.runner.measure.length import RunLength
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.servers.start import start_server

EMBEDDED = "{engine: embedded, args: {step: modelled, max-num-seqs: 2, decode-ms-per-step: 5}}"


def test_a_run_on_a_real_server_has_its_series(tmp_path):
    load, runs = point(concurrency=4, requests=40, output_tokens=16, input_tokens=8), []
    with start_server(server(EMBEDDED), tmp_path, ()) as up:
        asyncio.run(Measurement(up, load, "k", runs.append).run())
    (found,) = runs
    engine, processes = found.telemetry.tracks
    values = dict(engine.series)
    assert max(values["requests_running"]) == 2, "max-num-seqs"
    assert max(values["requests_waiting"]) >= 1
    assert 0 < max(values["kv_cache_usage"]) < 1
    assert min(dict(processes.series)["rss_bytes"]) > 1 << 20
    assert found.telemetry.notes == ()
    assert len(engine.at_ns) == len(values["requests_running"])
    assert all(found.started_ns - 60e9 < at < found.ended_ns + 60e9 for at in engine.at_ns)
    document = report_document([Outcome("t", "p", result(runs))], datetime.now(UTC))
    (told,) = document["points"][0]["runs"]
    assert told["telemetry"]["tracks"][0]["series"]["requests_running"] == list(values["requests_running"])
    json.dumps(document, allow_nan=False)


def test_a_server_that_is_not_to_be_sampled_is_not(tmp_path):
    config, runs = server("{engine: embedded, server_metrics: false, args: {step: modelled}}"), []
    with start_server(config, tmp_path, ()) as up:
        asyncio.run(Measurement(up, point(requests=2, output_tokens=2, input_tokens=4), "k", runs.append).run())
    assert runs[0].telemetry is None


def test_a_warm_prefix_cache_is_filled_with_all_prompts_of_the_longer_trace(tmp_path):
    quick = {"step": "modelled", "decode-ms-per-step": 0.1, "step-overhead-ms": 0.1, "prefill-ms-per-token": 0.001}
    config = EmbeddedServer(name="one", engine="embedded", model="m", args=quick)
    load = point(input_tokens=32, output_tokens=2, concurrency=8, requests=40, prefix_cache="warm")
    load = load.model_copy(update={"length": "auto"})
    runs = []
    with start_server(config, tmp_path, ()) as server:
        length = RunLength(margins={Quantity("ttft", "mean"): 1e-6})
        asyncio.run(Measurement(server, load, "key", runs.append, length=length).run())
        metrics = httpx.get(f"{server.url}/metrics").text
    assert [len(run.measured) for run in runs] == [400]
    served = sum(map(float, re.findall(r"^vllm:request_success_total.* (\S+)$", metrics, re.MULTILINE)))
    assert served >= 40 + 2 * 40 + 400 + 400, "a warm-up, two passes, all prompts of the longer trace, and the run"
