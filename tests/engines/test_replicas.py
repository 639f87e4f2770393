"""Replicas of a server: who gets which request, what each of them made, and which one died."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.driver import run_load, warm_up
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.load.workers import run_workers
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.records import Run
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

ROOT = Path(__file__).resolve().parents[2]
ARGS = {"step": "modelled", "decode-ms-per-step": 2}
CLOSED = {"input_tokens": 8, "output_tokens": 8, "concurrency": 4, "requests": 24}
OPEN = {"input_tokens": 8, "output_tokens": 8, "request_rate": 100, "requests": 24}
TURNS = {**CLOSED, "requests": 12, "conversation": {"turns": 3}}


def config(**changes: Any) -> EmbeddedServer:
    given = {"name": "two", "engine": "embedded", "model": "m", "args": ARGS, "replicas": 2, **changes}
    return EmbeddedServer.model_validate(given)


def measured(server: LlmServer, load: dict[str, Any], workers: int = 1, **options: Any) -> Run:
    (point,) = LoadSpec.model_validate(load).points("s")
    trace = make_trace(point, "key")
    if workers > 1:
        return asyncio.run(run_workers(server.targets, point, trace, workers=workers, run_index=0, **options))
    return asyncio.run(run_load(server.targets, point, trace, run_index=0, **options))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with start_server(config(), tmp_path_factory.mktemp("two"), ()) as server:
        yield server


@pytest.mark.parametrize("balance", ["least-inflight", "round-robin"])
@pytest.mark.parametrize("load", [CLOSED, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_replica_gets_its_part(two: LlmServer, load: dict[str, Any], balance: Any, workers: int) -> None:
    run = measured(two, load, workers, balance=balance)
    assert all(record.ok for record in run.records)
    sent = Counter(record.replica for record in run.records)
    assert set(sent) == {0, 1}
    if balance == "round-robin":
        assert abs(sent[0] - sent[1]) <= workers


def test_turns_of_a_conversation_stay_with_its_replica(two: LlmServer) -> None:
    run = measured(two, TURNS, balance="session")
    assert all(record.ok for record in run.records)
    replicas: dict[int | None, set[int | None]] = {}
    for record in run.records:
        replicas.setdefault(record.conversation, set()).add(record.replica)
    assert {len(found) for found in replicas.values()} == {1}
    assert {found.pop() for found in replicas.values()} == {0, 1}


def test_a_single_server_has_no_replicas(tmp_path: Path) -> None:
    with start_server(config(replicas=1), tmp_path, ()) as server:
        assert {record.replica for record in measured(server, CLOSED).records} == {None}


def test_the_replica_that_died_is_named(tmp_path: Path) -> None:
    with start_server(config(), tmp_path, ()) as server:
        (child,) = (
            Path(f"/proc/{server.processes[1].handle.pid}/task/{server.processes[1].handle.pid}/children")
            .read_text()
            .split()
        )
        os.kill(int(child), signal.SIGKILL)
        assert server.processes[1].has_ended_within(30)
        with pytest.raises(ServerError, match="server 'two-2' died; exit code 137"):
            server.check_alive()


PLAN: dict[str, Any] = {
    "model": "m",
    "runs": 1,
    "servers": {"two": {"engine": "embedded", "args": ARGS, "replicas": 2, "balance": "round-robin"}},
    "loads": {"s": CLOSED},
}
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, baseline):
    baseline.check(load_driver.run(llm_server, load_point))
"""


def suite(folder: Path, plan: dict[str, Any], *args: str) -> str:
    (folder / "plan.yaml").write_text(json.dumps(plan))
    (folder / "test_perf.py").write_text(TEST)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        f"--rootdir={folder}",
        "-c",
        f"{folder}/pytest.ini",
        f"{folder}/test_perf.py",
    ]
    own = [f"--llmperf-output={folder}/out", f"--llmperf-baselines={folder}/baselines", *args]
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    return subprocess.run([*command, *own], cwd=ROOT, capture_output=True, text=True, check=False, env=env).stdout


