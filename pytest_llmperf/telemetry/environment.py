"""The environment of a measurement: the facts stored with it, and the short name of the baselines' folder."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.telemetry.gpu import Gpu, driver_version

_GPU_MAKERS = r"(?i)\b(nvidia|geforce|tesla|graphics)\b"
_CPU_MARKS = r"(?i)\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*$"


@dataclass(frozen=True, slots=True)
class Environment:
    """One measuring environment. `slug` names its baselines' folder; results of two slugs are never compared."""

    slug: str
    simulated: bool
    engine: str
    engine_version: str | None
    gpus: tuple[str, ...]
    """Names of the GPUs that the machine offers; empty on a CPU run."""
    driver: str | None
    cpu: str
    cpu_cores: int
    memory_gib: float | None
    host: str
    kernel: str
    python: str
    llmperf: str
    deployment: Mapping[str, Any] = field(default_factory=dict)
    """Facts of a running deployment whose change may change numbers: its chart and images, by digest. Empty for a
    server that is one program.
    """

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gpus": list(self.gpus)}


def environment(
    config: ServerConfig,
    engine_version: str | None,
    gpus: Sequence[Gpu],
    deployment: Mapping[str, Any] = MappingProxyType({}),
) -> Environment:
    """The environment of `config` on this machine, which offers `gpus`."""
    # This machine's GPUs say nothing about a server elsewhere.
    used = tuple(gpu.name for gpu in gpus) if config.gpu_count and config.is_local else ()
    cores = len(os.sched_getaffinity(0))
    return Environment(
        slug=f"{_machine(config, used, cores)}-{config.engine}",
        simulated=config.simulated,
        engine=config.engine,
        engine_version=engine_version,
        gpus=used,
        driver=driver_version() if config.is_local else None,
        cpu=_cpu_model(),
        cpu_cores=cores,
        memory_gib=_memory_gib(),
        host=platform.node(),
        kernel=platform.release(),
        python=platform.python_version(),
        llmperf=__version__,
        deployment=dict(deployment),
    )


def _machine(config: ServerConfig, gpus: Sequence[str], cores: int) -> str:
    if config.simulated:
        return "simulated"
    if config.machine is not None:
        return _slug(config.machine)
    if gpus:
        return f"{_slug(re.sub(_GPU_MAKERS, '', gpus[0]))}x{len(gpus)}"
    return f"{_slug(re.sub(_CPU_MARKS, ' ', _cpu_model()))}-x{cores}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.machine()


def _memory_gib() -> float | None:
    with contextlib.suppress(OSError, ValueError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def git_sha(root: Path) -> str | None:
    """Commit of the project under test; None outside git."""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
