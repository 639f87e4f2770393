"""Servers started by a plan's own words: the embedded engine's command line, scripts around it, and real vLLM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.errors import ServerError
from pytest_llmperf.plan.server.engines.command import CommandServer
from pytest_llmperf.servers.process.process import wait_until
from pytest_llmperf.servers.start import start_server

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".engines" / "vllm" / "bin" / "vllm"
MODEL = ROOT / ".engines" / "models" / "tiny-llama"
PATIENCE_S = 60.0
EMBEDDED = [sys.executable, "-m", "pytest_llmperf.embedded", "--model", "{model}", "--port", "{port}"]
QUICK = ["--step", "modelled", "--decode-ms-per-step", "1"]
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
"""
INI = "[pytest]\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function\n"


def config(command: list[str], **changes: Any) -> CommandServer:
    given = {"name": "free", "engine": "command", "model": "org/m", "command": command, "ready_timeout": "60 s"}
    return CommandServer.model_validate({**given, **changes})


def script(folder: Path, text: str) -> str:
    """An executable start.sh in the folder, as the first word of a command."""
    path = folder / "start.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return "./start.sh"


def suite(folder: Path, server: dict[str, Any], *args: str) -> subprocess.CompletedProcess[str]:
    """A pytest of its own on a plan with this server; JSON is YAML."""
    load = {"input_tokens": 8, "output_tokens": 8, "concurrency": 2, "requests": 6}
    plan = {
        "model": "tiny",
        "runs": 1,
        "servers": {"free": server},
        "loads": {"s": load},
        "sla": {"error_rate": "<= 0"},
    }
    (folder / "plan.yaml").write_text(json.dumps(plan))
    (folder / "test_perf.py").write_text(TEST)
    (folder / "pytest.ini").write_text(INI)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", f"--llmperf-output={folder}/out", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=_env(folder))


def _env(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    return {**kept, "PYTEST_ADDOPTS": f"--rootdir={folder} -c {folder}/pytest.ini {folder}/test_perf.py"}


def test_the_embedded_engines_own_command_line(tmp_path: Path) -> None:
    with start_server(config([*EMBEDDED, *QUICK], replicas=2), tmp_path / "logs", ()) as server:
        assert server.targets[0].model == "org/m"
        assert len({target.url for target in server.targets}) == 2
        server.check_alive()
        assert server.version is not None
        assert server.relaunch()
        server.check_alive()
    assert {process.exit_code() for process in server.processes} == {0}
    assert "Shutting down" in server.logs[0].read_text()


def test_a_script_measured_by_a_test(tmp_path: Path) -> None:
    """The script and its argument count from the plan, wherever pytest is started; its children end with it."""
    folder = tmp_path / "serving"
    folder.mkdir()
    words = " ".join([sys.executable, "-m", "pytest_llmperf.embedded", "--model", "$1", "--port", "$PORT", *QUICK])
    server = {
        "engine": "command",
        "command": [script(folder, f"pwd\n{words} &\necho $! > child\nwait"), "{model}"],
        "cwd": "serving",
        "env": {"PORT": "{port}"},
        "ready": {"path": "/v1/models", "status": 200},
    }
    done = suite(tmp_path, server)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "out" / "servers" / "free.log").read_text().startswith(f"{folder}\n")
    assert not Path(f"/proc/{(folder / 'child').read_text().strip()}").exists()
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert (point["environment"].endswith("-command"), point["server"]["cwd"]) == (True, str(folder))

    shown = suite(tmp_path, server, "--llmperf-dry-run").stdout
    assert f"free: 0 GPUs needed\n  cd {folder} && PORT=PORT ./start.sh tiny\n" in shown


@pytest.mark.parametrize(("stop", "code"), [("SIGINT", 3), ("int", 3), ("SIGTERM", 4)])
def test_the_signal_that_stops_it(tmp_path: Path, stop: str, code: int) -> None:
    trapping = script(tmp_path, "trap 'exit 3' INT\ntrap 'exit 4' TERM\n\"$@\" &\nwait")
    command = [trapping, *EMBEDDED, *QUICK]
    with start_server(config(command, stop=stop, cwd=str(tmp_path)), tmp_path / "logs", ()) as server:
        pass
    assert server.processes[0].exit_code() == code