def test_every_report_has_what_each_replica_made(tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    output = suite(tmp_path, PLAN, "--llmperf-update-new", f"--llmperf-html={html}", "--llmperf-export=csv")
    assert "1 passed" in output
    assert "two-s: 2 replicas, round-robin, imbalance " in output
    (found,) = json.loads((tmp_path / "out" / "report.json").read_text())["replicas"]
    assert (found["id"], found["balance"]) == ("two-s", "round-robin")
    assert [one["replica"] for one in found["replicas"]] == [1, 2]
    assert sum(one["metrics"]["requests"]["sent"] for one in found["replicas"]) >= 24
    assert "2 replicas, round-robin" in html.read_text()
    (rows,) = (tmp_path / "out").rglob("requests.csv")
    header, *lines = rows.read_text().splitlines()
    assert header.endswith(",replica")
    assert {line.rpartition(",")[2] for line in lines} == {"1", "2"}
    (baseline,) = (tmp_path / "baselines").rglob("*.json")
    identity = json.loads(baseline.read_text())["identity"]
    assert (identity["replicas"], identity["balance"]) == (2, "round-robin")

    plan = {**PLAN, "servers": {"two": {**PLAN["servers"]["two"], "replicas": 3}}}
    output = suite(tmp_path, plan)
    assert "1 failed" in output
    assert "replicas was 2, is 3" in output


BALANCER = ROOT / "tests" / "standins" / "balancer.py"
PROXY = {"command": [sys.executable, str(BALANCER), "--port", "{port}", "{replicas}"]}


def test_a_proxy_spreads_the_load_and_the_replicas_tell_what_they_made(tmp_path: Path) -> None:
    servers = {"two": {"engine": "embedded", "args": ARGS, "replicas": 2, "proxy": PROXY}}
    plan = {**PLAN, "servers": servers, "loads": {"s": {**CLOSED, "output_tokens": 64, "requests": 80}}}
    output = suite(tmp_path, plan, "--llmperf-update-new")
    assert "1 passed" in output
    assert "two-s: 2 replicas, proxy, imbalance " in output
    (found,) = json.loads((tmp_path / "out" / "report.json").read_text())["replicas"]
    assert found["balance"] == "proxy"
    assert all(one["metrics"]["generated_tokens"] > 0 for one in found["replicas"])
    assert sorted(path.name for path in (tmp_path / "out" / "servers").glob("*.log")) == [
        "two-1.log",
        "two-2.log",
        "two-proxy.log",
    ]
    shown = suite(tmp_path, plan, "--llmperf-dry-run")
    assert "balancer.py --port PORT http://127.0.0.1:PORT1 http://127.0.0.1:PORT2" in shown


def test_a_proxy_that_dies_is_named(tmp_path: Path) -> None:
    with start_server(config(proxy=PROXY), tmp_path, ()) as server:
        assert all(record.ok for record in measured(server, CLOSED).records)
        server.check_alive()
        server.check_ours()
        server.processes[2].ask_to_stop()
        assert server.processes[2].has_ended_within(30)
        with pytest.raises(ServerError, match="server 'two-proxy' died"):
            server.check_alive()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["{port}", "{replicas}", "{x}"], "{x} in '{x}' is not known; allowed: {model}, {port}, {replicas}"),
        (["a", "{port}"], "a proxy's command holds {replicas}"),
        (["a", "{replicas}"], "a proxy's command holds {port}"),
    ],
)
def test_what_a_proxy_needs(command: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        config(proxy={"command": command})


def test_every_replica_is_warmed_up(tmp_path: Path) -> None:
    (point,) = LoadSpec.model_validate({**CLOSED, "warmup_requests": 2}).points("s")
    with start_server(config(replicas=3), tmp_path, ()) as server:
        asyncio.run(warm_up(server.instances, point, make_trace(point, "key")))
        for target in server.instances:
            metrics = httpx.get(f"{target.url}/metrics").text
            finished = [line for line in metrics.splitlines() if line.startswith("vllm:request_success_total")]
            assert sum(float(line.rpartition(" ")[2]) for line in finished) >= 2
