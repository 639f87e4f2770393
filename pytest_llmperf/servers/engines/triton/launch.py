"""One replica of a Triton server: its repository on disk, its ports, and what Docker would leave behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pytest_llmperf.errors import ServerError
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.servers.engines.triton.command import Place
from pytest_llmperf.servers.engines.triton.repository import write_repository
from pytest_llmperf.servers.process.process import free_ports

_DOCKER_TIMEOUT_S = 30.0
_STUB_GRACE_S = 5.0
"""Time that a server needs beyond its exit timeout to unload python models: about 4 s."""


def stop_grace_s(config: TritonServer) -> float:
    """Seconds that a server may take to stop by itself."""
    return config.exit_timeout + _STUB_GRACE_S


@contextlib.contextmanager
def placed(config: TritonServer, log: Path) -> Iterator[Place]:
    """The place of a replica with this log file: its ports, repository and container, which is removed afterwards."""
    http, grpc, metrics = free_ports(3)
    container = f"llmperf-{os.getpid()}-{http}"
    repository = config.repository or str(_written(config, log.with_name(f"{log.stem}-models")))
    try:
        yield Place(http, grpc, metrics, repository, container)
    finally:
        if config.image is not None:
            _remove_container(container)


def _written(config: TritonServer, folder: Path) -> Path:
    """The repository in a folder that is made here: what goes by its name already may be a link that leads elsewhere.

    Raises ServerError, also as `write_repository` does.
    """
    if os.path.lexists(folder):
        raise ServerError(
            f"server {config.name!r}: {folder} exists already; a repository is written into an empty place"
        )
    return write_repository(config, folder)


def _remove_container(name: str) -> None:
    """A `docker run` that was killed leaves its container running. One that ended by itself removed it: no matter."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        command = ["docker", "rm", "--force", name]
        subprocess.run(command, capture_output=True, timeout=_DOCKER_TIMEOUT_S, check=False)
