"""Servers in a plan that are already up."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from pytest_llmperf.boundary.literals import refuse_secret
from pytest_llmperf.plan.fields import EntryError, Seconds
from pytest_llmperf.plan.server import urls
from pytest_llmperf.plan.server.base import (
    Balance,
    BaseServer,
    Basic,
    Bearer,
    HostPath,
    ReadyCheck,
    Texts,
)

_REFERENCE = re.compile(r"\$\{\w+\}")


def checked_url(url: str, schemes: tuple[str, ...]) -> str:
    """The base URL as it is stored. ValueError for one that holds a secret, or that no request can be sent to."""
    if "@" in re.split("[/?#]", url.partition("://")[2])[0]:
        raise ValueError("the URL holds credentials in plain text; write them as `basic: '${USER}:${PASSWORD}'`")
    refuse_secret("url", url)
    return urls.base_url(url, schemes)


def checked_metrics_url(key: str, url: str) -> str:
    """The URL as it is. ValueError for one that holds a secret, or that nothing can be asked at."""
    refuse_secret(key, url)
    parts = urlsplit(_REFERENCE.sub("1", url))
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.port == 0:
        raise ValueError(f"{url!r} is not a URL of metrics, such as 'http://10.0.0.5:9090/metrics'")
    return url


class RemoteServer(BaseServer):
    """A server that is already up. Its `args` are what the owner says it was started with."""

    is_started = False
    is_local = False
    replicas: ClassVar[int] = 1
    in_container: ClassVar[bool] = False
    balance: ClassVar[Balance] = "least-inflight"
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")

    url: str = Field(repr=False)
    """Base URL, with or without `/v1`, or with a path and a query of its own: see plan/server/urls.py. In the query,
    `${NAME}` is read from the environment."""
    ready: ReadyCheck = None
    """The check that a ready server passes; False: there is none, and the first request decides at once. None: the
    engine's usual route, or where it has none the first request.
    """
    headers: Texts = {}
    bearer: Bearer = None
    """`${NAME}`: the token is read from that environment variable."""
    basic: Basic = None
    """`${USER}:${PASSWORD}`, read from the environment."""
    hardware: str | None = None
    """Label of the machine behind the URL, as in `h200x8`; part of the baselines' folder. Default: the URL's host."""
    gpus: NonNegativeInt | None = None
    """GPUs behind the URL, for per-GPU throughput."""
    ready_timeout: Seconds = 30.0
    server_metrics: bool | str = False
    """True or a URL if `/metrics` is sampled while it is measured: the server's own, or another. False by default: a
    server of others is asked nothing that the load does not need.
    """

    @property
    def is_sampled(self) -> bool:
        """True if there is anything to sample during a run."""
        return bool(self.server_metrics)

    @field_validator("server_metrics")
    @classmethod
    def _metrics_url(cls, given: bool | str) -> bool | str:
        return checked_metrics_url("server_metrics", given) if isinstance(given, str) else given

    @field_validator("url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        return checked_url(url, cls.schemes)

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "url": urls.shown(self.url)}

    @model_validator(mode="after")
    def _one_credential(self) -> RemoteServer:
        if self.bearer and self.basic:
            raise ValueError("`bearer` and `basic` exclude each other")
        return self

    @property
    def gpu_count(self) -> int:
        """GPUs behind the URL; 0 where the plan does not say."""
        return self.gpus or 0

    @property
    def machine(self) -> str:
        """The machine behind the URL, as its baselines' folder names it."""
        return self.hardware or urlsplit(self.url).netloc


class OpenAIServer(RemoteServer):
    """An OpenAI-compatible URL (or Triton's HTTP port, for the `generate` endpoints)."""

    engine: Literal["openai"]
    path: HostPath = ""
    """The route of every load's requests, in place of the endpoint's own below the URL."""

    def as_dict(self) -> dict[str, Any]:
        found = super().as_dict()
        path = found.pop("path")
        return {**found, "path": urls.shown(path)} if path else found


class TritonRemoteServer(RemoteServer):
    """A Triton that is already up: its HTTP URL, its gRPC one, or both."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https", "grpc", "grpcs")

    engine: Literal["triton-remote"]
    grpc: str | None = None
    """host:port of its gRPC service, for `endpoint: grpc`; `url: grpc://host:port` where there is no other."""
    metrics: str | None = None
    """URL of its metrics, as in http://10.0.0.5:8002/metrics; they are then sampled while it is measured."""

    @field_validator("grpc")
    @classmethod
    def _no_secret_url(cls, given: str | None) -> str | None:
        refuse_secret("URL", given)
        return given

    @field_validator("metrics")
    @classmethod
    def _url_of_metrics(cls, given: str | None) -> str | None:
        return given and checked_metrics_url("metrics", given)

    @model_validator(mode="after")
    def _ready_over_http(self) -> TritonRemoteServer:
        if self.ready and self.url.startswith("grpc"):
            raise EntryError("ready: a path is asked over HTTP; a grpc:// URL has none", "ready")
        return self

    @property
    def is_sampled(self) -> bool:
        return bool(self.metrics or self.server_metrics)

    @property
    def grpc_target(self) -> str:
        """host:port of its gRPC service; empty when the plan names none."""
        return self.grpc or (self.url.partition("://")[2] if self.url.startswith("grpc") else "")
