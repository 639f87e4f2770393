"""TensorRT-LLM's life cycle on stand-ins: every step once, what a step that fails says, and what is left when it ends.

What Triton makes of the filled repositories is in test_trtllm_triton.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trtllm_samples import SIZES, STANDINS, config, half_made, installed, put_on_path

from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.servers.start import start_server

PATIENCE_S = 60.0
FP8 = {"precision": "fp8"}
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
"""
INI = "[pytest]\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function\n"


@pytest.fixture(autouse=True)
def _toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch)


def test_it_is_fetched_quantised_and_served(tmp_path: Path) -> None:
    with start_server(config(tmp_path, {**FP8, "kv-cache-dtype": "auto"}), tmp_path / "logs", ()) as server:
        assert server.deployment["tensorrt_llm"] == "1.0.0"
        assert server.deployment["commit"] == "9f2c1a7be0d34c55a1f2b3c4d5e6f70812345678"
        assert server.deployment["flow"] == "serve"
        assert server.targets[0].model.startswith("Qwen2-7B_fp8_tp1_pp1-"), "trtllm-serve calls it after its folder"
        spec = LoadSpec.model_validate({"input_tokens": 8, "output_tokens": 16, "concurrency": 2, "requests": 8})
        (point,) = spec.points("s")
        run = asyncio.run(run_load(server.targets, point, make_trace(point, "trt"), run_index=0))
        server.check_alive()
        assert {record.error for record in run.records} == {None}
        assert {record.output_tokens for record in run.records} == {16}
    log = server.logs[0].read_text()
    assert [line.partition(":")[0] for line in log.splitlines() if ": done in " in line] == [
        "step 1/3 download",
        "step 2/3 quantize",
    ]
    assert 'LLM API options: {"kv_cache_config": {"dtype": "fp8"}}' in log
    assert server.processes[0].exit_code() is not None
    assert half_made(tmp_path) == []


def test_equal_inputs_are_made_once_and_other_inputs_anew(tmp_path: Path) -> None:
    logs = []
    site = {"PYTHONPATH": str(installed(tmp_path / "site", "1.1.0"))}
    for number, (args, env) in enumerate([(FP8, {}), (FP8, {}), (FP8 | {"tp": 2}, {}), (FP8, site)]):
        with start_server(config(tmp_path, args, env), tmp_path / f"logs{number}", ()) as server:
            logs.append(server.logs[0].read_text())
    assert ["made before for the same inputs" in log for log in logs] == [False, True, False, False]
    facts = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "weights").glob("*.json")]
    assert sorted(fact["tensorrt_llm"] for fact in facts) == ["1.0.0", "1.0.0", "1.1.0"]


def test_a_model_that_changed_is_quantised_anew(tmp_path: Path) -> None:
    model = tmp_path / "own"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}))
    logs = []
    for number in range(2):
        (model / "weights.safetensors").write_text("x" * number)
        with start_server(config(tmp_path, FP8, model=str(model)), tmp_path / f"logs{number}", ()) as server:
            logs.append(server.logs[0].read_text())
    assert all("step 1/2 quantize: python3" in log for log in logs)


