"""TensorRT-LLM as an engine of a plan: the holder that deploys it, then Triton's ways or trtllm-serve's."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.base import Ready
from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer
from pytest_llmperf.servers.deployments.holder import facts_path, settings_path, write_settings
from pytest_llmperf.servers.deployments.trtllm.commands import Ports
from pytest_llmperf.servers.deployments.trtllm.toolkit import needed_programs
from pytest_llmperf.servers.engines.triton import engine as triton
from pytest_llmperf.servers.engines.triton.service import service
from pytest_llmperf.servers.http import version_at
from pytest_llmperf.servers.process.log import log_tail
from pytest_llmperf.servers.process.missing import Lack, missing_model, missing_program
from pytest_llmperf.servers.process.process import LOOPBACK, Command, ServerProcess, free_ports, wait_until
from pytest_llmperf.servers.readiness import ailment as health_ailment
from pytest_llmperf.servers.readiness import first_failure, health_problem
from pytest_llmperf.telemetry.counters import Reading
from pytest_llmperf.telemetry.gpu import Gpu

HEALTH = Ready(path="/health")
"""trtllm-serve's."""
_UNLOAD_S = 10.0
"""Time beyond its exit timeout in which Triton unloads python models, and mpirun ends its ranks."""


class Place(NamedTuple):
    """The ports that a replica listens on, and the file that its holder reads."""

    ports: Ports
    settings: str


def missing(config: TrtllmServer) -> Lack | None:
    """A program, on PATH or where the plan says, or the model's folder."""
    usual = {"python": "python3", **config.programs}
    needed = [(usual.get(name, name), name in config.programs) for name in needed_programs(config)]
    # A bare name in the plan is looked for on the PATH that its own `env` may set.
    absent = (missing_program(path, "programs" * named) for path, named in needed if not named or "/" in path)
    return next(filter(None, absent), None) or missing_model(config.model)


def stop_grace_s(config: TrtllmServer) -> float:
    """Seconds that it may take to stop by itself."""
    return config.exit_timeout + _UNLOAD_S


@contextlib.contextmanager
def placed(config: TrtllmServer, log: Path) -> Iterator[Place]:
    """Free ports, and the holder's settings beside the log."""
    ports = Ports(*free_ports(3))
    dumped = config.model_dump(mode="json", exclude={"ready_timeout"})
    given = {
        "config": {**dumped, "exit_timeout": f"{config.exit_timeout} s"},
        "ports": ports,
        "log": str(log),
    }
    settings = settings_path(log)
    write_settings(settings, given)
    yield Place(ports, str(settings))


def command(config: TrtllmServer, place: Place | int | str, gpus: Sequence[Gpu]) -> Command:
    """The holder; anything but a Place stands for settings that are not written, in a command that is only shown."""
    settings = place.settings if isinstance(place, Place) else "SETTINGS"
    return Command((sys.executable, "-m", "pytest_llmperf.servers.deployments.trtllm", settings), config.env)


def target(config: TrtllmServer, place: Place) -> Target:
    """The server's HTTP address; of Triton with those of gRPC and metrics."""
    http, grpc, metrics = place.ports
    url = f"http://{LOOPBACK}:{http}"
    if config.flow == "serve":
        return Target(url, config.served_model)
    return Target(url, config.served_model, grpc=f"{LOOPBACK}:{grpc}", metrics=f"http://{LOOPBACK}:{metrics}/metrics")


def ready(config: TrtllmServer, target: Target, process: ServerProcess | None, loads: Sequence[LoadPoint]) -> Target:
    """Waits for all steps, then for the server."""
    assert process is not None, "the plugin starts it"
    up = service(target).ready if target.grpc else partial(_is_up, target)
    wait_until(up, process, config.name, config.ready_timeout, lambda: f"; {log_tail(process.log, 1)}")
    facts = json.loads(facts_path(process.log).read_text(encoding="utf-8"))
    if target.grpc:
        target = replace(target, version=facts.get("tensorrt_llm", ""))
        return triton.answering(target, process, config.name, config.ready_timeout)
    target = replace(target, model=facts["served_model"])
    if failure := first_failure(target, config, loads, process=process):
        raise process.error(f"says that it is healthy, but its first request failed: {failure}")
    return target


def _is_up(target: Target) -> bool:
    return health_problem(target, HEALTH) is None


def version(target: Target) -> str | None:
    """TensorRT-LLM's version, with Triton's where that serves it; None where neither reports it."""
    if not target.grpc:
        return version_at(target, "/version")
    return f"{target.version or 'TensorRT-LLM'} in Triton {triton.version(target) or ''}".rstrip()


def ailment(target: Target) -> str | None:
    """A sentence on what is wrong with it; None when it is well."""
    if target.grpc:
        return triton.ailment(target)
    return health_ailment(target, HEALTH)


def counters(target: Target) -> Reading:
    """Reads Triton's counters. Raises ServerError, of trtllm-serve always, and httpx.TransportError."""
    if not target.grpc:
        raise ServerError("trtllm-serve has no statistics")
    return triton.counters(target)
