"""The exact commands of Triton servers, on this machine and in Docker."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.servers.engines.commands import missing_requirement, server_command, shown_command
from pytest_llmperf.servers.engines.triton.command import Place
from pytest_llmperf.telemetry.gpu import Gpu

PLACE = Place(1, 2, 3, "/repo", "llmperf-1")
OWN = (
    "--http-address=127.0.0.1 --http-port=1 --grpc-address=127.0.0.1 --grpc-port=2 "
    "--metrics-address=127.0.0.1 --metrics-port=3 --exit-timeout-secs=5"
)


def _server(**changes: Any) -> TritonServer:
    given = {"engine": "triton", "name": "t", "model": "gpt2", "models": {"m": {"backend": "vllm"}}}
    return TritonServer.model_validate({**given, **changes})


def test_on_this_machine() -> None:
    options = {"log_verbose": 1, "--strict-readiness": False, "backend-config": ["python,a=b", "vllm,c=d"]}
    config = _server(gpus=0, options=options, exit_timeout="9 s")
    assert " ".join(server_command(config, PLACE, ()).argv) == (
        f"tritonserver --model-repository=/repo {OWN.removesuffix('5')}9 --allow-gpu-metrics=false "
        "--log-verbose=1 --strict-readiness=false --backend-config=python,a=b --backend-config=vllm,c=d"
    )
    assert config.served_model == "m"


def test_in_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    config = _server(
        image="nvcr.io/nvidia/tritonserver:25.01-vllm-python-py3",
        model="/models/llama",
        args={"tensor-parallel-size": 2},
        env={"TOKEN": "${HF_TOKEN}"},
        docker_args=["-v=/cache:/root/.cache"],
        shm_size="2g",
    )
    command = server_command(config, PLACE, [Gpu("2", "H200"), Gpu("3", "H200")])
    assert " ".join(command.argv) == (
        "docker run --rm --init --name=llmperf-1 --network=host --shm-size=2g --ulimit=memlock=-1 "
        '--ulimit=stack=67108864 --gpus="device=2,3" --env=TOKEN --volume=/repo:/models:ro '
        "--volume=/models/llama:/models/llama:ro -v=/cache:/root/.cache "
        f"nvcr.io/nvidia/tritonserver:25.01-vllm-python-py3 tritonserver --model-repository=/models {OWN}"
    )
    assert "hf_secret" not in " ".join(command.argv) + command.shown
    assert command.env["TOKEN"] == "hf_secret"


@pytest.mark.parametrize(
    "url", ["s3://https://s3.example.com:443/bucket/models", "gs://bucket/models", "as://account/c"]
)
def test_a_repository_elsewhere_is_passed_through(url: str) -> None:
    config = _server(models={}, repository=url, serve="gpt2", image="image", gpus=0)
    shown = shown_command(config, "PORT", ())
    assert f"--model-repository={url}" in shown
    assert "--volume" not in shown


def test_what_is_missing() -> None:
    assert missing_requirement(_server(executable="no-such-triton", gpus=0), ()) == (
        "needs the executable 'no-such-triton', which was not found"
    )
    assert missing_requirement(_server(executable="sh"), ()) == "needs 1 GPU, found 0"
    assert "model folder /no/model" in str(missing_requirement(_server(executable="sh", gpus=0, model="/no/model"), ()))
