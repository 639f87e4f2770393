"""Triton Inference Server, started here or up already. Its repository and its services are beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import httpx

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.servers.engines.triton.command import Place, triton_argv
from pytest_llmperf.servers.engines.triton.service import metrics_text, service
from pytest_llmperf.servers.engines.triton.statistics import read
from pytest_llmperf.servers.process.missing import Lack, missing_executable, missing_model, missing_program
from pytest_llmperf.servers.process.process import LOOPBACK, Command, ServerProcess, wait_until
from pytest_llmperf.telemetry.counters import Reading
from pytest_llmperf.telemetry.gpu import Gpu

_ALIVE_TIMEOUT_S = 30.0


def missing(config: TritonServer) -> Lack | None:
    """Docker or the executable, and the model of a vllm backend."""
    reads_model = any(model.backend == "vllm" for model in config.models.values())
    program = missing_program("docker") if config.image else missing_executable(config)
    return program or (missing_model(config.model) if reads_model else None)


def command(config: TritonServer, place: Place | int | str, gpus: Sequence[Gpu]) -> Command:
    """Anything but a Place stands for ports that are not chosen yet, in a command that is only shown."""
    if not isinstance(place, Place):
        place = Place() if config.repository is None else Place(repository=config.repository)
    return Command(tuple(triton_argv(config, place, gpus)), config.env)


def preparation(config: TritonServer) -> str:
    """The command that writes the repository which a shown command serves; PLAN is the plan's file."""
    return f"llmperf model-repository PLAN {config.name} -o MODEL_REPOSITORY" if config.models else ""


def target(config: TritonServer, place: Place) -> Target:
    """The server's HTTP address, with those of gRPC and metrics."""
    return Target(
        f"http://{LOOPBACK}:{place.http}",
        config.served_model,
        grpc=f"{LOOPBACK}:{place.grpc}",
        metrics=f"http://{LOOPBACK}:{place.metrics}/metrics",
    )


def ready(config: TritonServer, target: Target, process: ServerProcess | None, loads: Sequence[LoadPoint]) -> Target:
    """Triton loads its models before it says ready."""
    wait_until(service(target).ready, process, config.name, config.ready_timeout)
    return answering(target, process, config.name, config.ready_timeout)


def answering(target: Target, process: ServerProcess | None, name: str, timeout_s: float) -> Target:
    """The target with its model's inputs, after one real request, since a ready model can be a dead one."""
    target = replace(target, inputs=service(target).inputs())
    if failure := service(target).first_failure(timeout_s):
        what = f"says that it is ready, but its first request failed: {failure}"
        raise process.error(what) if process else ServerError(f"{name} {what}")
    return target


def version(target: Target) -> str | None:
    """The engine's own version; None when it does not give one."""
    try:
        return service(target).version()
    except (ServerError, httpx.TransportError):  # as of a gateway that leads to the models alone
        return None


def ailment(target: Target) -> str | None:
    """A sentence on what is wrong with its model, by a request: Triton calls a model ready whose process is gone."""
    failure = service(target).first_failure(_ALIVE_TIMEOUT_S)
    return None if failure is None else f"its model {target.model!r} fails: {failure}"


def counters(target: Target) -> Reading:
    """Reads its statistics and metrics. Raises ServerError and httpx.TransportError."""
    return read(service(target).statistics(), metrics_text(target.metrics) if target.metrics else "")


def metrics(target: Target) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """Metrics have a port of their own, which needs no credentials."""
    return (target.metrics, ()) if target.metrics else None
