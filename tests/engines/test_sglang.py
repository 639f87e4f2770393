"""SGLang's life cycle, on a stand-in that reads the command line as SGLang does and serves under its routes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.plan.server.engines.sglang import SglangServer
from pytest_llmperf.servers.start import start_server

STAND_INS = Path(__file__).parent / "stand_ins"
KEY = "sk-0123456789"


@pytest.fixture
def sglang(tmp_path: Path) -> Path:
    """An executable like the one that SGLang installs."""
    path = tmp_path / "sglang"
    program = (
        "import runpy, sys\nassert sys.argv.pop(1) == 'serve'\nrunpy.run_module('sglang.launch_server', {}, '__main__')"
    )
    path.write_text(f"#!{sys.executable}\n{program}\n")
    path.chmod(0o755)
    return path


def config(executable: Path | str, args: dict[str, Any], **changes: Any) -> SglangServer:
    given = {"name": "sg", "engine": "sglang", "model": "org/m", "executable": str(executable), "gpus": 0}
    env = {"PYTHONPATH": str(STAND_INS)}
    return SglangServer.model_validate({**given, "env": env, "args": args, "ready_timeout": "60 s", **changes})


ARGS = {
    "tp": 2,
    "served_model_name": "tiny",
    "mem-fraction-static": 0.8,
    "disable-radix-cache": True,
    "enable-torch-compile": False,
    "json-model-override-args": {"num_hidden_layers": 2},
    "enable-metrics": True,
}


def test_it_starts_answers_and_ends(sglang: Path, tmp_path: Path) -> None:
    with start_server(config(sglang, ARGS), tmp_path, ()) as server:
        assert (server.version, server.targets[0].model) == ("0.5.23", "tiny")
        spec = LoadSpec.model_validate({"input_tokens": 8, "output_tokens": 16, "concurrency": 2, "requests": 8})
        server.begin_watching()
        (point,) = spec.points("s")
        run = asyncio.run(run_load(server.targets, point, make_trace(point, "sg"), run_index=0))
        server.check_alive()
        assert server.end_watching() is not None
        assert [record.error for record in run.records] == [None] * len(run.records)
        assert {record.output_tokens for record in run.records} == {16}
    assert server.processes[0].exit_code() is not None


def test_a_module_of_a_python_is_started_too(tmp_path: Path) -> None:
    with start_server(config(sys.executable, {}), tmp_path, ()) as server:
        assert server.targets[0].model == "org/m"


def test_keys_are_in_a_file_of_ours_and_nowhere_else(
    sglang: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGL_KEY", KEY)
    args = {"api-key": "${SGL_KEY}", "admin-api-key": "${SGL_KEY}"}
    with start_server(config(sglang, args), tmp_path / "logs", ()) as server:
        assert dict(server.targets[0].headers) == {"Authorization": f"Bearer {KEY}"}
        (process,) = server.processes
        family = Path(f"/proc/{process.handle.pid}/task/{process.handle.pid}/children").read_text().split()
        lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (process.handle.pid, *family)]
        assert not any(KEY in line for line in lines)
        log = server.logs[0].read_text()
        assert "mode 600 in 700, keys ['admin-api-key', 'api-key']" in log
        file = Path(log.partition("config file ")[2].partition(",")[0])
        assert KEY in file.read_text()
        assert "api_key='***'" in server.log_tail()
    assert not file.exists()


@pytest.mark.parametrize(
    ("args", "cause"),
    [
        ({"no-such-flag": 3}, "exit code 2; first error in its log: sglang serve: error: unrecognized arguments: "),
        ({"max-num-seqs": 3}, "unrecognized arguments: --max-num-seqs 3"),
        ({"mem-fraction-static": 0.99}, "first error in its log: RuntimeError: Not enough memory."),
    ],
)
def test_a_start_that_fails_says_why(sglang: Path, tmp_path: Path, args: dict[str, Any], cause: str) -> None:
    with pytest.raises(ServerError) as error, start_server(config(sglang, args), tmp_path, ()):
        pass
    assert "server 'sg' ended before it was ready" in str(error.value)
    assert cause in str(error.value)


def test_without_the_executable_nothing_is_tried(tmp_path: Path) -> None:
    absent = config(tmp_path / "none", {})
    with pytest.raises(MissingRequirement, match="needs the executable"), start_server(absent, tmp_path, ()):
        pass
