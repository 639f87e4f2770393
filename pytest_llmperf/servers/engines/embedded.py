"""The package's own engine, which speaks as vLLM does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.servers.process.process import Command, command_line_flags, listening_at
from pytest_llmperf.telemetry.gpu import Gpu


def command(config: EmbeddedServer, port: int | str, gpus: Sequence[Gpu]) -> Command:
    """The command of the engine, in the Python that runs pytest."""
    model = () if "model" in config.args else ("--model", config.model)
    program = (sys.executable, "-m", "pytest_llmperf.embedded", *model)
    return Command((*program, *listening_at(port), *command_line_flags(config.args)), config.env)
