"""A secret in every place that an engine takes one, programs that print it, a session that fails: it is nowhere to be
found, neither in what is written and said nor in the list of processes meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kubernetes_samples import running_cluster
from trtllm_samples import config as trtllm_config
from trtllm_samples import put_on_path

from pytest_llmperf.servers.process.process import free_ports

KEY = "canary-/+3f9a7c21d8"
FILE_KEY = "canary-of-a-file-91ab"
STAND_INS = Path(__file__).parents[1] / "standins"
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    key = __import__("os").environ["LLM_KEY"]
    sla.check(load_driver.run(llm_server, load_point))
"""
INI = "[pytest]\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function\n"
REPORTS = ("-l", "-rA", "--junitxml=junit.xml", "--llmperf-export=csv,aiperf", "--llmperf-html=report.html")
PRINTS = '#!/bin/sh\nenv\nenv >&2\nexec {program} "$@"\n'
Entry = dict[str, Any]


@contextlib.contextmanager
def _trtllm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    """`hf`, whose log is its own, prints all that it has in its environment."""
    put_on_path(monkeypatch)
    program = folder / "bin" / "hf"
    program.parent.mkdir()
    program.write_text(PRINTS.format(program=STAND_INS / "trtllm" / "bin" / "hf"))
    program.chmod(0o755)
    env = {"HF_TOKEN": "${LLM_KEY}"}
    given = trtllm_config(folder, env=env, programs={"hf": str(program)})
    yield given.model_dump(mode="json", exclude={"name", "unlocked", "ready", "ready_timeout", "exit_timeout"})


@contextlib.contextmanager
def _sglang(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    env = {"PYTHONPATH": str(Path(__file__).parent / "stand_ins"), "HF_TOKEN": "${LLM_KEY}"}
    args = {"api-key": "${LLM_KEY}", "admin-api-key": "${LLM_KEY}"}
    yield {"engine": "sglang", "executable": sys.executable, "gpus": 0, "env": env, "args": args}


@contextlib.contextmanager
def _mlnode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    port, inference = free_ports(1)[0], 20_000 + os.getpid() % 1000 * 10
    engine = (sys.executable, "-m", "pytest_llmperf.embedded", "--step", "modelled", "--decode-ms-per-step", "2")
    ports = ("--port", str(port), "--inference-port", str(inference), "--gpus", "1")
    node = [sys.executable, str(STAND_INS / "mlnode.py"), *ports, "--", *engine]
    with subprocess.Popen(node, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"node is up\n"
        yield {
            "engine": "mlnode",
            "url": f"http://127.0.0.1:{port}?key=${{LLM_KEY}}",
            "inference_url": f"http://127.0.0.1:{inference}?key=${{LLM_KEY}}",
            "gpus": 1,
            "bearer": "${LLM_KEY}",
            "headers": {"X-Api-Key": "${LLM_KEY}"},
        }
        process.terminate()
        process.stdout.read()


@contextlib.contextmanager
def _kubernetes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    """What is sent to the cluster is printed by a step, and by the pod, whose log is kept."""
    secrets = folder / "secret-values.yaml"
    secrets.write_text(json.dumps({"secretEnv": {"FILE_PASSWORD": FILE_KEY}}))
    with running_cluster(folder / "cluster") as cluster:
        values = {"secretEnv": {"MODEL_KEY": "${LLM_KEY}"}}
        yield cluster.entry(
            values=values,
            values_files=[str(secrets)],
            env={"RCLONE_KEY": "${LLM_KEY}"},
            prepare=[["sh", "-c", f"env; cat {secrets}"]],
        )


@contextlib.contextmanager
def _command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    """Server and proxy print all that they have in their environment."""
    env = {"SERVER_KEY": "${LLM_KEY}"}
    program = folder / "program"
    program.write_text(PRINTS.format(program=sys.executable))
    program.chmod(0o755)
    server = ["-m", "pytest_llmperf.embedded", "--model", "{model}", "--port", "{port}", "--step", "modelled"]
    proxy = [str(STAND_INS / "balancer.py"), "--port", "{port}", "{replicas}"]
    yield {
        "engine": "command",
        "command": [str(program), *server],
        "bearer": "${LLM_KEY}",
        "headers": {"X-Api-Key": "${LLM_KEY}"},
        "env": env,
        "replicas": 2,
        "proxy": {"command": [str(program), *proxy], "env": env},
    }


ENGINES: dict[str, Callable[..., contextlib.AbstractContextManager[Entry]]] = {
    "trtllm": _trtllm,
    "sglang": _sglang,
    "mlnode": _mlnode,
    "kubernetes": _kubernetes,
    "command": _command,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_secret_is_nowhere(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KEY", KEY)
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "suite"
    folder.mkdir()
    (tmp_path / "cluster").mkdir()
    with ENGINES[engine](tmp_path, monkeypatch) as entry:
        load = {"input_tokens": 8, "output_tokens": 8, "concurrency": 2, "requests": 6}
        plan = {
            "model": "org/m",
            "runs": 1,
            "servers": {"s": entry},
            "loads": {"a": load},
            "sla": {"e2e_p50": "<= 1 us"},
        }
        (folder / "plan.yaml").write_text(json.dumps(plan))
        (folder / "test_x.py").write_text(TEST)
        (folder / "pytest.ini").write_text(INI)
        told, processes = _session(folder, *REPORTS, "--llmperf-output=out")
        shown, _ = _session(folder, "--llmperf-dry-run")
    assert "AssertionError" in told, told
    assert _found(told) == _found(processes) == _found(shown) == set()
    assert {str(path.relative_to(folder)): found for path in _files(folder) if (found := _found(_text(path)))} == {}
    assert (folder / "out" / "report.json").exists()


def _session(folder: Path, *words: str) -> tuple[str, str]:
    """What a pytest says, and the command lines of all processes while it runs."""
    output, seen = folder.parent / "output.txt", set[str]()
    with output.open("w") as file:
        command = [sys.executable, "-m", "pytest", *words]
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_text(errors="replace"))
    return output.read_text(), "\n".join(seen)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")


def _found(text: str) -> set[str]:
    """The forms of the secrets that a text has."""
    forms = {KEY, quote(KEY, safe=""), quote(KEY), base64.b64encode(KEY.encode()).decode(), FILE_KEY}
    return {form for form in forms if form in text}
