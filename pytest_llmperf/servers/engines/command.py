"""Any program, started by the words of a plan."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.server.base import Ready
from pytest_llmperf.plan.server.engines.command import CommandServer
from pytest_llmperf.plan.server.words import fill_in
from pytest_llmperf.servers.process.missing import Lack, missing_program
from pytest_llmperf.servers.process.process import Command, free_port
from pytest_llmperf.servers.secrets import bearer, expand
from pytest_llmperf.telemetry.gpu import Gpu

_CONNECT_TIMEOUT_S = 1.0


def missing(config: CommandServer) -> Lack | None:
    """The folder that it runs in, or its program; one with a slash counts from that folder."""
    if not Path(config.cwd).is_dir():
        return Lack(f"needs the folder {config.cwd}, which does not exist", "cwd")
    program = config.command[0]
    if "{" in program or "$" in program:
        return None
    return missing_program(str(Path(config.cwd, program).absolute()) if "/" in program else program, "command")


@contextlib.contextmanager
def placed(config: CommandServer, log: Path) -> Iterator[int]:
    """A free port. ServerError where the plan names a port and something answers there: it would be measured."""
    if "{port}" not in config.url and _is_taken(config.url):
        raise ServerError(f"server {config.name!r} cannot be started: something listens at {config.url} already")
    yield free_port()


def _is_taken(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), _CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def command(config: CommandServer, port: int | str, gpus: Sequence[Gpu]) -> Command:
    """The plan's words with their placeholders filled in."""
    stop = () if isinstance(config.stop, str) else config.stop
    return Command(
        argv=_filled(config, config.command, port),
        env=dict(zip(config.env, _filled(config, tuple(config.env.values()), port), strict=True)),
        cwd=config.cwd,
        stop=_filled(config, stop, port),
        stop_signal=signal.SIGTERM if stop else signal.Signals[str(config.stop)],
    )


def health(config: CommandServer) -> Ready | Literal[False]:
    """The check of health that the plan gives, by default that of most servers."""
    return Ready(path="/health") if config.ready is None else config.ready


def target(config: CommandServer, port: int) -> Target:
    """The URL of its requests, with the plan's headers."""
    headers = {name: expand(value) for name, value in config.headers.items()} | dict(bearer(config.bearer))
    (url,) = _filled(config, (config.url,), port)
    return Target(url, config.served_model, tuple(headers.items()), continuous_usage=False)


def _filled(config: CommandServer, texts: Sequence[str], port: int | str) -> tuple[str, ...]:
    return tuple(fill_in(text, {"port": port, "model": config.model}) for text in texts)
