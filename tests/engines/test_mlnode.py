"""MLNodes: what is asked of a node from its first state to its last, and what is left when something goes wrong.

The node is a stand-in that has the real one's rules (tests/standins/mlnode.py) and starts the embedded engine, or real
vLLM where it is installed, as its instances.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.deployments.mlnode import MlnodeServer
from pytest_llmperf.servers.process.process import free_ports
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "tests" / "standins" / "mlnode.py"
VLLM = ROOT / ".engines" / "vllm" / "bin" / "python"
MODEL = ROOT / ".engines" / "models" / "tiny-llama"
EMBEDDED = (sys.executable, "-m", "pytest_llmperf.embedded", "--step", "modelled", "--decode-ms-per-step", "2")
PATIENCE_S = 60.0
KEY = "k3y-0123456789"


class Node:
    """A stand-in that runs, and what it was asked."""

    def __init__(self, folder: Path, *options: str, program: Sequence[str] = EMBEDDED, gpus: int = 8) -> None:
        # The instances get the ports above the inference port.
        self.port, self.inference_port = free_ports(1)[0], 20_000 + os.getpid() % 1000 * 10
        self.output = folder / "node.out"
        self.command = [
            *(sys.executable, str(NODE), "--port", str(self.port), "--inference-port", str(self.inference_port)),
            *("--gpus", str(gpus), *options, "--", *program),
        ]
        self.start()

    def start(self) -> None:
        with self.output.open("ab") as output, (self.output.with_suffix(".err")).open("ab") as errors:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=errors)
        until(lambda: "node is up" in self.output.read_text(), "the node to start")

    @property
    def calls(self) -> list[str]:
        """What it was asked, without the questions for its state."""
        calls = self.output.read_text().splitlines()
        return [call for call in calls if call not in ("node is up", "GET /api/v1/state")]

    @property
    def state(self) -> str:
        return str(httpx.get(f"http://127.0.0.1:{self.port}/api/v1/state", timeout=PATIENCE_S).json()["state"])

    def config(self, **changes: Any) -> MlnodeServer:
        given = {
            "name": "node",
            "engine": "mlnode",
            "model": "org/m",
            "url": f"http://127.0.0.1:{self.port}",
            "inference_url": f"http://127.0.0.1:{self.inference_port}",
            "gpus": 8,
            "args": {"tp": 8, "pp": 1, "dtype": "float16"},
            "ready_timeout": "60 s",
        }
        return MlnodeServer.model_validate({**given, **changes})

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.02)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts nodes, which are gone afterwards."""
    nodes: list[Node] = []

    def start(*options: str, **facts: Any) -> Node:
        nodes.append(Node(tmp_path, *options, **facts))
        return nodes[-1]

    yield start
    for one in nodes:
        one.end()


def measured(server: LlmServer, **load: Any) -> Any:
    spec = LoadSpec.model_validate({"input_tokens": 8, "output_tokens": 8, "concurrency": 4, "requests": 16, **load})
    (point,) = spec.points("s")
    return asyncio.run(run_load(server.targets, point, make_trace(point, "n"), run_index=0))


