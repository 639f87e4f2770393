"""Gonka MLNodes for the table of engines: the holder's command, the calls that it makes, where the load goes."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.base import parallel_size
from pytest_llmperf.plan.server.deployments.mlnode import MlnodeServer
from pytest_llmperf.plan.server.urls import address, shown
from pytest_llmperf.servers.deployments.holder import settings_path, wait_for_facts, warn_of_rest, write_settings
from pytest_llmperf.servers.deployments.mlnode.api import PREFIX, refusal
from pytest_llmperf.servers.http import ask
from pytest_llmperf.servers.process.missing import Lack
from pytest_llmperf.servers.process.process import Command, ServerProcess, command_line_flags
from pytest_llmperf.servers.readiness import first_failure
from pytest_llmperf.servers.secrets import bearer, expand, expand_url
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.units import counted

END_S = 90.0
"""Time that a node may take to end its instances: it gives each 20 s, and answers nothing while a start is under way.
"""
_GRACE_S = END_S + 30.0
_HEALTH_TIMEOUT_S = 5.0


@contextlib.contextmanager
def placed(config: MlnodeServer, log: Path) -> Iterator[Path]:
    """The settings of a holder with this log, secrets as references; warns where it could not take the model down."""
    entry = {**config.model_dump(mode="json"), "ready_timeout": f"{config.ready_timeout} s"}
    write_settings(settings_path(log), entry)
    try:
        yield settings_path(log)
    finally:
        warn_of_rest(config.name, log)


def command(config: MlnodeServer, place: Path | int | str, gpus: Sequence[Gpu]) -> Command:
    """The holder, in this Python; it reads secrets from its environment."""
    settings = str(place) if isinstance(place, Path) else "SETTINGS.json"
    return Command((sys.executable, "-m", "pytest_llmperf.servers.deployments.mlnode", settings), {})


def missing(config: MlnodeServer) -> Lack | None:
    """The lack of a node, as far as the plan says what it has; None where it has all."""
    needed = parallel_size(config.args)
    if needed > config.gpus:
        return Lack(f"needs {needed} GPUs, the node has {config.gpus}")
    if config.instance_urls and len(config.instance_urls) < config.replicas:
        given = len(config.instance_urls)
        why = f"needs {config.replicas} instance_urls, one per instance; the plan has {given}"
        return Lack(why, "instance_urls")
    return None


def grace_s(config: MlnodeServer) -> float:
    """Seconds that the holder may take to end the instances."""
    return _GRACE_S


def up_body(config: MlnodeServer) -> dict[str, Any]:
    """The body for `/inference/up`; `dtype` is a field of its own there, and the node has no default for it."""
    args = {name: value for name, value in config.args.items() if name != "dtype"}
    dtype = str(config.args.get("dtype", "auto"))
    return {"model": config.model, "dtype": dtype, "additional_args": list(command_line_flags(args))}


def expanded(value: Any) -> Any:
    """A body with the references in its texts filled in. Raises MissingRequirement."""
    if isinstance(value, dict):
        return {name: expanded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [expanded(inner) for inner in value]
    return expand(value) if isinstance(value, str) else value


def steps(config: MlnodeServer) -> Iterator[str]:
    """The calls in their order, as shell lines."""
    curl, inference = f"curl {_headers_shown(config)}", address(shown(config.inference_url), "/v1/models")
    state, up, stop, end = (
        address(shown(config.url), PREFIX + route) for route in ("/state", "/inference/up", "/stop", end_call(config))
    )
    body = shlex.quote(json.dumps(up_body(config)))
    busy = f"what it runs is stopped by POST {stop}" if config.replace else "anything but STOPPED is an error"
    count = f"{counted(config.replicas, 'instance')} of {parallel_size(config.args)} GPUs"
    yield f"{curl}{state}  # 1/5 state: {busy}"
    yield f"{curl}-H 'Content-Type: application/json' -d {body} {up}  # 2/5 up: {count}"
    yield f"{curl}{state}  # 3/5 state: until INFERENCE"
    yield f"{curl}{inference}  # 4/5 model: until it lists {config.served_model}"
    yield f"# 5/5 instances: {_counted_how(config)}"
    yield f"{curl}-X POST {end}  # afterwards, whatever happened"


def _headers_shown(config: MlnodeServer) -> str:
    headers = {**config.headers, **({"Authorization": f"Bearer {config.bearer}"} if config.bearer else {})}
    return "".join(f'-H "{name}: {value}" ' for name, value in headers.items())


def _counted_how(config: MlnodeServer) -> str:
    if config.replicas == 1 or not config.count_instances:
        return "not counted"
    if config.instance_urls:
        return f"until each answers at {', '.join(map(shown, config.instance_urls[: config.replicas]))}"
    return f"counted at {shown(config.inference_url)}/metrics while streams are held open, until all answer"


def end_call(config: MlnodeServer) -> str:
    """The call that ends the instances."""
    return "/stop" if config.stop == "stop" else "/inference/down"


def node_headers(config: MlnodeServer) -> dict[str, str]:
    """The headers of calls to the management port. Raises MissingRequirement where a variable is not set."""
    return {name: expand(value) for name, value in config.headers.items()} | dict(bearer(config.bearer))


def target(config: MlnodeServer, place: Path | None) -> Target:
    """The node's proxy; its metrics are those of its only instance, and of nobody where there are several."""
    url, headers = expand_url(config.inference_url), node_headers(config) | dict(bearer(config.args.get("api-key")))
    metrics = address(url, "/metrics") if config.replicas == 1 and config.server_metrics else ""
    return Target(
        url,
        config.served_model,
        tuple(headers.items()),
        continuous_usage=config.usage_in_every_chunk,
        metrics=metrics,
    )


def instance_targets(config: MlnodeServer) -> tuple[Target, ...]:
    """The instances themselves, in the plan's order; none where it does not say how to reach them."""
    headers = target(config, None).headers
    urls = map(expand_url, config.instance_urls[: config.replicas])
    return tuple(Target(url, config.served_model, headers, metrics=f"{url}/metrics") for url in urls)


def instances(config: MlnodeServer, target: Target) -> tuple[Target, ...]:
    """The instances themselves where the plan says how to reach them, else the proxy."""
    return instance_targets(config) or (target,)


def ready(config: MlnodeServer, target: Target, process: ServerProcess | None, loads: Sequence[LoadPoint]) -> Target:
    """Waits until the holder says that all is up, then for a first answer. Raises ServerError."""
    assert process is not None
    wait_for_facts(process, config.ready_timeout)
    if failure := first_failure(target, config, loads, process=process, retries_503=True):
        raise process.error(f"says that it is up, but its first request failed: {failure}")
    return target


def ailment(target: Target) -> str | None:
    """A sentence on what is wrong with the instances, None when one is well: the proxy has no health of its own."""
    try:
        answer = ask("GET", target.at("/v1/models"), headers=target.headers, timeout_s=_HEALTH_TIMEOUT_S)
    except httpx.TransportError as error:
        return f"its inference port does not answer: GET /v1/models: {type(error).__name__}: {error}"
    return None if answer.status_code == 200 else f"GET /v1/models: {refusal(answer)}"


def metrics(target: Target) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """URL and headers of one instance's metrics; None where no question reaches a certain one."""
    return (target.metrics, target.headers) if target.metrics else None