def test_the_command_that_stops_it(tmp_path: Path) -> None:
    """It runs where the server does and with what that was given, and its output is in the log."""
    command = [script(tmp_path, 'echo $$ > pid\nexec "$@"'), *EMBEDDED, *QUICK]
    stop = ["sh", "-c", "echo stopping {port} $NAME; kill -INT $(cat pid)"]
    changes = {"cwd": str(tmp_path), "env": {"NAME": "by hand"}, "stop": stop}
    with start_server(config(command, **changes), tmp_path / "logs", ()) as server:
        port = server.url.rpartition(":")[2]
    assert f"stopping {port} by hand\n" in server.logs[0].read_text()
    assert server.processes[0].exit_code() == 0


@pytest.mark.parametrize("stop", [["false"], ["/no/such/program"]])
def test_a_stop_command_that_fails_stops_it_all_the_same(tmp_path: Path, stop: list[str]) -> None:
    with start_server(config([*EMBEDDED, *QUICK], stop=stop), tmp_path / "logs", ()) as server:
        pass
    assert server.processes[0].exit_code() == 0


PARENT = """
import json, sys, time
from pathlib import Path
from pytest_llmperf.plan.server.engines.command import CommandServer
from pytest_llmperf.servers.start import start_server
with start_server(CommandServer.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), ()):
    print("up", flush=True)
    time.sleep(3600)
"""


def test_the_stop_command_runs_though_pytest_is_killed(tmp_path: Path) -> None:
    stop = ["sh", "-c", "echo stopped > stopped"]
    entry = {"name": "free", "engine": "command", "model": "m", "command": [*EMBEDDED, *QUICK], "cwd": str(tmp_path)}
    command = [sys.executable, "-c", PARENT, json.dumps({**entry, "stop": stop}), str(tmp_path / "logs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        parent.send_signal(signal.SIGKILL)
    wait_until((tmp_path / "stopped").exists, None, "the stop command", PATIENCE_S)


def test_without_a_route_for_readiness_the_first_request_tells(tmp_path: Path) -> None:
    with start_server(config([*EMBEDDED, *QUICK], ready=False), tmp_path / "logs", ()) as server:
        server.check_alive()
        assert server.url.startswith("http://127.0.0.1:")


def test_a_route_that_is_not_there_is_named(tmp_path: Path) -> None:
    wrong = config([*EMBEDDED, *QUICK], ready="/healthz", ready_timeout="3 s")
    with pytest.raises(ServerError, match=r"was not ready within 3 s .*; GET /healthz: HTTP 404: Not Found; log: "):
        start_server(wrong, tmp_path / "logs", ()).__enter__()


def test_a_program_that_ends_says_why(tmp_path: Path) -> None:
    free = config([script(tmp_path, "no-such-server --port $1"), "{port}"], cwd=str(tmp_path))
    with pytest.raises(ServerError) as error, start_server(free, tmp_path / "logs", ()):
        pass
    assert "server 'free' ended before it was ready; exit code 127; first error in its log: " in str(error.value)
    assert "no-such-server" in str(error.value).partition("first error")[2]


def test_a_server_of_others_on_the_port_is_not_measured(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with (
            pytest.raises(ServerError, match=f"cannot be started: something listens at {url} already"),
            start_server(config(["sleep", "60"], url=url), tmp_path / "logs", ()),
        ):
            pass
    assert not (tmp_path / "logs").exists()


@pytest.mark.engine
def test_real_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [str(path.relative_to(ROOT)) for path in (VLLM, MODEL) if not path.exists()]
    if missing:
        reason = f"needs {' and '.join(missing)}: make engine-vllm"
        pytest.fail(reason) if os.environ.get("LLMPERF_REQUIRE_ENGINES") == "1" else pytest.skip(reason)
    serve = [str(VLLM), "serve", str(MODEL)]
    words = [*serve, "--served-model-name", "{model}", "--host", "127.0.0.1", "--port", "{port}"]
    limits = ["--dtype", "bfloat16", "--max-model-len", 1024, "--enforce-eager", "--kv-cache-memory-bytes", 64 << 20]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}
    server = {
        "engine": "command",
        "command": [*words, *limits],
        "env": {**offline, "TRANSFORMERS_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", "VLLM_API_KEY": "${PERF_KEY}"},
        "bearer": "${PERF_KEY}",
        "ready_timeout": "600 s",
    }
    monkeypatch.setenv("PERF_KEY", "sk-0123456789")
    done = suite(tmp_path, server)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert point["metrics"]["output_tokens"]["min"] == point["metrics"]["output_tokens"]["max"] == 8
    assert point["environment"].endswith("-command")
    assert "sk-0123456789" not in done.stdout + (tmp_path / "out" / "report.json").read_text()
