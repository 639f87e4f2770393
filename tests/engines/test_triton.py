"""The plugin against real Triton on the CPU: every endpoint, its statistics, every way in which it fails, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from pytest_llmperf.cli.main import main
from pytest_llmperf.errors import ServerError
from pytest_llmperf.metrics.summary import summarize
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.engines.remote import TritonRemoteServer
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.records import ModelSide, RequestRecord, Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.servers.engines.commands import server_command
from pytest_llmperf.servers.engines.triton.command import Place
from pytest_llmperf.servers.engines.triton.repository import write_repository
from pytest_llmperf.servers.engines.triton.service import GrpcService, service
from pytest_llmperf.servers.engines.triton.statistics import read
from pytest_llmperf.servers.process.process import free_ports, run_process, wait_until
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / ".engines" / "triton" / "bin" / "tritonserver"
MODELS = Path(__file__).parent / "triton_models"
DECODER = ROOT / "perf_tests" / "triton_models" / "decoder"
PATIENCE_S = 60.0
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1 as /proc/net/tcp and tcp6 write it."""


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    if ENGINE.exists():
        return
    reason = "needs .engines/triton: make engine-triton"
    if os.environ.get("LLMPERF_REQUIRE_ENGINES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _config(files: Path, **changes: Any) -> TritonServer:
    """A server of one python model `m`; `changes` are of the model, `server` those of the server."""
    server = {"engine": "triton", "name": "t", "model": "m", "executable": str(ENGINE), "gpus": 0}
    model = {"backend": "python", "files": str(files)}
    more = changes.pop("server", {})
    return TritonServer.model_validate(
        {**server, "ready_timeout": "60 s", "models": {"m": {**model, **changes}}, **more}
    )


def _load(**changes: Any) -> LoadPoint:
    given = {"input_tokens": 8, "output_tokens": 16, "concurrency": 2, "requests": 8, "warmup_requests": 1, **changes}
    return LoadSpec.model_validate(given).points("load")[0]


def _measure(server: LlmServer, point: LoadPoint) -> Run:
    runs: list[Run] = []
    asyncio.run(Measurement(server, point, point.name, runs.append).run())
    return runs[-1]


def _side(run: Run) -> ModelSide:
    assert run.server_side is not None
    (side,) = run.server_side.models
    return side


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    config = _config(DECODER, decoupled=True, max_batch_size=8, dynamic_batching={})
    with start_server(config, tmp_path_factory.mktemp("decoder"), ()) as server:
        yield server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    config = _config(DECODER, decoupled=False, max_batch_size=8, dynamic_batching={})
    with start_server(config, tmp_path_factory.mktemp("whole"), ()) as server:
        yield server


def test_a_server_tells_its_version_and_inputs_and_listens_here_only(decoder: LlmServer) -> None:
    assert decoder.version == "2.51.0"
    (target,) = decoder.targets
    assert {spec.name: (spec.datatype, spec.shape, spec.optional) for spec in target.inputs} == {
        "text_input": ("BYTES", (1, 1), False),
        "max_tokens": ("INT32", (1, 1), True),
        "min_tokens": ("INT32", (1, 1), True),
        "ignore_eos": ("BOOL", (1, 1), True),
        "temperature": ("FP32", (1, 1), True),
    }
    ports = {int(url.split(":")[-1].split("/")[0]) for url in (target.url, target.grpc, target.metrics)}
    assert len(ports) == 3
    assert {address for address, port in _listening() if port in ports} <= LOOPBACK


def _listening() -> Iterator[tuple[str, int]]:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                yield address, int(port, 16)


@pytest.mark.parametrize(("endpoint", "stamps"), [("generate", "kernel"), ("grpc", "user")])
def test_streams_of_a_decoupled_model(decoder: LlmServer, endpoint: str, stamps: str) -> None:
    run = _measure(decoder, _load(endpoint=endpoint))
    for record in run.records:
        assert record.error is None
        assert (record.output_tokens, record.token_source, len(record.chunk_ns)) == (16, "usage", 16)
        assert record.chunk_tokens == (1,) * 16
        assert (record.input_tokens_source, record.status) == ("usage", 200)
        assert [record.sent_ns, *record.chunk_ns] == sorted([record.sent_ns, *record.chunk_ns])
    assert run.client.stamps == stamps
    assert (_side(run).requests, _side(run).failed) == (len(run.records), 0)


@pytest.mark.parametrize("endpoint", ["generate", "generate-once", "infer", "grpc"])
def test_every_endpoint_of_a_model_that_answers_whole(whole: LlmServer, endpoint: str) -> None:
    run = _measure(whole, _load(endpoint=endpoint))
    for record in run.records:
        assert record.error is None
        assert (record.output_tokens, record.token_source, len(record.chunk_ns)) == (16, "usage", 1)
    assert _side(run).inferences == len(run.records)


def test_open_loop_and_worker_processes_over_grpc(decoder: LlmServer) -> None:
    runs: list[Run] = []
    point = _load(endpoint="grpc", concurrency=None, request_rate=20, requests=20, output_tokens=4)
    asyncio.run(Measurement(decoder, point, "k", runs.append, workers=2).run())
    assert [record.error for record in runs[-1].records] == [None] * 20
    assert runs[-1].workers == 2
    assert all(record.late_ns is not None for record in runs[-1].records)


def test_http_and_grpc_tell_the_same_of_the_server(decoder: LlmServer) -> None:
    (target,) = decoder.targets
    http, grpc = service(target), GrpcService(target)
    assert http.inputs() == grpc.inputs()
    assert (http.version(), http.ready()) == (grpc.version(), grpc.ready()) == ("2.51.0", True)
    assert read(http.statistics(), "").models == read(grpc.statistics(), "").models
    assert grpc.first_failure(10.0) is None


@pytest.mark.parametrize("by", ["http", "grpc"])
def test_a_triton_that_is_already_up(decoder: LlmServer, tmp_path: Path, by: str) -> None:
    (target,) = decoder.targets
    url = target.url if by == "http" else f"grpc://{target.grpc}"
    remote = TritonRemoteServer(engine="triton-remote", name="up", model="m", url=url, metrics=target.metrics)
    with start_server(remote, tmp_path, ()) as server:
        run = _measure(server, _load(endpoint="generate" if by == "http" else "grpc"))
    assert _side(run).requests == len(run.records)
    with (
        pytest.raises(ServerError, match=r"model 'nope' .* was not ready"),
        start_server(remote.model_copy(update={"model": "nope", "ready_timeout": 0.5}), tmp_path, ()),
    ):
        pass


@pytest.mark.parametrize(("batching", "batches"), [(True, (1.5, 8.0)), (False, (1.0, 1.0))])
def test_dynamic_batching_shows_in_the_servers_counts(
    tmp_path: Path, batching: bool, batches: tuple[float, float]
) -> None:
    given = {"max_batch_size": 8, "dynamic_batching": {}} if batching else {"max_batch_size": 0}
    with start_server(_config(MODELS / "batched", **given), tmp_path, ()) as server:
        run = _measure(server, _load(endpoint="infer", concurrency=8, requests=40))
    side = _side(run)
    assert [record.error for record in run.records] == [None] * len(run.records)
    assert side.inferences == len(run.records) == sum(size * count for size, count in side.batch_sizes)
    assert batches[0] <= (side.average_batch or 0) <= batches[1]
    assert 20 <= (side.mean_ms(side.compute_infer_ns) or 0) < 60


def test_clients_agree_with_the_models_own_times(tmp_path: Path) -> None:
    """What the model wrote down as it sent a token is where each client saw it, a few ms later at most."""
    log = tmp_path / "sent.jsonl"
    with start_server(_config(MODELS / "timed", parameters={"gap_ms": 5, "log": str(log)}), tmp_path, ()) as server:
        for endpoint in ("generate", "grpc"):
            log.unlink(missing_ok=True)
            run = _measure(server, _load(endpoint=endpoint, concurrency=1, requests=10))
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            sent = [times for times in lines if len(times) == 16][-len(run.records) :]
            delays_ms = [
                (seen - at) / 1e6
                for record, times in zip(run.records, sent, strict=True)
                for seen, at in zip(record.chunk_ns, times, strict=True)
            ]
            assert min(delays_ms) > 0
            assert statistics.median(delays_ms) < 3
            assert statistics.median(_gaps_ms(run)) == pytest.approx(5, abs=1)


def _ensemble() -> TritonServer:
    """Two models behind one name: what a client of `ensemble` sends goes to `decode`."""
    tensors = ({"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]},)
    tokens = {"name": "max_tokens", "data_type": "TYPE_INT32", "dims": [1], "optional": True}
    output = ({"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]},)
    step = {
        "model_name": "decode",
        "model_version": -1,
        "input_map": {"text_input": "text_input", "max_tokens": "max_tokens"},
        "output_map": {"text_output": "text_output"},
    }
    whole = {"input": (*tensors, tokens), "output": output}
    config = {"platform": "ensemble", "ensemble_scheduling": {"step": [step]}}
    models = {
        "decode": {"backend": "python", "files": str(MODELS / "timed"), "parameters": {"gap_ms": 5}, "decoupled": True},
        "ensemble": {**whole, "config": config},
    }
    return TritonServer.model_validate(
        {
            "engine": "triton",
            "name": "t",
            "model": "m",
            "executable": str(ENGINE),
            "gpus": 0,
            "ready_timeout": "60 s",
            "serve": "ensemble",
            "models": models,
        }
    )


def test_an_ensemble_is_driven_by_both_clients(tmp_path: Path) -> None:
    with start_server(_ensemble(), tmp_path, ()) as server:
        for endpoint in ("generate", "grpc"):
            run = _measure(server, _load(endpoint=endpoint, concurrency=2, requests=6))
            assert {(record.error, len(record.chunk_ns)) for record in run.records} == {(None, 16)}
            assert statistics.median(_gaps_ms(run)) == pytest.approx(5, abs=1)
        assert run.server_side is not None
        assert "ensemble" in {side.model for side in run.server_side.models}


def _gaps_ms(run: Run) -> list[float]:
    return [(b - a) / 1e6 for record in run.records for a, b in zip(record.chunk_ns, record.chunk_ns[1:], strict=False)]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmServer]:
    with start_server(_config(MODELS / "timed"), tmp_path_factory.mktemp("timed"), ()) as server:
        yield server


def _asked(server: LlmServer, tmp_path: Path, text: str, **changes: Any) -> RequestRecord:
    """The record of a single request with this prompt."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"input": text}) + "\n")
    point = _load(
        input_tokens=None, prompts={"file": str(file)}, requests=1, concurrency=1, warmup_requests=0, **changes
    )
    return _measure(server, point).records[-1]


@pytest.mark.parametrize("endpoint", ["generate", "grpc"])
def test_the_servers_own_times_are_metrics(faulty: LlmServer, endpoint: str) -> None:
    """As TensorRT-LLM tells them: a queue of 2 ms, a prefill of 3, seven gaps of 5."""
    asked = {"parameters": {"return_perf_metrics": True}}
    point = _load(endpoint=endpoint, output_tokens=8, requests=4, concurrency=1, extra_body=asked)
    found = summarize(_measure(faulty, point), point).distributions
    assert [found[name].mean for name in ("server_queue", "server_prefill", "server_decode")] == [2, 3, 35]
    silent = _load(endpoint=endpoint, output_tokens=8, requests=4, concurrency=1)
    assert summarize(_measure(faulty, silent), silent).distributions["server_queue"].n == 0


@pytest.mark.parametrize("endpoint", ["generate", "grpc"])
def test_errors_of_the_model(faulty: LlmServer, tmp_path: Path, endpoint: str) -> None:
    record = _asked(faulty, tmp_path, "fault:wrong", endpoint=endpoint, output_tokens=4)
    assert record.error == "error in the stream: no such token"
    assert len(record.chunk_ns) == 2
    record = _asked(faulty, tmp_path, "fault:wrong", endpoint=endpoint, output_tokens=1)
    assert record.error in ("HTTP 400: no such token", "error in the stream: no such token")


@pytest.mark.parametrize("endpoint", ["generate", "grpc"])
def test_a_stream_that_never_ends_is_given_up(faulty: LlmServer, tmp_path: Path, endpoint: str) -> None:
    record = _asked(faulty, tmp_path, "fault:forever", endpoint=endpoint, output_tokens=4, no_data_timeout="400 ms")
    assert record.error == "no further data within 0.4 s (no_data_timeout)"
    assert len(record.chunk_ns) == 4


def test_http_200_with_an_error_in_it_is_a_failure(faulty: LlmServer, tmp_path: Path) -> None:
    record = _asked(faulty, tmp_path, "hello", endpoint="generate-once", output_tokens=4)
    assert record.status == 200
    assert "exactly 1 response" in str(record.error)


def test_infer_of_a_decoupled_model_is_refused(faulty: LlmServer, tmp_path: Path) -> None:
    record = _asked(faulty, tmp_path, "hello", endpoint="infer")
    assert str(record.error).startswith("HTTP 501: HTTP end point doesn't support models with decoupled")


def _start_error(config: TritonServer, folder: Path) -> str:
    with pytest.raises(ServerError) as caught, start_server(config, folder, ()):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        (
            "class TritonPythonModel:\n    def initialize(self, args):\n        raise ValueError('no weights')\n"
            "    def execute(self, requests):\n        pass\n",
            "ValueError: no weights",
        ),
    ],
)
def test_a_bad_model_py_is_named(tmp_path: Path, code: str, reason: str) -> None:
    file = tmp_path / "model.py"
    file.write_text(code)
    error = _start_error(_config(file), tmp_path / "logs")
    assert "ended before it was ready; exit code 1" in error
    assert reason in error


def test_a_bad_config_is_named(tmp_path: Path) -> None:
    assert "no_such_field" in _start_error(_config(DECODER, config={"no_such_field": 1}), tmp_path)
    assert "unable to find backend library for backend 'nosuch'" in _start_error(
        _config(DECODER, backend="nosuch"), tmp_path / "b"
    )
    repository = write_repository(_config(DECODER), tmp_path / "repository")
    (repository / "m" / "config.pbtxt").write_text('backend: "python\n')
    as_it_is = {"models": {}, "repository": str(repository), "serve": "m"}
    assert "Error parsing text-format inference.ModelConfig: 1:17" in _start_error(
        _config(DECODER, server=as_it_is), tmp_path / "c"
    )


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    given = {"models": {}, "repository": str(tmp_path / "nowhere"), "serve": "m"}
    assert "failed to stat file" in _start_error(_config(DECODER, server=given), tmp_path)


def test_a_used_port_is_named(tmp_path: Path) -> None:
    config = _config(MODELS / "batched")
    repository = write_repository(config, tmp_path / "models")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = Place(taken.getsockname()[1], *free_ports(2), repository=str(repository))
        with (
            run_process("t", server_command(config, place, ()), tmp_path / "t.log") as process,
            pytest.raises(ServerError, match=r"failed to start HTTP service: .*already in use"),
        ):
            wait_until(lambda: False, process, "t", PATIENCE_S)


def test_a_model_that_fails_its_first_request_is_not_ready(tmp_path: Path) -> None:
    code = (MODELS / "timed" / "model.py").read_text().replace('"fault:crash" in text', "True")
    (tmp_path / "model.py").write_text(code)
    error = _start_error(_config(tmp_path / "model.py", server={"exit_timeout": "1 s"}), tmp_path / "logs")
    assert "says that it is ready, but its first request failed: HTTP 400: Stub process" in error


@pytest.mark.parametrize("endpoint", ["generate", "grpc"])
def test_a_stub_that_crashes_under_load_is_told_though_triton_says_ready(tmp_path: Path, endpoint: str) -> None:
    with start_server(_config(MODELS / "timed", server={"exit_timeout": "1 s"}), tmp_path, ()) as server:
        with pytest.raises(ServerError, match="is up, but its model 'm' fails: HTTP 400: Stub process"):
            _asked(server, tmp_path, "fault:crash", endpoint=endpoint)
        assert service(server.targets[0]).ready()


def test_a_killed_server_is_told(tmp_path: Path) -> None:
    with start_server(_config(MODELS / "timed"), tmp_path, ()) as server:
        family = _family(server.processes[0].handle.pid)
        (pid,) = (pid for pid, _ in family if Path(f"/proc/{pid}/comm").read_text().strip() == "tritonserver")
        os.kill(pid, signal.SIGKILL)
        _until(lambda: server.processes[0].exit_code() is not None, "the supervisor to notice")
        with pytest.raises(ServerError, match=r"died; exit code 137 \(SIGKILL\)"):
            server.check_alive()
        assert not _alive(family)


CHILD = """
import sys, time
from pathlib import Path
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.servers.start import start_server
config = TritonServer.model_validate_json(sys.argv[1])
with start_server(config, Path(sys.argv[2]), ()) as server:
    print(server.processes[0].handle.pid, flush=True)
    sys.stdin.read()
"""


def test_nothing_outlives_a_killed_client(tmp_path: Path) -> None:
    config = _config(MODELS / "timed", server={"exit_timeout": "1 s"})
    given = json.dumps({**config.as_dict(), "ready_timeout": "60 s", "exit_timeout": "1 s"})
    command = [sys.executable, "-c", CHILD, given, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        supervisor = int(child.stdout.readline())
        family = _family(supervisor)
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid, _ in family}
        assert {"tritonserver", "triton_python_b"} <= names
        shared = _segments(family)
        child.kill()
    _until(lambda: not _alive(family), "the server to be gone")
    _until(lambda: not any(Path("/dev/shm", name).exists() for name in shared), "its shared memory to be removed")


def _segments(family: set[tuple[int, str]]) -> set[str]:
    """Names of the shared-memory files that these processes have mapped."""
    lines = [line for pid, _ in family for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {line.rsplit("/dev/shm/", 1)[1] for line in lines if "/dev/shm/" in line and "deleted" not in line}


def test_profile_as_triton_users_know_it(decoder: LlmServer, tmp_path: Path) -> None:
    prompts, export = tmp_path / "prompts.jsonl", tmp_path / "export.json"
    prompts.write_text("".join(json.dumps({"input": f"prompt {n}", "output": "so"}) + "\n" for n in range(6)))
    common = ["profile", "-u", decoder.targets[0].grpc, "-i", "grpc", "-m", "m", "--concurrency", "2,4"]
    files = ["--input-data", str(prompts), "--profile-export-file", str(export), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*common, *files, "--output-tokens", "8", "--no-ignore-eos"])
    assert all(text in result.output for text in ("profile-c2", "profile-c4", "average"))
    experiments = json.loads(export.read_text())["experiments"]
    assert [one["experiment"] for one in experiments] == [
        {"mode": "concurrency", "value": 2},
        {"mode": "concurrency", "value": 4},
    ]
    assert all(len(request["response_timestamps"]) == 8 for one in experiments for request in one["requests"])
    points = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert [point["timestamps"] for point in points] == ["user", "user"]
    assert points[0]["runs"][0]["server_side"]["models"][0]["model"] == "m"


def test_the_committed_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "pytest", "-q", "perf_tests/test_triton.py", "-k", "batch8 and eight"]
    options = ["--llmperf-update-new", "--llmperf-runs=1", f"--llmperf-output={tmp_path / 'out'}"]
    done = subprocess.run(
        [*command, *options, f"--llmperf-baselines={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert point["runs"][0]["server_side"]["models"][0]["average_batch"] > 1.5


def test_generate_by_hand_is_what_the_client_sees(decoder: LlmServer) -> None:
    """The wire as any HTTP client sees it: events without [DONE]."""
    url = f"{decoder.url}/v2/models/m/generate_stream"
    answer = httpx.post(url, json={"text_input": "a", "parameters": {"max_tokens": 3, "ignore_eos": True}}, timeout=10)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [event["num_output_tokens"] for event in events] == [1, 1, 1]


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


def _family(root: int) -> set[tuple[int, str]]:
    """(pid, start time) of all living descendants."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    facts = {pid: stat for pid in pids if (stat := _stat(pid))}
    found: set[int] = set()
    more = {root}
    while more:
        more = {pid for pid, stat in facts.items() if int(stat[1]) in more} - found
        found |= more
    return {(pid, facts[pid][19]) for pid in found}


def _alive(family: set[tuple[int, str]]) -> set[int]:
    return {pid for pid, started in family if (stat := _stat(pid)) and stat[19] == started}