def test_two_that_need_the_same_make_it_once(tmp_path: Path) -> None:
    with start_server(config(tmp_path, FP8, replicas=2), tmp_path / "logs", ()) as server:
        logs = [path.read_text() for path in server.logs]
    assert sorted("made before" in log for log in logs) == [False, True]
    assert len(list((tmp_path / "cache" / "weights").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("flow", "program", "says", "cause"),
    [
        ("serve", "hf", "OSError: no route to host", "step 1/3 download: exit code 1: OSError: no route to host"),
        (
            "serve",
            "quantize.py",
            "RuntimeError: CUDA out of memory",
            "step 2/3 quantize: exit code 1: RuntimeError: CUDA",
        ),
        (
            "engine",
            "trtllm-build",
            "RuntimeError: Engine building failed",
            "step 3/5 build: exit code 1: RuntimeError: En",
        ),
        ("serve", "trtllm-serve", "ValueError: No GPU devices found", "first error in its log: ValueError: No GPU"),
    ],
)
def test_a_step_that_fails_is_named_with_its_cause(
    tmp_path: Path, flow: str, program: str, says: str, cause: str
) -> None:
    (tmp_path / "tritonserver").symlink_to("/bin/true")
    given = {"flow": flow, "programs": {"tritonserver": str(tmp_path / "tritonserver")}}
    server = config(tmp_path, FP8, {"STANDIN_FAULT": f"{program}: {says}"}, **given)
    with pytest.raises(ServerError) as error, start_server(server, tmp_path / "logs", ()):
        pass
    message = str(error.value)
    assert "server 'trt' ended before it was ready; exit code 1; first error in its log: " in message
    assert cause in message
    if program != "trtllm-serve":
        assert "its log: " in message
        assert f'TensorRT-LLM version: 1.0.0\nTraceback (most recent call last):\n  File "{program}"' in "".join(
            path.read_text() for path in (tmp_path / "logs" / "trt-trtllm").glob("*.log")
        )
    assert half_made(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"args": {**SIZES, "no-such-flag": 3}, "flow": "engine"},
            "trtllm-build: error: unrecognized arguments: --no_such",
        ),
        ({"convert": {"device": "tpu"}, "args": FP8}, "quantize.py: error: argument --device: invalid choice: 'tpu'"),
        ({"model": "gated/m"}, "Access denied. This repository requires approval: gated/m; its log: "),
        ({"examples": "/no/such", "args": FP8}, "before step 1/3: not there: /no/such; `examples` names"),
        ({"family": "bert", "flow": "engine"}, "models/core/bert/convert_checkpoint.py, "),
        ({"templates": "/no/such", "flow": "engine"}, "not there: /no/such/inflight_batcher_llm; `templates` names"),
        ({"programs": {"trtllm-serve": "no-such-serve"}}, "'no-such-serve' was not found; `programs: {trtllm-serve"),
        (
            {"args": FP8, "env": {"PYTHONPATH": "/no/site"}},
            "python3 has no tensorrt_llm (importlib.metadata.PackageNot",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_served(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    (tmp_path / "tritonserver").symlink_to("/bin/true")
    changes = {"programs": {"tritonserver": str(tmp_path / "tritonserver")}, **changes}
    env = {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(STANDINS / "site"), **changes.pop("env", {})}
    server = config(tmp_path, env=env, **changes)
    with pytest.raises(ServerError) as error, start_server(server, tmp_path / "logs", ()):
        pass
    assert cause in str(error.value)


def test_one_that_takes_too_long_says_with_what(tmp_path: Path) -> None:
    server = config(tmp_path, env={"STANDIN_HANG": "hf"}, ready_timeout="3 s")
    with pytest.raises(ServerError) as error, start_server(server, tmp_path / "logs", ()):
        pass
    assert "was not ready within 3 s (ready_timeout); step 1/2 download: hf download Qwen/" in str(error.value)


def test_a_token_reaches_the_download_by_the_environment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_0123456789")
    server = config(tmp_path, env={"HF_TOKEN": "${MY_TOKEN}"}, model="gated/m")
    with start_server(server, tmp_path / "logs", ()):
        pass
    texts = [path.read_text(errors="replace") for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    assert not any("hf_0123456789" in text for text in texts)


def test_without_the_toolchain_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with (
        pytest.raises(MissingRequirement, match="needs the executable 'hf', which was not found"),
        start_server(config(tmp_path), tmp_path / "logs", ()),
    ):
        pass
    assert not (tmp_path / "logs").exists()


# However it ends


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)


def _processes_with(mark: str) -> list[str]:
    """Command lines of all processes that carry the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def _busy_with(tmp_path: Path, program: str) -> tuple[subprocess.Popen[bytes], str]:
    """A pytest whose deployment hangs in this program, with what marks all of its processes."""
    server = config(tmp_path, FP8, {"STANDIN_HANG": program}, flow="engine", programs={"tritonserver": "/bin/true"})
    entry = server.model_dump(mode="json", exclude={"name", "unlocked", "ready", "ready_timeout", "exit_timeout"})
    load = {"endpoint": "generate", "input_tokens": 8, "output_tokens": 8, "concurrency": 1, "requests": 4}
    servers = {"trt": {**entry, "unlocked": ["precision"]}}
    plan = {"model": "m", "servers": servers, "loads": {"short": load}}
    for name, text in (("plan.yaml", json.dumps(plan)), ("test_perf.py", TEST), ("pytest.ini", INI)):
        (tmp_path / name).write_text(text)
    mark = f"LLMPERF_TEST_{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "pytest", "-q", f"--llmperf-output={tmp_path / 'out'}"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, mark: "1"}, start_new_session=True)
    steps = tmp_path / "out" / "servers" / "trt-trtllm"
    _until(
        lambda: any(f"{program} is busy" in path.read_text() for path in steps.glob("*.log")) or process.poll(),
        f"{program} to be busy",
    )
    assert process.poll() is None
    return process, mark


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("program", ["hf", "quantize.py", "trtllm-build"])
def test_an_end_in_the_middle_of_a_step_leaves_nothing_behind(tmp_path: Path, program: str, signum: int) -> None:
    process, mark = _busy_with(tmp_path, program)
    os.killpg(process.pid, signum)
    process.wait(PATIENCE_S)
    _until(lambda: not _processes_with(mark), "the processes to go")
    assert half_made(tmp_path) == []
    assert "stopped; nothing half-made is kept" in (tmp_path / "out" / "servers" / "trt.log").read_text()


def test_what_a_killed_holder_left_is_no_obstacle(tmp_path: Path) -> None:
    process, mark = _busy_with(tmp_path, "quantize.py")
    holders = [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if b"deployments.trtllm" in _words(path) and b"supervisor" not in _words(path) and mark in _environ(path)
    ]
    for pid in holders:
        os.kill(pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    _until(lambda: not _processes_with(mark), "the processes to go")
    assert len(half_made(tmp_path)) == 1
    with start_server(config(tmp_path, FP8, flow="serve"), tmp_path / "logs", ()):
        pass
    server = config(tmp_path, FP8, flow="engine", programs={"tritonserver": "/bin/false"})
    with pytest.raises(ServerError, match="exit code 1"), start_server(server, tmp_path / "again", ()):
        pass
    assert "step 5/5 serve" in (tmp_path / "again" / "trt.log").read_text()
    assert half_made(tmp_path) == []


def _words(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _environ(process: Path) -> str:
    try:
        return (process / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
