"""SGLang: `sglang serve`, or its module in a given Python."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_llmperf.boundary.files import open_new
from pytest_llmperf.boundary.literals import is_secret
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.server.base import ArgValue
from pytest_llmperf.plan.server.engines.sglang import SglangServer
from pytest_llmperf.servers.http import version_at
from pytest_llmperf.servers.process.process import LOOPBACK, Command, command_line_flags, free_port, listening_at
from pytest_llmperf.servers.secrets import bearer, expand
from pytest_llmperf.telemetry.gpu import Gpu


class Place(NamedTuple):
    """The port that a replica listens on, and the file that its secrets are in."""

    port: int
    secrets: str
    """Empty where it has none."""


@contextlib.contextmanager
def placed(config: SglangServer, log: Path) -> Iterator[Place]:
    """A free port. SGLang reads keys from its command line, which everyone on the machine can see, or from a YAML file
    that `--config` names: here one that only this user can read, gone with the server."""
    secrets = {name: value for name, value in config.args.items() if is_secret(name)}
    with tempfile.TemporaryDirectory(prefix="llmperf-") as folder:
        path = Path(folder, "secrets.yaml")
        with open_new(path, 0o600) as file:
            file.write(json.dumps({name: expand(str(value)) for name, value in secrets.items()}).encode())
        yield Place(free_port(), str(path) if secrets else "")


def command(config: SglangServer, place: Place | int | str, gpus: Sequence[Gpu]) -> Command:
    """A plain port, of a command that is only shown, has the secrets' references in it."""
    args = _flags(config.args)
    if not isinstance(place, Place):
        return Command(_words(config, place, args), config.env)
    open_args = {name: value for name, value in args.items() if not is_secret(name)}
    secrets = ("--config", place.secrets) if place.secrets else ()
    return Command((*_words(config, place.port, open_args), *secrets), config.env, secret_file=place.secrets)


def _words(config: SglangServer, port: int | str, args: Mapping[str, ArgValue]) -> tuple[str, ...]:
    model = ("--model-path", config.model)
    return *_program(config.executable), *model, *listening_at(port), *command_line_flags(args)


def _program(executable: str) -> tuple[str, ...]:
    is_python = Path(executable).name.startswith("python")
    return (executable, "-m", "sglang.launch_server") if is_python else (executable, "serve")


def _flags(args: Mapping[str, ArgValue]) -> dict[str, ArgValue]:
    """SGLang's flags are off unless given, and have no `--no-…`."""
    return {name: value for name, value in args.items() if value is not False}


def target(config: SglangServer, place: Place) -> Target:
    """Requests carry the key that the server was given."""
    headers = bearer(config.args.get("api-key"))
    return Target(
        f"http://{LOOPBACK}:{place.port}", config.served_model, headers, continuous_usage=config.usage_in_every_chunk
    )


def version(target: Target) -> str | None:
    """The engine's own version; older ones give it under another path."""
    return version_at(target, "/server_info") or version_at(target, "/get_server_info")
