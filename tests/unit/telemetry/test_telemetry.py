"""The sampler beside a run: what it tells of real servers and processes, and what becomes of what it cannot have."""

import http.server
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from textwrap import dedent
from types import SimpleNamespace

import pytest
from samples import record, result, run, server

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.report.media import report_document
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.servers.server import sources
from pytest_llmperf.telemetry import sampler, watch
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.watch import MetricsSource, Sources, telemetry, watcher

VLLM = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b"} 3.0
vllm:num_requests_running{engine="1",model_name="a } b"} 4.0
vllm:num_requests_waiting{engine="0"} NaN
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:e2e_request_latency_seconds_sum 7
"""


def seen(sources, until, interval_s=0.02):
    """What a sampler process saw when `until` was first true of it."""
    with watcher() as watching:
        before, watch.INTERVAL_S = watch.INTERVAL_S, interval_s
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                watching.begin(sources)
                time.sleep(0.1)  # samples are made of time
                found = watching.end()
                if until(found):
                    return found
        finally:
            watch.INTERVAL_S = before
    raise AssertionError(found)


@contextmanager
def answering(handle):
    """An HTTP server whose GET is `handle(self)`; its URL, and the headers of what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(dict(self.headers))
            handle(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/metrics", asked
        finally:
            listening.shutdown()
            thread.join()


def say(body, status=200, **headers):
    def handle(request):
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return handle


def hang_up(request):
    request.close_connection = True


def test_labels_are_combined():
    assert sampler.parse(VLLM) == {"requests_running": 7.0, "kv_cache_usage": 0.5}


def test_headers_reach_the_server_and_nothing_that_is_stored():
    with answering(say(VLLM)) as (url, asked):
        secret = MetricsSource("s", url + "?key=hidden", (("Authorization", "Bearer hidden"),))
        found = seen(Sources(metrics=(secret,)), lambda found: found.tracks)
    assert asked[0]["Authorization"] == "Bearer hidden"
    assert "hidden" not in repr(found) + repr(secret)


@pytest.mark.parametrize(
    ("handle", "note"),
    [
        (say(b"", 404), "s: its metrics answer HTTP 404"),
        (say(b"process_cpu_seconds_total 3\n"), "s: its metrics hold none of the names that are known"),
        (hang_up, "s: not every sample could be had (RemoteDisconnected)"),
    ],
)
def test_what_cannot_be_had_is_a_note_and_no_number(handle, note):
    with answering(handle) as (url, _):
        found = seen(Sources(metrics=(MetricsSource("s", url, ()),)), lambda found: found.notes)
    assert (found.tracks, found.notes) == ((), (note,))


def test_a_gateway_that_refuses_one_question_ends_no_source():
    stop, statuses = threading.Event(), [503, 429, 200]

    def handle(request):
        status = statuses.pop(0)
        if not statuses:
            stop.set()
        say(VLLM, status, Connection="close")(request)

    with answering(handle) as (url, _):
        log = sampler.SourceLog("s", sampler.metrics_reader(url, {}))
        log.follow(stop, 0.0)
    told = log.as_dict()
    assert (len(told["at_ns"]), told["note"]) == (1, "not every sample could be had (HTTP 429)")


def test_no_source_ends_without_a_word():
    log = sampler.SourceLog("s", iter([{"x": 1.0}]).__next__)
    log.follow(threading.Event(), 0.0)
    assert log.as_dict()["note"] == "it could not be sampled any more (StopIteration)"


def test_a_sampler_that_has_died_is_a_note():
    before = sampler.family(os.getpid())
    with watcher() as watching:
        (pid,) = sampler.family(os.getpid()) - before
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        watching.begin(Sources(processes=(("s", 1),)))
        assert watching.end().notes == ("the sampler gave no answer",)


def test_a_server_that_never_answers_holds_nothing_up():
    asked, over = threading.Event(), threading.Event()

    def handle(request):
        asked.set()
        over.wait(60)
        request.close_connection = True

    with answering(handle) as (url, _), watcher() as watching:
        watching.begin(Sources(metrics=(MetricsSource("s", url, ()),)))
        assert asked.wait(60)
        found = watching.end()
        assert not over.is_set(), "the question was still open"
        over.set()
    assert found.tracks == ()


def test_a_long_run_keeps_a_bounded_number_of_samples():
    count = iter(range(10_000))
    stop = threading.Event()

    def read():
        number = next(count)
        if number == 5 * sampler.MOST:
            stop.set()
        return {"requests_running": float(number)}

    track = sampler.SourceLog("s", read)
    track.follow(stop, 0.0)
    told = track.as_dict()
    assert sampler.MOST / 2 <= len(told["at_ns"]) <= sampler.MOST + 1
    assert told["values"]["requests_running"][0] == 0.0
    assert told["values"]["requests_running"][-1] >= 4 * sampler.MOST


def test_a_gpu_without_nvml_is_absent_and_not_zero():
    found = seen(Sources(gpus=(("GPU 0", "0"),)), lambda found: found.notes)
    assert found.tracks == ()
    assert found.notes[0].startswith("GPU 0: NVML")


def test_gpus_are_asked_through_nvmls_module(tmp_path, monkeypatch):
    (tmp_path / "pynvml.py").write_text(
        dedent("""
        from types import SimpleNamespace

        class NVMLError(Exception):
            pass

        def nvmlInit(): pass
        def nvmlDeviceGetHandleByIndex(index): return ("index", index)
        def nvmlDeviceGetHandleByUUID(uuid): return ("uuid", uuid)
        def nvmlDeviceGetUtilizationRates(handle): return SimpleNamespace(gpu=87, memory=40)
        def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=2, free=1, used=3 << 30)
        def nvmlDeviceGetPowerUsage(handle):
            if handle == ("index", 1): return 350_000
            raise NVMLError("Not Supported")
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = Sources(gpus=(("GPU 1", "1"), ("MIG", "MIG-7")))
    one, mig = seen(asked, lambda found: len(found.tracks) == 2).tracks
    assert {name: values[0] for name, values in one.series} == {
        "gpu_utilization": 0.87,
        "gpu_memory_bytes": 3 << 30,
        "gpu_power_w": 350.0,
    }
    assert [name for name, _ in mig.series] == ["gpu_utilization", "gpu_memory_bytes"]


def test_processes_below_the_supervisor_are_counted():
    child = "import time\nwhile True: time.sleep(0.001)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], timeout=60)"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        try:
            asked = Sources(processes=(("s", process.pid),))
            found = seen(asked, lambda f: f.tracks and any(x for x in dict(f.tracks[0].series).get("cpu_cores", ())))
            assert min(dict(found.tracks[0].series)["rss_bytes"]) > 1 << 20
        finally:
            os.killpg(process.pid, 9)


def test_two_samples_within_a_tick_tell_no_processor_time(monkeypatch):
    """The second comes at once, as after a late one: 0 cores would say that nothing was done."""
    moments = iter([10.0, 10.001, 10.5])
    monkeypatch.setattr(sampler, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    rows = sampler.process_rows(os.getppid())
    found = [next(rows) for _ in range(3)]
    assert ["cpu_cores" in row for row in found] == [False, False, True]


def test_a_late_sample_is_not_followed_at_once(monkeypatch):
    """A source that answers after three intervals: each wait from one sample to the next is an interval's at least."""
    now, waits = [0.0], []

    class Stop:
        def wait(self, seconds):
            waits.append(seconds)
            now[0] += seconds
            return len(waits) > 5

    def read():
        now[0] += 1.5
        return {"x": 1.0}

    monkeypatch.setattr(sampler, "time", SimpleNamespace(monotonic=lambda: now[0], time_ns=time.time_ns))
    sampler.SourceLog("s", read).follow(Stop(), 0.5)
    assert min(waits[1:]) == pytest.approx(0.3)


def test_counters_become_what_a_reader_wants():
    raw = {
        "source": "t",
        "note": "",
        "at_ns": [1, 2, 3, 4],
        "values": {
            "queue_us": [1000.0, 9000.0, None, 9000.0],
            "requests_finished": [1.0, 5.0, 5.0, 5.0],
            "preemptions": [7.0, 9.0, None, 2.0],
        },
    }
    (track,) = telemetry([raw]).tracks
    assert dict(track.series) == {"queue_ms": (None, 2.0, None, None), "preemptions": (0.0, 2.0, None, 4.0)}, (
        "it was started anew after the second"
    )


@pytest.mark.parametrize("late", ["that it is ready", "answer"])
def test_what_the_sampler_says_too_late_is_not_taken_for_what_it_is_asked_next(monkeypatch, late):
    sampled = threading.Semaphore(0)

    def handle(request):
        say(VLLM)(request)
        if request.path == "/metrics?next":
            sampled.release()

    monkeypatch.setattr(watch, "INTERVAL_S", 0.02)
    with answering(handle) as (url, _), watcher() as watching:
        monkeypatch.setattr(watch, "_ANSWER_S", 0.0)
        if late == "answer":
            watching.begin(Sources(metrics=(MetricsSource("before", url, ()),)))
            watching.end()
        watching.begin(Sources(metrics=(MetricsSource("next", f"{url}?next", ()),)))
        monkeypatch.setattr(watch, "_ANSWER_S", 60.0)
        for _ in range(2):
            assert sampled.acquire(timeout=60)
        found = watching.end()
    assert [track.source for track in found.tracks] == ["next"]


def test_no_answer_is_a_note():
    assert telemetry(None).notes == ("the sampler gave no answer",)


def test_what_is_asked_of_each_kind_of_server():
    gpus = (Gpu("0", "H200"),)
    local = (Target("http://127.0.0.1:1", "m", (("Authorization", "x"),)),)
    own = sources(server("{engine: vllm}"), local, (), gpus)
    assert own.metrics[0].url == "http://127.0.0.1:1/metrics"
    assert own.gpus == (("GPU 0", "0"),)
    remote = server("{engine: openai, url: 'http://a:1', server_metrics: 'http://b:2/metrics'}")
    (question,) = sources(remote, local, (), ()).metrics
    assert (question.url, question.headers) == ("http://b:2/metrics", ()), "credentials are for the server alone"
    assert not server("{engine: openai, url: 'http://a:1'}").is_sampled
    triton = server("{engine: triton-remote, url: 'http://a:1', metrics: 'http://a:2/metrics'}")
    assert triton.is_sampled
    target = replace(local[0], metrics=triton.metrics)
    assert sources(triton, (target,), (), ()).metrics[0].url == "http://a:2/metrics"


@pytest.mark.parametrize(("engine", "key"), [("openai", "server_metrics"), ("triton-remote", "metrics")])
@pytest.mark.parametrize(
    "given",
    ["ftp://a/metrics", "http://me:secret@a/metrics", "metrics", "10.0.0.5:8002/metrics", "http://a:90900/metrics"],
)
def test_a_metrics_url_that_is_none_is_refused(engine, key, given):
    with pytest.raises(PlanError, match=f"servers.a.{key}: "):
        server(f"{{engine: {engine}, url: 'http://a:1', {key}: '{given}'}}")


def test_a_metrics_url_may_name_variables():
    assert server("{engine: triton-remote, url: 'http://a:1', metrics: 'http://${HOST}:${PORT}/metrics'}").is_sampled


def test_without_telemetry_the_document_says_nothing():
    document = report_document([Outcome("t", "p", result([run([record()])]))], datetime.now(UTC))
    assert "telemetry" not in document["points"][0]["runs"][0]
