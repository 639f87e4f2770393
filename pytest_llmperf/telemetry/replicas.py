"""`replicas: auto` of a plan: as many as the GPUs of this machine allow, a fixed number from then on."""

from __future__ import annotations

from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.telemetry.gpu import visible_gpus


def on_this_machine(plan: Plan) -> Plan:
    """The plan with a number in the place of every `auto`."""
    if not any(config.replicas_are_open for space in plan.servers.values() for config in space.configs):
        return plan
    gpus = len(visible_gpus())
    servers = {name: space.each(lambda one: one.on_gpus(gpus)) for name, space in plan.servers.items()}
    return plan.model_copy(update={"servers": servers})


def server_on_this_machine(config: ServerConfig) -> ServerConfig:
    """The configuration with a number in the place of `auto`."""
    return config.on_gpus(len(visible_gpus())) if config.replicas_are_open else config
