"""TensorRT-LLM's repositories on real Triton, with stand-ins for the toolchain and for the engine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from trtllm_samples import STANDINS, TRITON, config, put_on_path

from pytest_llmperf.errors import ServerError
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

pytestmark = pytest.mark.engine
ENGINE = {"triton_backend": "python"}
"""The stand-in for the engine is a python model."""


@pytest.fixture(autouse=True)
def _toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (TRITON / "tritonserver").exists():
        reason = "needs .engines/triton: make engine-triton"
        if os.environ.get("LLMPERF_REQUIRE_ENGINES") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    put_on_path(monkeypatch)


def _engine(folder: Path, args: dict[str, Any] | None = None, **changes: Any):
    programs = {"tritonserver": str(TRITON / "tritonserver")}
    return config(folder, args, **{"flow": "engine", "template": ENGINE, "programs": programs, **changes})


@pytest.fixture(params=["own", "installed"])
def templates(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Our own templates; NVIDIA's configurations too, where LLMPERF_TRTLLM_TEMPLATES names their folder all_models/.

    The models' code is the stand-ins' in both.
    """
    if request.param == "own":
        return STANDINS / "all_models"
    if "LLMPERF_TRTLLM_TEMPLATES" not in os.environ:
        pytest.skip("LLMPERF_TRTLLM_TEMPLATES names no templates")
    folder = tmp_path / "all_models"
    shutil.copytree(STANDINS / "all_models", folder)
    for path in Path(os.environ["LLMPERF_TRTLLM_TEMPLATES"]).glob("inflight_batcher_llm/*/config.pbtxt"):
        shutil.copyfile(path, folder / "inflight_batcher_llm" / path.parent.name / path.name)
    return folder


def _measured(server: LlmServer, **changes: Any) -> Run:
    given = {"input_tokens": 8, "output_tokens": 16, "concurrency": 4, "requests": 8, "endpoint": "generate", **changes}
    (point,) = LoadSpec.model_validate(given).points("load")
    runs: list[Run] = []
    asyncio.run(Measurement(server, point, point.name, runs.append).run())
    return runs[-1]


@pytest.mark.parametrize(
    ("serve", "endpoint"), [("ensemble", "generate"), ("ensemble", "grpc"), ("tensorrt_llm_bls", "generate")]
)
def test_the_filled_repository_serves_on_triton(
    tmp_path: Path, any_machine: None, templates: Path, serve: str, endpoint: str
) -> None:
    asked = _engine(tmp_path, {"precision": "fp8"}, serve=serve, templates=str(templates))
    with start_server(asked, tmp_path / "logs", ()) as server:
        run = _measured(server, endpoint=endpoint)
        assert (server.version or "").startswith("1.0.0 in Triton 2.")
        assert {record.error for record in run.records} == {None}
        assert {record.output_tokens for record in run.records} == {16}
        assert min(len(record.chunk_ns) for record in run.records) > 8, "they stream"
        facts = json.loads((tmp_path / "logs" / "trt.deployed.json").read_text())
        assert "tensorrt_llm: medusa_choices" in facts["left_over"]
        assert Path(facts["engine"]).name.startswith("Qwen2-7B_fp8_tp1_pp1_isl64_osl32_bs4-")
    assert server.processes[0].exit_code() is not None


def test_an_engine_for_two_gpus_is_a_rank_each(tmp_path: Path, any_machine: None) -> None:
    with start_server(_engine(tmp_path, {"tp": 2, "precision": "fp16"}), tmp_path / "logs", ()) as server:
        assert {record.error for record in _measured(server).records} == {None}
        engine = json.loads((tmp_path / "logs" / "trt.deployed.json").read_text())["engine"]
        assert {path.name for path in Path(engine).iterdir()} == {"config.json", "rank0.engine", "rank1.engine"}


def test_without_streaming_answers_come_whole(tmp_path: Path, any_machine: None) -> None:
    with start_server(_engine(tmp_path, streaming=False), tmp_path / "logs", ()) as server:
        run = _measured(server, endpoint="generate-once")
        assert {record.error for record in run.records} == {None}


@pytest.mark.parametrize("endpoint", ["generate", "grpc"])
def test_the_llm_api_in_triton(tmp_path: Path, any_machine: None, endpoint: str) -> None:
    with start_server(_engine(tmp_path, flow="llmapi", template={}), tmp_path / "logs", ()) as server:
        run = _measured(server, endpoint=endpoint)
        assert {record.output_tokens for record in run.records} == {16}
        assert run.records[0].error is None


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ({"triton_backend": "nobody"}, "step 5/5 serve"),
        ({"max_queue_dealy": 3}, "step 4/5 repository: no template in"),
        ({"max_queue_size": "a b"}, "preprocessing/config.pbtxt: max_queue_size stands outside of quotes"),
    ],
)
def test_a_repository_that_triton_does_not_take(tmp_path: Path, template: dict[str, Any], cause: str) -> None:
    server = _engine(tmp_path, template=ENGINE | template)
    with pytest.raises(ServerError) as error, start_server(server, tmp_path / "logs", ()):
        pass
    log = (tmp_path / "logs" / "trt.log").read_text()
    assert "ended before it was ready" in str(error.value)
    assert cause in str(error.value) + log
