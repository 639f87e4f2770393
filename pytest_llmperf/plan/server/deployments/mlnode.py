"""A Gonka MLNode in a plan: a node that starts vLLM instances when it is asked to, by its REST API."""

from __future__ import annotations

from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, field_validator, model_validator

from pytest_llmperf.plan.fields import EntryError, Seconds
from pytest_llmperf.plan.server import urls
from pytest_llmperf.plan.server.base import (
    OWN_ARGS,
    ArgValue,
    Balance,
    BaseServer,
    Bearer,
    check_parallelism,
    parallel_size,
    refuse_secrets,
    served_model,
)
from pytest_llmperf.plan.server.engines.remote import checked_url

_MOST_INSTANCES = 128
"""The node's own limit (INFERENCE_MAX_INSTANCES)."""


class MlnodeServer(BaseServer):
    """vLLM on a node elsewhere, configured by `args`; the node starts as many instances as its GPUs allow."""

    is_local = False
    paths = ()
    in_container: ClassVar[bool] = True
    balance: ClassVar[Balance] = "least-inflight"
    usage_in_every_chunk = True

    engine: Literal["mlnode"]
    url: str = Field(repr=False)
    """Base URL of the node's management API (its port 8080), without `/api/v1`."""
    inference_url: str = Field(repr=False)
    """Base URL of its inference port (5000), with or without `/v1`."""
    gpus: PositiveInt
    """GPUs of the node: it starts gpus // (TP x PP) instances."""
    replace: bool = False
    """True if a node that runs something else already (a model, POW, training) is stopped for the measurement."""
    stop: Literal["down", "stop"] = "down"
    """The call that ends it: `/inference/down`, or `/stop`, which ends whatever the node runs."""
    instance_urls: tuple[str, ...] = ()
    """Base URLs of the instances themselves (the node's ports 5001, 5002, ...), where they can be reached: they are
    waited for and their metrics sampled."""
    count_instances: bool = True
    """True if it is measured only when every instance answers; the node says that it is ready when the first does."""
    headers: dict[str, str] = {}
    """Sent with every request, to both ports."""
    bearer: Bearer = None
    """`${NAME}`: the token is read from that environment variable. Sent to both ports."""
    hardware: str | None = None
    """Label of the node, as in `4070s-ti-x8`; part of the baselines' folder. Default: the host of `url`."""
    server_metrics: bool = True
    """True if the metrics of its instances are sampled while it is measured, where the instances can be
    distinguished.
    """
    ready_timeout: Seconds = 1500.0
    """Seconds that it may take to come up; a node gives its vLLM 20 minutes."""

    @field_validator("url", "inference_url", "instance_urls")
    @classmethod
    def _base_urls(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        schemes = ("http", "https")
        return (
            checked_url(given, schemes) if isinstance(given, str) else tuple(checked_url(url, schemes) for url in given)
        )

    @field_validator("headers")
    @classmethod
    def _no_secret_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        refuse_secrets(headers)
        return headers

    @field_validator("args")
    @classmethod
    def _args_of_an_instance(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for name in args.keys() & {*OWN_ARGS}:
            raise EntryError(f"{name} is the node's to choose: it starts its instances on ports of its own", name)
        if "model" in args:
            raise EntryError("model is the entry's `model`", "model")
        check_parallelism(args)
        if args.get("data-parallel-size", 1) != 1:
            raise EntryError(
                "a node gives each instance TP x PP GPUs and balances between instances itself: leave out "
                "data-parallel-size",
                "data-parallel-size",
            )
        return args

    @model_validator(mode="after")
    def _one_credential(self) -> MlnodeServer:
        if self.bearer and "api-key" in self.args:
            raise EntryError("the instances' api-key and `bearer` are the same header: give one of them", "bearer")
        return self

    def as_dict(self) -> dict[str, Any]:
        addresses = {"url": urls.shown(self.url), "inference_url": urls.shown(self.inference_url)}
        instances = [urls.shown(url) for url in self.instance_urls]
        return {**super().as_dict(), **addresses, "instance_urls": instances, "replicas": self.replicas}

    @property
    def replicas(self) -> int:
        """Instances that the node starts."""
        return min(_MOST_INSTANCES, max(1, self.gpus // parallel_size(self.args)))

    @property
    def gpu_count(self) -> int:
        """GPUs that its instances have together."""
        return parallel_size(self.args) * self.replicas

    @property
    def machine(self) -> str:
        """The node, as its baselines' folder names it."""
        return self.hardware or str(urlsplit(self.url).hostname)

    @property
    def served_model(self) -> str:
        """The name under which it answers."""
        return served_model(self.model, self.args)

    @property
    def is_sampled(self) -> bool:
        """True if there is anything to sample: through the node's proxy, metrics are those of any instance."""
        return self.server_metrics and (self.replicas == 1 or bool(self.instance_urls))

    @classmethod
    def takes_secret(cls, arg: str) -> bool:
        """Returns True: all arguments go to the node in the body of a request."""
        return True
