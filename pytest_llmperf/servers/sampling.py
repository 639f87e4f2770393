"""What of a running server is sampled while it is measured. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.engines.table import ENGINES, Question
from pytest_llmperf.servers.process import ServerProcess
from pytest_llmperf.servers.secrets import expand
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.watch import MetricsSource, Sources


def sources(
    config: ServerConfig, targets: Sequence[Target], processes: Sequence[ServerProcess], gpus: Sequence[Gpu]
) -> Sources:
    """What can be sampled of a running server; of a container no processes, which are not below ours."""
    names = [config.name if len(targets) == 1 else f"{config.name} {place}" for place in range(1, len(targets) + 1)]
    asked = ((name, _metrics_question(config, target)) for name, target in zip(names, targets, strict=True))
    return Sources(
        metrics=tuple(MetricsSource(name, *question) for name, question in asked if question),
        processes=()
        if config.in_container
        else tuple((n, p.handle.pid) for n, p in zip(names, processes, strict=False)),
        gpus=tuple((f"GPU {gpu.device}", gpu.device) for gpu in gpus),
    )


def _metrics_question(config: ServerConfig, target: Target) -> Question | None:
    """URL and headers; credentials go to the server that they are for, and to no other."""
    if isinstance(config.server_metrics, str):
        return expand(config.server_metrics), ()
    return ENGINES[config.engine].metrics(target)
