"""Servers that are already up."""

from __future__ import annotations

import base64

from pytest_llmperf.load.target import Target
from pytest_llmperf.server_spec import OpenAIServer, RemoteServer, TritonRemoteServer
from pytest_llmperf.servers.secrets import bearer, expand


def openai(config: OpenAIServer, place: None) -> Target:
    """Where the requests of an OpenAI-compatible URL go."""
    return Target(config.url, config.model, _headers(config), continuous_usage=False)


def triton(config: TritonRemoteServer, place: None) -> Target:
    """Where the requests of a running Triton go, over HTTP or gRPC."""
    return Target(config.url, config.model, _headers(config), grpc=config.grpc_target, metrics=config.metrics or "")


def _headers(config: RemoteServer) -> tuple[tuple[str, str], ...]:
    headers = {name: expand(value) for name, value in config.headers.items()} | dict(bearer(config.bearer))
    if config.basic:
        headers["Authorization"] = "Basic " + base64.b64encode(expand(config.basic).encode()).decode()
    return tuple(headers.items())
