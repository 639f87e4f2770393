"""Servers that are already up."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server import urls
from pytest_llmperf.plan.server.engines.remote import OpenAIServer, RemoteServer, TritonRemoteServer
from pytest_llmperf.servers.engines.triton.engine import answering
from pytest_llmperf.servers.engines.triton.service import service
from pytest_llmperf.servers.process.process import ServerProcess
from pytest_llmperf.servers.readiness import wait_for_remote, wait_until_up
from pytest_llmperf.servers.secrets import basic, bearer, expand, expand_url


def openai(config: OpenAIServer, place: None) -> Target:
    """The target of an OpenAI-compatible URL."""
    return Target(expand_url(config.url), config.model, _headers(config), path=expand_url(config.path))


def triton(config: TritonRemoteServer, place: None) -> Target:
    """The target of a running Triton, over HTTP or gRPC."""
    url, metrics = expand_url(config.url), expand_url(config.metrics or "")
    return Target(url, config.model, _headers(config), grpc=config.grpc_target, metrics=metrics)


def openai_ready(
    config: OpenAIServer, target: Target, process: ServerProcess | None, loads: Sequence[LoadPoint]
) -> Target:
    """Waits until the server has answered a short request of one of `loads`."""
    wait_for_remote(target, config, loads)
    return target


def triton_ready(
    config: TritonRemoteServer, target: Target, process: ServerProcess | None, loads: Sequence[LoadPoint]
) -> Target:
    """Waits for the model of a Triton that is up; `ready: false` in the plan asks it at once."""
    name = f"model {config.model!r} of server {config.name!r} at {urls.shown(config.url)}"
    if config.ready is not False:
        wait_until_up(
            target, config, name, lambda deadline: None if service(target).ready() else "the model is not ready"
        )
    try:
        return answering(target, process, name, config.ready_timeout)
    except httpx.TransportError as error:
        raise ServerError(f"{name}: {type(error).__name__}: {error}") from error


def _headers(config: RemoteServer) -> tuple[tuple[str, str], ...]:
    headers = {name: expand(value) for name, value in config.headers.items()}
    return tuple((headers | dict(bearer(config.bearer)) | dict(basic(config.basic))).items())
