"""Builds the exact command that starts a server, from its configuration."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import MissingRequirement, NotThere, ServerError
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.engines.table import ENGINES, Start
from pytest_llmperf.servers.process.missing import Lack
from pytest_llmperf.servers.process.process import LOOPBACK, Command
from pytest_llmperf.servers.process.proxy import proxy_command
from pytest_llmperf.servers.secrets import expand
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.units import counted


def lack(config: ServerConfig, gpus: Sequence[Gpu]) -> Lack | None:
    """Returns what this machine lacks to run `config`, GPUs first, then a program or a model; None if it can."""
    start = ENGINES[config.engine].start
    if start is None:
        return None
    needed = config.local_gpus
    if needed > len(gpus):
        return Lack(f"needs {counted(needed, 'GPU')}, found {len(gpus)}")
    return start.missing(config)


def missing_requirement(config: ServerConfig, gpus: Sequence[Gpu]) -> str | None:
    """The reason of `lack` alone."""
    found = lack(config, gpus)
    return found and found.reason


def check_requirements(config: ServerConfig, gpus: Sequence[Gpu]) -> None:
    """Raises MissingRequirement for what this machine lacks to run `config`; NotThere where the plan names it."""
    if found := lack(config, gpus):
        raise (NotThere if found.key else MissingRequirement)(found.reason)


def server_command(config: ServerConfig, place: Any, gpus: Sequence[Gpu]) -> Command:
    """The command of one replica on `gpus`; MissingRequirement when a referenced variable is not set.

    `place` is where it listens: a port, or what else the engine's `placed` gives.
    """
    command = _command(config, place, gpus)
    return replace(
        command,
        argv=tuple(map(expand, command.argv)),
        env={name: expand(value) for name, value in command.env.items()},
        stop=tuple(map(expand, command.stop)),
        shown=_shown(command),
    )


def shown_command(config: ServerConfig, port: int | str, gpus: Sequence[Gpu]) -> str:
    """The same command as a shell line, references left as they are: what a dry run prints. The URL of a remote one."""
    if not config.is_started:
        return str(config.as_dict()["url"])
    return _shown(_command(config, port, gpus))


def shown_proxy(config: ServerConfig) -> str:
    """The command of the proxy before its replicas as a shell line; empty where the plan has none."""
    proxy = getattr(config, "proxy", None)
    urls = [f"http://{LOOPBACK}:PORT{number}" for number in range(1, config.process_count + 1)]
    return _shown(proxy_command(proxy, config.model, "PORT", urls)) if proxy else ""


def steps(config: ServerConfig) -> tuple[str, ...]:
    """The steps in which a holder brings it up and takes it down, a line each; none where one command does it all."""
    start = ENGINES[config.engine].start
    return tuple(start.steps(config)) if start else ()


def write_repository(config: ServerConfig, folder: Path) -> None:
    """Writes the model repository that a server serves. Raises MissingRequirement and ServerError."""
    start = ENGINES[config.engine].start
    if start is None or start.write_repository is None:
        raise ServerError(f"server {config.name!r} (engine {config.engine}) serves no model repository")
    start.write_repository(config, folder)


def preparation(config: ServerConfig) -> str:
    """A shell line that must have run before the command that is shown; empty where there is none."""
    start = ENGINES[config.engine].start
    return start.preparation(config) if start else ""


def _start(config: ServerConfig) -> Start:
    start = ENGINES[config.engine].start
    assert start is not None, f"{config.engine} servers are up already"
    return start


def _command(config: ServerConfig, place: Any, gpus: Sequence[Gpu]) -> Command:
    command = _start(config).command(config, place, gpus)
    # The driver counts GPUs by their place on the bus; CUDA begins with the fastest one unless it is told to.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(gpu.device for gpu in gpus)}
    return replace(command, env={**command.env, **(order if gpus else {})})


def _shown(command: Command) -> str:
    env = [f"{name}={_quote(value)}" for name, value in command.env.items()]
    line = " ".join([*env, *map(_quote, command.argv)])
    return line if command.cwd is None else f"cd {shlex.quote(command.cwd)} && {line}"


def _quote(word: str) -> str:
    """Shell quoting that leaves `${NAME}` readable and working."""
    return f'"{word}"' if "${" in word and '"' not in word else shlex.quote(word)