def test_it_is_brought_up_measured_and_taken_down(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node()
    with start_server(one.config(), tmp_path, ()) as server:
        assert one.state == "INFERENCE"
        server.begin_watching()
        run = measured(server)
        assert all(record.ok for record in run.records)
        server.check_alive()
        telemetry = server.end_watching()
        assert telemetry is not None
        assert [track.source for track in telemetry.tracks] == ["node"]
        assert (server.version is not None, server.launches) == (True, 1)
        assert server.relaunch()
        assert all(record.ok for record in measured(server).records)
    assert one.state == "STOPPED"
    assert one.calls == ["POST /api/v1/inference/up", "POST /api/v1/inference/down"] * 2
    facts = json.loads((tmp_path / "node.deployed.json").read_text())
    assert facts == {"state": "INFERENCE", "node_version": None, "instances": 1}


def test_every_instance_answers_before_anything_is_measured(node: Callable[..., Node], tmp_path: Path) -> None:
    """The node says that it is up when its first instance is."""
    one = node("--late", "3")
    with start_server(one.config(args={"tp": 2}, stop="stop"), tmp_path, ()) as server:
        assert (server.config.replicas, server.config.gpu_count) == (4, 8)
        assert server.end_watching() is None  # the proxy's metrics are anybody's
        assert all(record.ok for record in measured(server).records)
    assert "step 5/5 instances: until all 4 answer" in server.logs[0].read_text()
    assert one.calls == ["POST /api/v1/inference/up", "POST /api/v1/stop"]


def test_instances_that_can_be_reached_are_waited_for_and_sampled(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node("--late", "1", gpus=4)
    urls = [f"http://127.0.0.1:{one.inference_port + number}" for number in (1, 2)]
    with start_server(one.config(gpus=4, args={"tp": 2}, instance_urls=urls), tmp_path, ()) as server:
        server.begin_watching()
        measured(server)
        telemetry = server.end_watching()
        assert telemetry is not None
        assert [track.source for track in telemetry.tracks] == ["node-1", "node-2"]


def test_instances_behind_a_port_without_metrics_are_not_taken_for_granted(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    one = node()
    config = one.config(args={"tp": 4}, inference_url=f"http://127.0.0.1:{one.port}")
    with pytest.raises(ServerError, match=r"whether all 2 instances are up cannot be told.*`count_instances: false`"):
        start_server(config, tmp_path, ()).__enter__()
    assert one.state == "STOPPED"
    with start_server(config.model_copy(update={"count_instances": False}), tmp_path, ()) as server:
        assert all(record.ok for record in measured(server).records)


def test_too_few_instances_are_told(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node(gpus=2)
    config = one.config(args={"tp": 2}, ready_timeout="8 s")
    with pytest.raises(ServerError, match=r"step 5/5 instances: 1 of 4 instances answer. Has the node 8 GPUs\?"):
        start_server(config, tmp_path, ()).__enter__()
    assert one.state == "STOPPED"


@pytest.mark.parametrize("mode", ["POW", "TRAIN", "INFERENCE"])
def test_what_a_node_runs_is_stopped_only_when_the_plan_says_so(
    node: Callable[..., Node], tmp_path: Path, mode: str
) -> None:
    one = node("--mode", mode if mode != "INFERENCE" else "STOPPED")
    if mode == "INFERENCE":
        body = {"model": "other", "dtype": "auto", "additional_args": ["--tensor-parallel-size", "8"]}
        url = f"http://127.0.0.1:{one.port}/api/v1/inference/up"
        assert httpx.post(url, json=body, timeout=PATIENCE_S).json() == {"status": "OK"}
    before = one.calls
    with pytest.raises(ServerError, match=f"step 1/5 state: the node runs {mode} already, which is not ours to stop"):
        start_server(one.config(), tmp_path, ()).__enter__()
    assert (one.state, one.calls) == (mode, before)
    with start_server(one.config(replace=True), tmp_path, ()):
        assert one.state == "INFERENCE"
    assert one.calls[len(before) :] == [
        "POST /api/v1/stop",
        "POST /api/v1/inference/up",
        "POST /api/v1/inference/down",
    ]


@pytest.mark.parametrize(
    ("options", "args", "told"),
    [
        ((), {"tp": 8, "fault-start": 1}, "step 2/5 up: HTTP 200 with status ERROR: vLLM process exited prematurely"),
        (("--old",), {"tp": 8, "fault-start": 1}, "step 2/5 up: HTTP 500: vLLM process exited prematurely"),
        ((), {"tp": 8, "no-such-flag": 1}, "step 2/5 up: HTTP 200 with status ERROR: vLLM process exited"),
    ],
)
def test_a_start_that_fails_is_told_and_taken_down(
    node: Callable[..., Node], tmp_path: Path, options: tuple[str, ...], args: dict[str, Any], told: str
) -> None:
    one = node(*options)
    with pytest.raises(ServerError, match=told) as caught:
        start_server(one.config(args=args), tmp_path, ()).__enter__()
    assert "the node's log (docker logs) has its first error" in str(caught.value)
    assert one.calls == ["POST /api/v1/inference/up", "POST /api/v1/inference/down"]


def test_credentials_are_sent_and_shown_nowhere(
    node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = node("--token", KEY)
    with pytest.raises(ServerError, match="HTTP 401: Not authenticated"):
        start_server(one.config(), tmp_path / "without", ()).__enter__()
    monkeypatch.delenv("NODE_KEY", raising=False)
    with pytest.raises(MissingRequirement, match="NODE_KEY, which is not set"):
        start_server(one.config(bearer="${NODE_KEY}"), tmp_path / "unset", ()).__enter__()
    monkeypatch.setenv("NODE_KEY", KEY)
    with start_server(one.config(bearer="${NODE_KEY}"), tmp_path / "with", ()) as server:
        server.check_alive()
    texts = [path.read_text() for path in (tmp_path / "with").iterdir()]
    assert not [text for text in texts if KEY in text]


def test_a_node_that_stops_serving_under_load_is_told(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node()
    with start_server(one.config(), tmp_path, ()) as server:
        httpx.post(f"http://127.0.0.1:{one.port}/api/v1/stop", timeout=PATIENCE_S)
        until(lambda: server.processes[0].exit_code() is not None, "the holder to see it")
        with pytest.raises(ServerError, match="the node is STOPPED, no longer INFERENCE: an instance"):
            server.check_alive()


def test_a_url_where_no_node_is_says_which_port_is_meant(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node()
    config = one.config(url=f"http://127.0.0.1:{one.inference_port}", ready_timeout="3 s")
    with pytest.raises(ServerError, match=r"HTTP 503: vLLM backend not ready. Is `url` the node's management port"):
        start_server(config, tmp_path, ()).__enter__()


TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
"""


def pytest_of(folder: Path, one: Node, **load: Any) -> subprocess.Popen[str]:
    """A pytest of its own, in the background, on a plan with the node."""
    entry = one.config().model_dump(mode="json", exclude={"name", "model", "ready_timeout"})
    load = {"input_tokens": 8, "output_tokens": 8, "concurrency": 2, "requests": 6, **load}
    plan = {
        "model": "org/m",
        "runs": 50,
        "locked": {"dtype": "float16"},
        "servers": {"node": entry},
        "loads": {"s": load},
    }
    (folder / "plan.yaml").write_text(json.dumps(plan))
    (folder / "test_perf.py").write_text(TEST)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={folder}", f"--llmperf-output={folder}/out"]
    return subprocess.Popen(
        [*command, "-c", f"{folder}/pytest.ini", str(folder / "test_perf.py")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["step 2/5 up", "a run"])
def test_however_pytest_ends_the_node_serves_no_longer(
    node: Callable[..., Node], tmp_path: Path, signum: int, moment: str
) -> None:
    one = node("--slow", "2" if moment == "step 2/5 up" else "0")
    running = pytest_of(tmp_path, one)
    log, requests = tmp_path / "out" / "servers" / "node.log", tmp_path / "out" / "requests"
    reached = {
        "step 2/5 up": lambda: any("POST /api/v1/inference/up" in call for call in one.calls),
        "a run": lambda: requests.is_dir() and any(requests.iterdir()),
    }
    until(lambda: running.poll() is not None or reached[moment](), moment)
    assert running.poll() is None, running.stdout and running.stdout.read()
    os.killpg(running.pid, signum)
    running.communicate(timeout=PATIENCE_S)
    until(lambda: "the node serves no longer" in log.read_text(), "the node to be free")
    assert one.state == "STOPPED"
    assert one.calls == ["POST /api/v1/inference/up", "POST /api/v1/inference/down"]


@pytest.mark.engine
def test_real_vllm_behind_a_node(node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not VLLM.exists() or not MODEL.exists():
        reason = "needs .engines/vllm and its tiny model: make engine-vllm"
        pytest.fail(reason) if os.environ.get("LLMPERF_REQUIRE_ENGINES") == "1" else pytest.skip(reason)
    for name, value in {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    one = node(program=(str(VLLM), "-m", "vllm.entrypoints.openai.api_server"), gpus=1)
    args = {
        "tensor-parallel-size": 1,
        "dtype": "bfloat16",
        "max-model-len": 1024,
        "served-model-name": "tiny",
        "enforce-eager": True,
        "kv-cache-memory-bytes": 64 << 20,
        "max-num-seqs": 8,
    }
    with start_server(one.config(gpus=1, model=str(MODEL), args=args, ready_timeout="400 s"), tmp_path, ()) as server:
        assert server.targets[0].model == "tiny"
        assert server.version is not None
        assert all(record.ok for record in measured(server).records)
    assert one.state == "STOPPED"
