"""The plugin against real vLLM on the CPU: healthy servers, every way in which they fail, and the committed plan."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.plan.server.engines.remote import OpenAIServer
from pytest_llmperf.plan.server.engines.vllm import VllmServer
from pytest_llmperf.servers.engines.commands import server_command
from pytest_llmperf.servers.process.process import run_process, wait_until
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / ".engines" / "vllm" / "bin" / "vllm"
MODEL = ROOT / ".engines" / "models" / "tiny-llama"
PATIENCE_S = 400.0

ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}
ARGS: dict[str, Any] = {
    "dtype": "bfloat16",
    "max-model-len": 1024,
    "served-model-name": "tiny",
    "enforce-eager": True,
    "kv-cache-memory-bytes": 64 << 20,
    "max-num-seqs": 8,
}
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
"""


@pytest.fixture(scope="module", autouse=True)
def vllm_engine() -> None:
    missing = [str(path.relative_to(ROOT)) for path in (ENGINE, MODEL) if not path.exists()]
    if not missing:
        return
    reason = f"needs {' and '.join(missing)}: make engine-vllm"
    if os.environ.get("LLMPERF_REQUIRE_ENGINES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def vllm_config(**changes: Any) -> VllmServer:
    """A server of the tiny model; `args` are added to ARGS, and what is None there is left out."""
    args = {name: value for name, value in (ARGS | changes.pop("args", {})).items() if value is not None}
    given = {"name": "tiny", "engine": "vllm", "model": str(MODEL), "executable": str(ENGINE), "gpus": 0}
    return VllmServer.model_validate({**given, "env": ENV, "args": args, "ready_timeout": "400 s", **changes})


class Suite:
    """A plan and its test in a folder, run by a pytest of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        (folder / "test_perf.py").write_text(TEST)
        (folder / "pytest.ini").write_text(
            "[pytest]\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function\n"
        )

    def plan(self, servers: dict[str, dict[str, Any]], loads: dict[str, dict[str, Any]], runs: int = 1) -> None:
        """JSON is YAML."""
        plan = {"model": "tiny", "runs": runs, "servers": servers, "loads": loads, "sla": {"error_rate": "<= 0"}}
        (self.folder / "plan.yaml").write_text(json.dumps(plan))

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "pytest", "-q", "-rs", f"--llmperf-output={self.output}", *args]

    def run(self, *args: str) -> str:
        """Everything that it printed."""
        done = subprocess.run(self.command(*args), cwd=self.folder, capture_output=True, text=True)
        return done.stdout + done.stderr

    def points(self) -> dict[str, dict[str, Any]]:
        report = json.loads((self.output / "report.json").read_text())
        return {point["id"]: point for point in report["points"]}

    def requests(self, point: str) -> list[dict[str, Any]]:
        """The measured requests of a point."""
        path = self.output / "requests" / f"test_perf.py.test_serving-{point}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if line["phase"] == "measured"]


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    return Suite(tmp_path)


def _launched(config: VllmServer) -> dict[str, Any]:
    """A configuration as a plan writes it."""
    data = config.as_dict()
    del data["name"]
    names = [name for name in data["args"] if name in ("dtype", "max-model-len")]
    return {**data, "unlocked": names, "ready_timeout": f"{config.ready_timeout} s"}


class Shared:
    """One healthy server for all tests that need no more; the first of them starts it."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._stack = contextlib.ExitStack()
        self._server: LlmServer | None = None

    def server(self) -> LlmServer:
        if self._server is None:
            self._server = self._stack.enter_context(start_server(vllm_config(), self._logs, ()))
        return self._server

    def stop(self) -> None:
        self._server = None
        self._stack.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = Shared(tmp_path_factory.mktemp("vllm"))
    yield shared
    shared.stop()


@pytest.fixture
def server(shared: Shared) -> LlmServer:
    return shared.server()


def _at(server: LlmServer) -> dict[str, Any]:
    """The running server as a plan's URL that is already up."""
    return {"engine": "openai", "url": server.url, "model": "tiny", "hardware": "here"}


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when there is no such process, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _family(root: int) -> set[tuple[int, str]]:
    """(pid, start time) of all living descendants."""
    facts = {pid: stat for pid in _pids() if (stat := _stat(pid))}
    found: set[int] = set()
    more = {root}
    while more:
        more = {pid for pid, stat in facts.items() if int(stat[1]) in more} - found
        found |= more
    return {(pid, facts[pid][19]) for pid in found}


def _alive(family: set[tuple[int, str]]) -> set[int]:
    return {pid for pid, started in family if (stat := _stat(pid)) and stat[19] == started}


def _engine_core(family: set[tuple[int, str]]) -> int:
    (pid,) = (pid for pid, _ in family if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM::EngineCor"))
    return pid


def _shared_memory_of(family: set[tuple[int, str]]) -> set[str]:
    """Names in /dev/shm that these processes have mapped; by inode, since semaphores are mapped under another name."""
    inodes = set()
    for pid in _alive(family):
        with contextlib.suppress(OSError):
            inodes |= {
                line.split()[4] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/dev/shm/" in line
            }
    return {path.name for path in Path("/dev/shm").iterdir() if str(path.stat().st_ino) in inodes}


# A healthy server


def test_the_server_answers_under_its_served_name(server: LlmServer) -> None:
    models = httpx.get(f"{server.url}/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["tiny"] == [target.model for target in server.targets]
    assert server.version == "0.32.0"
    server.check_alive()


@pytest.mark.parametrize("load", [{"concurrency": 4}, {"request_rate": 10}], ids=["closed loop", "constant rate"])
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_requests_are_what_was_asked_for(endpoint: str, load: dict[str, int], server: LlmServer, suite: Suite) -> None:
    shape = {"input_tokens": 24, "output_tokens": 32, "requests": 40, "stream_usage": "every-chunk"}
    suite.plan({"up": _at(server)}, {"short": {"endpoint": endpoint, **shape, **load}})
    assert "1 passed" in (output := suite.run()), output
    point = suite.points()["up-short"]
    assert (point["valid"], point["timestamps"], point["metrics"]["token_sources"]) == (True, "kernel", ["usage"])
    assert point["metrics"]["requests"] == {"sent": 40, "ok": 40, "failed": 0, "cancelled": 0}
    assert point["environment"] == "here-openai"
    for request in suite.requests("up-short"):
        assert (request["output_tokens"], request["finish_reason"], request["status"]) == (32, "length", 200)
        assert sum(request["chunk_tokens"]) == 32
        assert len(request["chunk_ns"]) == len(request["chunk_tokens"])
        assert request["input_tokens"] > 24
        assert request["sent_ns"] < request["chunk_ns"][0] <= request["chunk_ns"][-1] <= request["end_ns"]


def test_a_token_without_text_is_a_token(server: LlmServer, suite: Suite) -> None:
    body = {"model": "tiny", "prompt": "the and for", "stream": True, "max_tokens": 500, "ignore_eos": True}
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body | options, timeout=60).text
    events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    counts = [event["usage"]["completion_tokens"] for event in events if event["choices"]]
    empty = [event for event in events if event["choices"] and not event["choices"][0]["text"]]
    assert counts == sorted(set(counts)), "every chunk of this answer carries a token"
    assert empty, "some of them as bytes of a character that is not complete yet"

    shape = {"input_tokens": 24, "output_tokens": 500, "concurrency": 2, "requests": 4, "warmup_requests": 0}
    suite.plan({"up": _at(server)}, {"long": {"stream_usage": "every-chunk", **shape}})
    assert "1 passed" in (output := suite.run()), output
    for request in suite.requests("up-long"):
        assert sum(request["chunk_tokens"]) == request["output_tokens"] == 500
        assert len(request["chunk_ns"]) > 400  # a busy server sends some tokens together


def test_counts_come_from_the_last_chunk_too(server: LlmServer, suite: Suite) -> None:
    suite.plan(
        {"up": _at(server)}, {"short": {"input_tokens": 24, "output_tokens": 32, "concurrency": 4, "requests": 20}}
    )
    assert "1 passed" in (output := suite.run()), output
    for request in suite.requests("up-short"):
        assert (request["output_tokens"], request["token_source"], request["chunk_tokens"]) == (32, "usage", None)


def test_profile_from_the_shell(server: LlmServer, tmp_path: Path) -> None:
    llmperf = Path(sys.executable).with_name("llmperf")
    load = ["--concurrency", "4", "--requests", "20", "--input-tokens", "24", "--output-tokens", "32"]
    files = ["--json", str(tmp_path / "report.json"), "--output", str(tmp_path / "out")]
    command = [str(llmperf), "profile", "--url", server.url, "--model", "tiny", *load, *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 of 20 requests succeeded; receive times: kernel" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == "llmperf.report/1"
    (point,) = report["points"]
    assert point["metrics"]["output_tokens"]["min"] == point["metrics"]["output_tokens"]["max"] == 32
    assert 0 < point["metrics"]["ttft_ms"]["p50"] < point["metrics"]["e2e_ms"]["p50"]
    assert point["metrics"]["ttft_ms"]["n"] == 20


def test_unknown_model_is_told_in_the_servers_words(server: LlmServer, tmp_path: Path) -> None:
    config = OpenAIServer.model_validate({**_at(server), "model": "nope", "name": "up"})
    with pytest.raises(ServerError, match="The model `nope` does not exist"), start_server(config, tmp_path, ()):
        pass


# A healthy server, and requests that it refuses or cuts short


def test_a_clamped_answer_makes_the_run_invalid(server: LlmServer, suite: Suite) -> None:
    shape = {"input_tokens": 350, "output_tokens": 400, "concurrency": 2, "requests": 4}
    clamped = {"endpoint": "completions", "extra_body": {"min_tokens": 0}}
    suite.plan({"up": _at(server)}, {"long": {**shape, **clamped}})
    output = suite.run()
    point = suite.points()["up-long"]
    assert "up-long: INVALID" in output
    assert "max-model-len" in output
    assert "other than the 400 output tokens asked for" in point["invalid_reasons"][0]
    assert (point["valid"], point["passed"]) == (False, False)


def test_asking_for_more_tokens_than_there_is_room_for_is_told_before_the_first_run(
    server: LlmServer, suite: Suite
) -> None:
    shape = {"input_tokens": 350, "output_tokens": 400, "concurrency": 2, "requests": 4}
    suite.plan({"up": _at(server)}, {"long": {"endpoint": "completions", **shape}})
    assert "1 failed" in suite.run()
    point = suite.points()["up-long"]
    assert "every warm-up request failed" in point["error"]
    assert "HTTP 400: min_tokens must be less than or equal to max_tokens=" in point["error"]
    assert (point["valid"], point["runs"]) == (False, [])


def test_a_prompt_that_is_too_long_fails_with_the_servers_words_and_no_numbers(server: LlmServer, suite: Suite) -> None:
    shape = {"input_tokens": 900, "output_tokens": 8, "concurrency": 2, "requests": 4, "warmup_requests": 0}
    suite.plan({"up": _at(server)}, {"long": {"endpoint": "completions", **shape}})
    output = suite.run()
    point = suite.points()["up-long"]
    assert "1 failed" in output
    assert "HTTP 400: This model's maximum context length is 1024 tokens" in output
    assert point["metrics"]["error_rate"]["value"] == 1
    assert point["metrics"]["requests"] == {"sent": 4, "ok": 0, "failed": 4, "cancelled": 0}
    for name in ("ttft_ms", "itl_ms", "e2e_ms"):
        assert set(point["metrics"][name].values()) == {None, 0}
    assert point["metrics"]["output_token_throughput"]["value"] is None
    assert {request["status"] for request in suite.requests("up-long")} == {400}


def test_an_error_inside_a_stream_is_a_failed_request(server: LlmServer, suite: Suite) -> None:
    shape = {"input_tokens": 8, "output_tokens": 8, "concurrency": 2, "requests": 4, "warmup_requests": 0}
    good = {**shape, "endpoint": "completions"}  # what the server is asked before it counts as ready
    suite.plan({"up": _at(server)}, {"good": good, "bad": {**good, "extra_body": {"prompt": [99999]}}})
    assert "1 failed, 1 passed" in suite.run()
    for request in suite.requests("up-bad"):
        assert request["status"] == 200
        assert request["error"] == "error in the stream: Token id 99999 is out of vocabulary"
        assert request["chunk_ns"] == []
    server.check_alive()


def test_a_stop_with_streams_open_leaves_nothing(shared: Shared) -> None:
    server = shared.server()
    family = _family(server.processes[0].handle.pid)
    memory = _shared_memory_of(family)
    assert memory
    body = {"model": "tiny", "prompt": "the", "stream": True, "max_tokens": 1000, "ignore_eos": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
        next(answer.iter_bytes())
        shared.stop()
        assert _alive(family) == set()
    assert not memory & {path.name for path in Path("/dev/shm").iterdir()}


# Servers that do not come up


BAD_STARTS = {
    "flag": (
        {"args": {"no-such-flag": 3}},
        ["exit code 2", "error: unrecognized arguments: --no-such-flag 3"],
    ),
    "context": (
        {"args": {"max-model-len": 999999}},
        ["exit code 1", "User-specified max_model_len (999999) is greater than the derived max_model_len"],
    ),
    "unbound": (
        {"args": {"tensor-parallel-size": 2}},
        ["exit code 1", "AssertionError: Not enough allowed NUMA nodes to bind threads of 2 local CPUWorkers"],
    ),
    "empty": ({}, ["exit code 1", "Invalid repository ID or local directory specified: '"]),
}


def test_servers_that_do_not_start_say_why(suite: Suite, tmp_path: Path) -> None:
    """One session, since each start takes ten to twenty seconds; each configuration is tried once for both points."""
    (tmp_path / "empty").mkdir()
    servers = {name: _launched(vllm_config(**changes)) for name, (changes, _) in BAD_STARTS.items()}
    servers["empty"]["model"] = str(tmp_path / "empty")
    servers["slow"] = _launched(vllm_config(ready_timeout="2 s"))
    shape = {"input_tokens": 8, "output_tokens": 4, "concurrency": 1, "requests": 1}
    suite.plan(servers, {"a": shape, "b": shape})
    output = suite.run()
    points = suite.points()
    assert "10 errors" in output
    for name, (_, words) in BAD_STARTS.items():
        for point in (points[f"{name}-a"], points[f"{name}-b"]):
            for word in [f"server '{name}' ended before it was ready", *words, f"servers/{name}.log"]:
                assert word in point["error"]
            assert "See root cause above" not in point["error"].splitlines()[0]
        assert (suite.output / "servers" / f"{name}.log").read_text().count("usage: vllm") <= 1
    assert "was not ready within 2 s (ready_timeout)" in points["slow-a"]["error"]
    assert "servers/slow.log" in points["slow-a"]["error"]


def test_a_used_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = server_command(vllm_config(), taken.getsockname()[1], ())
        with run_process("tiny", command, tmp_path / "tiny.log") as process, pytest.raises(ServerError) as caught:
            wait_until(lambda: False, process, "tiny", PATIENCE_S)
    assert "exit code 1; first error in its log: OSError: [Errno 98] Address already in use" in str(caught.value)


def test_a_missing_model_folder_is_a_missing_requirement(tmp_path: Path) -> None:
    config = vllm_config(model=str(tmp_path / "absent"))
    with pytest.raises(MissingRequirement, match="needs the model folder"), start_server(config, tmp_path, ()):
        pass


def test_an_engine_that_dies_at_its_first_request_is_not_ready(tmp_path: Path) -> None:
    """Pipeline parallelism on the CPU with --enforce-eager: /health says yes, and every request fails."""
    bound = ENV | {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    config = vllm_config(env=bound, args={"pipeline-parallel-size": 2})
    with pytest.raises(ServerError) as caught, start_server(config, tmp_path, ()):
        pass
    assert "says that it is healthy, but its first request failed" in str(caught.value)
    assert "AssertionError: assert self.intermediate_tensors is not None" in str(caught.value)


# Ends that nobody asked for


class Background:
    """A pytest in the background, and what it started."""

    def __init__(self, suite: Suite, log: Path) -> None:
        self._log = log
        self._requests = suite.output / "requests"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                suite.command(), cwd=suite.folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.family: set[tuple[int, str]] = set()

    def wait_for_a_run(self) -> None:
        _until(lambda: self.process.poll() is not None or self._requests.is_dir(), "a run to be over")
        assert self.process.poll() is None, self.output()
        self.family = _family(self.process.pid)

    def output(self) -> str:
        return self._log.read_text()


@pytest.fixture
def background(suite: Suite, tmp_path: Path) -> Iterator[Background]:
    """Many short runs of two loads on one server."""
    shape = {"input_tokens": 24, "output_tokens": 32, "concurrency": 8, "requests": 16}
    suite.plan({"tiny": _launched(vllm_config())}, {"first": shape, "second": shape}, runs=1000)
    started = Background(suite, tmp_path / "pytest.log")
    yield started
    if started.process.poll() is None:
        started.process.terminate()
        started.process.wait()


def test_an_engine_killed_under_load(suite: Suite, background: Background) -> None:
    background.wait_for_a_run()
    memory = _shared_memory_of(background.family)
    os.kill(_engine_core(background.family), signal.SIGKILL)
    assert background.process.wait(PATIENCE_S) == pytest.ExitCode.TESTS_FAILED
    output, points = background.output(), suite.points()
    assert "2 failed" in output
    died = points["tiny-first"]
    # Its API server ends by itself a moment later: what is told is how far it had come.
    fates = ("its engine is dead", "nothing listens on its port any more", "it hangs or is stopped", "died")
    assert any(fate in died["error"] for fate in fates)
    assert "its log names no cause" in died["error"]
    assert died["passed"] is False
    assert died["runs"][0]["metrics"]["requests"] == {"sent": 16, "ok": 16, "failed": 0, "cancelled": 0}
    assert died["metrics"]["ttft_ms"]["n"] == died["metrics"]["requests"]["ok"] > 0
    # None failed where the engine was killed between two runs of this load.
    failed = [request for request in suite.requests("tiny-first") if request["error"]]
    assert died["metrics"]["requests"]["failed"] == len(failed)
    assert "server 'tiny'" in points["tiny-second"]["error"]
    assert points["tiny-second"]["runs"] == []
    assert _alive(background.family) == set()
    assert not memory & {path.name for path in Path("/dev/shm").iterdir()}


def test_a_killed_pytest_leaves_nothing(background: Background) -> None:
    background.wait_for_a_run()
    memory = _shared_memory_of(background.family)
    assert memory
    assert len(background.family) >= 5, "supervisor, API server, resource tracker, engine core, worker"
    background.process.kill()
    background.process.wait()
    _until(lambda: not _alive(background.family), "the server's processes to go")
    assert not memory & {path.name for path in Path("/dev/shm").iterdir()}


# The committed plan


def _perf(folder: Path, *args: str) -> str:
    files = [f"--llmperf-output={folder}/out", f"--llmperf-baselines={folder}/baselines", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "perf_tests/test_vllm_cpu.py", "-k", "seqs1 and short", *files, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.usefixtures("suite")
def test_the_committed_plan_records_a_baseline_and_is_compared_with_it(tmp_path: Path) -> None:
    recorded = _perf(tmp_path, "--llmperf-update-baselines")
    assert "1 passed" in recorded, recorded
    (baseline,) = (tmp_path / "baselines").rglob("*.json")
    assert baseline.name == "test_serving-seqs1-short.json"
    shutil.rmtree(tmp_path / "out")
    again = _perf(tmp_path)
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    # How fast a shared machine is in the next minute is not ours to say; that its times are held against these is.
    assert point["regression"]["verdict"] in ("PASS", "IMPROVED", "INCONCLUSIVE", "FAIL"), again
    stored = json.loads(baseline.read_text())
    assert stored["identity"]["trace_hash"] == point["trace_hash"], again
    assert (point["environment"].endswith("-vllm"), point["timestamps"], point["valid"]) == (True, "kernel", True)


def test_the_dry_run_prints_the_exact_command(tmp_path: Path) -> None:
    output = _perf(tmp_path, "--llmperf-dry-run")
    env = " ".join(f"{name}={value}" for name, value in ENV.items())
    assert f"{env} {ENGINE} serve {MODEL} --host 127.0.0.1 --port PORT " in output
    assert "--max-num-seqs 1" in output
    assert not (tmp_path / "out").exists()
