"""The engines of a plan's servers: how a server of each is started, asked and watched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytest_llmperf.load.endpoints.table import ENDPOINTS, OPENAI_ENDPOINTS, TRITON_ENDPOINTS
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.base import LaunchedServer, Ready
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.deployments.kubernetes import engine as kubernetes
from pytest_llmperf.servers.deployments.mlnode import engine as mlnode
from pytest_llmperf.servers.deployments.trtllm.describe import describe
from pytest_llmperf.servers.engines import command, embedded, remote, sglang, vllm
from pytest_llmperf.servers.engines.triton import engine as triton
from pytest_llmperf.servers.engines.triton import trtllm
from pytest_llmperf.servers.engines.triton.launch import placed, stop_grace_s
from pytest_llmperf.servers.engines.triton.repository import write_repository
from pytest_llmperf.servers.http import version_at
from pytest_llmperf.servers.process.missing import Lack, missing_program_or_model
from pytest_llmperf.servers.process.process import STOP_GRACE_S, Command, ServerProcess, free_port
from pytest_llmperf.telemetry.counters import Reading
from pytest_llmperf.telemetry.gpu import Gpu

Question = tuple[str, tuple[tuple[str, str], ...]]
"""A URL and the headers to send with it."""


@contextlib.contextmanager
def _on_free_port(config: LaunchedServer, log: Path) -> Iterator[int]:
    yield free_port()


class Start(NamedTuple):
    """The functions that start a server. Every one takes the plan's configuration first."""

    command: Callable[[Any, Any, Sequence[Gpu]], Command]
    """The command of one replica at a place on these GPUs; `${NAME}` references in it are filled in later."""
    missing: Callable[[Any], Lack | None]
    """Returns what this machine lacks beside GPUs; None when nothing."""
    placed: Callable[[Any, Path], AbstractContextManager[Any]] = _on_free_port
    """The place of a replica with this log file: its ports, and what else it needs while it is up."""
    grace_s: Callable[[Any], float] = lambda config: STOP_GRACE_S
    """Seconds in which it may stop by itself."""
    write_repository: Callable[[Any, Path], Path] | None = None
    """Writes the model repository that it serves into an empty folder; None for engines that serve a model as it is.
    Raises MissingRequirement and ServerError."""
    preparation: Callable[[Any], str] = lambda config: ""
    """A shell line that must have run before the command that is shown; empty where there is none."""
    steps: Callable[[Any], Iterable[str]] = lambda config: ()
    """The steps in the command of an engine that is deployed in steps, a line each, secrets as references."""


class Engine(NamedTuple):
    """The functions and facts that servers of one engine have in common."""

    target: Callable[[Any, Any], Target]
    """The URL of requests, from the configuration and the place where the server was started (None when it was up)."""
    start: Start | None = None
    """None for servers that are already up."""
    health: Callable[[Any], Ready | Literal[False]] = lambda config: Ready(path="/health")
    """The check that a server passes which is up and well; False where only a real request shows it."""
    ready: Callable[[Any, Target, ServerProcess | None, Sequence[LoadPoint]], Target] | None = None
    """Waits until it is ready for these loads, and adds to the target the facts that only a ready server reports.
    None: its health is checked, then a first request is sent.
    """
    version: Callable[[Target], str | None] = lambda target: version_at(target, "/version")
    """The engine's own version; None when the server does not report it."""
    ailment: Callable[[Target], str | None] | None = None
    """A sentence on what is wrong with one that is up, None when it is well. None: `health` is checked instead."""
    counters: Callable[[Target], Reading] | None = None
    """Reads the server's own counters, for engines that have some. Raises ServerError and httpx.TransportError."""
    metrics: Callable[[Target], Question | None] = lambda target: (target.at("/metrics"), target.headers)
    """URL and headers of its Prometheus metrics; None where it has none."""
    instances: Callable[[Any, Target], tuple[Target, ...]] = lambda config, target: (target,)
    """The servers behind a target, each with metrics of its own."""
    from_command_line: Callable[[str, Sequence[str]], ServerConfig | None] | None = None
    """The configuration (of this name) of a command typed in a shell; None when that is of another engine."""
    endpoints: Callable[[Any], Sequence[str]] = lambda config: OPENAI_ENDPOINTS
    """Endpoints that a server has, where it is up: a load for any other could only fail."""
    service_kind: str = "openai"
    """GenAI-Perf's name for servers of this kind."""


ENGINES: dict[str, Engine] = {
    "command": Engine(
        command.target,
        Start(command.command, command.missing, command.placed),
        health=command.health,
        endpoints=lambda config: tuple(ENDPOINTS),
    ),
    "embedded": Engine(vllm.target, Start(embedded.command, missing=lambda config: None)),
    "kubernetes": Engine(
        kubernetes.target,
        Start(kubernetes.command, kubernetes.missing, kubernetes.placed, kubernetes.grace_s, steps=kubernetes.steps),
        health=lambda config: config.ready or False,
        ready=kubernetes.ready,
        version=kubernetes.version,
        endpoints=lambda config: tuple(ENDPOINTS),
    ),
    "mlnode": Engine(
        mlnode.target,
        Start(mlnode.command, mlnode.missing, mlnode.placed, mlnode.grace_s, steps=mlnode.steps),
        ready=mlnode.ready,
        ailment=mlnode.ailment,
        metrics=mlnode.metrics,
        instances=mlnode.instances,
    ),
    "openai": Engine(remote.openai, ready=remote.openai_ready, endpoints=lambda config: tuple(ENDPOINTS)),
    "sglang": Engine(
        sglang.target,
        Start(sglang.command, missing_program_or_model, sglang.placed),
        health=lambda config: Ready(path="/health_generate"),
        version=sglang.version,
    ),
    "triton": Engine(
        triton.target,
        Start(triton.command, triton.missing, placed, stop_grace_s, write_repository, triton.preparation),
        ready=triton.ready,
        version=triton.version,
        ailment=triton.ailment,
        counters=triton.counters,
        metrics=triton.metrics,
        endpoints=lambda config: TRITON_ENDPOINTS,
        service_kind="triton",
    ),
    "triton-remote": Engine(
        remote.triton,
        ready=remote.triton_ready,
        version=triton.version,
        ailment=triton.ailment,
        counters=triton.counters,
        metrics=triton.metrics,
        endpoints=lambda config: TRITON_ENDPOINTS,
        service_kind="triton",
    ),
    "trtllm": Engine(
        trtllm.target,
        Start(trtllm.command, trtllm.missing, trtllm.placed, trtllm.stop_grace_s, steps=describe),
        ready=trtllm.ready,
        version=trtllm.version,
        ailment=trtllm.ailment,
        counters=trtllm.counters,
        metrics=triton.metrics,
        endpoints=lambda config: OPENAI_ENDPOINTS if config.flow == "serve" else TRITON_ENDPOINTS,
    ),
    "vllm": Engine(
        vllm.target, Start(vllm.command, missing_program_or_model), from_command_line=vllm.from_command_line
    ),
}
