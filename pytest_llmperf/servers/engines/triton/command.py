"""The exact command of a tritonserver, on this machine or in a container."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.telemetry.gpu import Gpu

_HOST = "127.0.0.1"
_IN_CONTAINER = "/models"


class Place(NamedTuple):
    """The ports that one replica listens on and the repository that it serves. `container` is its name in Docker."""

    http: int | str = "PORT"
    grpc: int | str = "GRPC_PORT"
    metrics: int | str = "METRICS_PORT"
    repository: str = "MODEL_REPOSITORY"
    container: str = "CONTAINER"


def triton_argv(config: TritonServer, place: Place, gpus: Sequence[Gpu]) -> list[str]:
    """The words of the command; references to the environment are left in it."""
    if config.image is None:
        return [config.executable, *_flags(config, place, place.repository)]
    repository = place.repository if config.has_remote_repository else _IN_CONTAINER
    return [*_docker(config, place, gpus), config.image, config.executable, *_flags(config, place, repository)]


def _flags(config: TritonServer, place: Place, repository: str) -> Iterator[str]:
    own: dict[str, object] = {
        "model-repository": repository,
        "http-address": _HOST,
        "http-port": place.http,
        "grpc-address": _HOST,
        "grpc-port": place.grpc,
        "metrics-address": _HOST,
        "metrics-port": place.metrics,
        "exit-timeout-secs": round(config.exit_timeout),
    }
    if config.gpu_count == 0:
        own["allow-gpu-metrics"] = False
    for name, value in (own | _options(config)).items():
        for one in value if isinstance(value, list) else [value]:
            yield f"--{name}={str(one).lower() if isinstance(one, bool) else one}"


def _options(config: TritonServer) -> dict[str, object]:
    return {name.lstrip("-").replace("_", "-"): value for name, value in config.options.items()}


def _docker(config: TritonServer, place: Place, gpus: Sequence[Gpu]) -> Iterator[str]:
    """`docker run` in the foreground: it passes signals on, and its end is the server's. Ports are the host's own."""
    yield from ("docker", "run", "--rm", "--init", f"--name={place.container}", "--network=host")
    yield from (f"--shm-size={config.shm_size}", "--ulimit=memlock=-1", "--ulimit=stack=67108864")
    if gpus:
        yield f'--gpus="device={",".join(gpu.device for gpu in gpus)}"'
    for name in config.env:
        yield f"--env={name}"  # docker reads the value from its own environment, so no list of processes shows it
    if not config.has_remote_repository:
        yield f"--volume={place.repository}:{_IN_CONTAINER}:ro"
    if config.models and config.model.startswith("/"):
        yield f"--volume={config.model}:{config.model}:ro"
    yield from config.docker_args
