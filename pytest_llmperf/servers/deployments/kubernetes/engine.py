"""Kubernetes for the table of engines: the holder's command, the commands that it runs, where the load goes."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from pytest_llmperf import clock
from pytest_llmperf.boundary.files import read_text
from pytest_llmperf.boundary.literals import secrets_of_values
from pytest_llmperf.boundary.secrets import remember
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer
from pytest_llmperf.servers.deployments.holder import settings_path, wait_for_facts, warn_of_rest, write_settings
from pytest_llmperf.servers.deployments.kubernetes import commands
from pytest_llmperf.servers.http import version_at
from pytest_llmperf.servers.process.missing import Lack, missing_program
from pytest_llmperf.servers.process.process import LOOPBACK, Command, ServerProcess, backing_off, free_port, wait_until
from pytest_llmperf.servers.readiness import first_failure, health_problem
from pytest_llmperf.servers.secrets import basic, bearer, expand, expand_url
from pytest_llmperf.telemetry.gpu import Gpu

_MOST_VALUES_BYTES = 16 << 20
COLLECTING_S = 30.0
"""Time that the holder may take for logs and events, beside the end of the pods."""
_OWN_END_S = 20.0
"""Time for the end of the commands that watch, and for tries to uninstall when the time for that is over."""


class Place(NamedTuple):
    """The port at which a replica is reached, and the settings of its holder."""

    port: int
    """A port of this machine, for what is forwarded to."""
    settings: Path


@contextlib.contextmanager
def placed(config: KubernetesServer, log: Path) -> Iterator[Place]:
    """A free port and the settings of a holder with this log, secrets as references; warns of a release that stayed.

    Raises MissingRequirement where a variable is not set.
    """
    # The holder fills the values in; that they are there is known now, and this process hides them from now on.
    commands.values(config, expand)
    place = Place(free_port(), settings_path(log))
    seconds = {name: f"{getattr(config, name)} s" for name in ("ready_timeout", "schedule_timeout", "stop_timeout")}
    hide_secrets(config)
    write_settings(place.settings, {"port": place.port, "server": {**config.model_dump(mode="json"), **seconds}})
    try:
        yield place
    finally:
        warn_of_rest(config.name, log)


def hide_secrets(config: KubernetesServer) -> None:
    """Hides the header of `basic` and the secrets in the values' files from now on.

    A file that cannot be read is for Helm to complain about. Raises MissingRequirement where a variable is not set.
    """
    basic(config.basic)
    for path in map(Path, config.values_files):
        with contextlib.suppress(OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
            values = yaml.safe_load(read_text(path, _MOST_VALUES_BYTES))
            remember(*(secret for _, secret in secrets_of_values(values)))


def missing(config: KubernetesServer) -> Lack | None:
    """The first program that is not on PATH; else the first path of the plan that leads nowhere."""
    programs = (config.kubectl, config.helm, *(words[0] for words in config.prepare))
    absent = (missing_program(program) for program in programs if "/" not in program)
    return next(filter(None, absent), None) or next(_astray(config), None)


def _astray(config: KubernetesServer) -> Iterator[Lack]:
    paths = {
        "helm": [config.helm] if "/" in config.helm else [],
        "kubectl": [config.kubectl] if "/" in config.kubectl else [],
        "values_files": config.values_files,
        "chart": [config.chart] if config.chart.startswith(("/", "~")) else [],
        "kubeconfig": [config.kubeconfig] if config.kubeconfig else [],
    }
    for key, given in paths.items():
        for path in given:
            if not Path(path).expanduser().exists():
                yield Lack(f"needs {path}, which does not exist", key)


def command(config: KubernetesServer, place: Place | int | str, gpus: Sequence[Gpu]) -> Command:
    """The holder, in this Python; it reads secrets from its environment."""
    settings = str(place.settings) if isinstance(place, Place) else "SETTINGS.json"
    return Command((sys.executable, "-m", "pytest_llmperf.servers.deployments.kubernetes", settings), config.env)


def grace_s(config: KubernetesServer) -> float:
    """Seconds that the holder may take to uninstall the release."""
    return config.stop_timeout + COLLECTING_S + _OWN_END_S


def steps(config: KubernetesServer) -> Iterator[str]:
    """The commands in their order as shell lines, with the values and the names of what comes from the environment."""
    for name, value in config.env.items():
        yield f'export {name}="{value}"' if "${" in value else f"export {name}={shlex.quote(value)}"
    for words in config.prepare:
        yield f"cd {shlex.quote(config.cwd)} && {shlex.join(words)}  # 1/6 prepare"
    get = commands.kubectl(config, "get", "namespace", config.namespace)
    yield f"{shlex.join(get)}  # 2/6 namespace: made where it is not there"
    if config.namespace_labels:
        yield shlex.join(commands.labels(config, tuple(config.namespace_labels)))
    yield f"{shlex.join(commands.releases(config))}  # 3/6 release: {_existing(config)}"
    yield f"{shlex.join(commands.upgrade(config, 'HOST.PID'))}  # 4/6 install, these values on its standard input:"
    for line in yaml.safe_dump(commands.values(config, config.filled), sort_keys=False).splitlines():
        yield f"    {line}"
    yield f"{shlex.join(commands.rollout(config))}  # 5/6 rollout: until all pods are ready"
    yield _reached(config)
    end = "the release stays" if config.keep else shlex.join(commands.uninstall(config))
    yield f"# afterwards, whatever happened: logs and events of the pods, then {end}"
    yield f"# written beside {config.name}.log: .settings.json, .deployed.json and .pods.log, without secrets"


def _existing(config: KubernetesServer) -> str:
    return "one that is there is upgraded" if config.keep else "one that is there is an error"


def _reached(config: KubernetesServer) -> str:
    if config.url:
        return f"# 6/6 reach: {config.filled(config.url)}"
    service = config.filled(config.service) or "the release's service"
    forward = commands.forward(config, "POD", "PORT", "POD_PORT")
    return f"{shlex.join(forward)}  # 6/6 reach: the one pod behind {service}"


def target(config: KubernetesServer, place: Place) -> Target:
    """The URL of the plan, or the port that is forwarded. Raises MissingRequirement where a variable is not set."""
    headers = {name: expand(config.filled(value)) for name, value in config.headers.items()}
    headers |= dict(bearer(config.bearer)) | dict(basic(config.basic))
    url = expand_url(config.filled(config.url)) if config.url else f"http://{LOOPBACK}:{place.port}"
    return Target(url, config.served_model, tuple(headers.items()))


def ready(
    config: KubernetesServer, target: Target, process: ServerProcess | None, loads: Sequence[LoadPoint]
) -> Target:
    """Waits until the holder says that all is up, then for a first answer by the way that the load takes.

    An ingress or a gateway takes a while to know of a new service. Raises ServerError.
    """
    assert process is not None
    deadline = clock.monotonic() + config.ready_timeout
    facts = wait_for_facts(process, config.ready_timeout)
    if config.gpus is not None and config.gpus != facts["gpus"]:
        raise process.error(f"has {facts['gpus']} GPUs in its pods, and `gpus: {config.gpus}` in the plan")
    problem: str | None = None

    def answers() -> bool:
        nonlocal problem
        problem = health_problem(target, config.ready) if config.ready else None
        problem = problem or first_failure(target, config, loads, process=process, retries_503=True)
        return problem is None

    left_s = max(1.0, deadline - clock.monotonic())
    wait_until(answers, process, config.name, left_s, lambda: f"; its pods are ready, but {problem}", backing_off())
    return target


def version(target: Target) -> str | None:
    """The engine's own version by the API of vLLM, else of Triton; None where neither answers."""
    return version_at(target, "/version") or version_at(target, "/v2")
