"""From a configuration to the exact command that starts it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_llmperf.server_spec import EmbeddedServer, TritonServer, VllmServer
from pytest_llmperf.servers.process import Command, command_line_flags
from pytest_llmperf.servers.secrets import expand, secret_values
from pytest_llmperf.servers.triton.command import Place, triton_argv
from pytest_llmperf.telemetry.gpu import Gpu

Launched = EmbeddedServer | VllmServer | TritonServer
Where = int | str | Place
"""A port, or (of Triton) the ports and the repository; a text stands for a port in what is shown."""


def model_name(config: Launched) -> str:
    """The name under which the server answers."""
    if isinstance(config, TritonServer):
        return config.served
    served = config.args.get("served-model-name", config.model)
    return str(served[0] if isinstance(served, list) else served)


def missing_requirement(config: Launched, gpus: Sequence[Gpu]) -> str | None:
    """Why this machine cannot run `config`: too few GPUs, no executable, no model folder; None when it can."""
    needed = config.gpu_count
    if needed > len(gpus):
        return f"needs {needed} GPU{'s' if needed > 1 else ''}, found {len(gpus)}"
    if isinstance(config, VllmServer | TritonServer):
        program = _first_program(config)
        if shutil.which(program) is None:
            return f"needs the executable {program!r}, which was not found"
        uses_model = isinstance(config, VllmServer) or any(m.backend == "vllm" for m in config.models.values())
        if uses_model and config.model.startswith("/") and not Path(config.model).exists():
            return f"needs the model folder {config.model}, which does not exist"
    return None


def _first_program(config: VllmServer | TritonServer) -> str:
    return "docker" if isinstance(config, TritonServer) and config.image else config.executable


def server_command(config: Launched, port: Where, gpus: Sequence[Gpu]) -> Command:
    """The command of one replica on `gpus`; MissingRequirement when a referenced variable is not set."""
    argv, env = _argv(config, port, gpus), _env(config, gpus)
    return Command(
        argv=tuple(map(expand, argv)),
        env={name: expand(value) for name, value in env.items()},
        shown=shown_command(config, port, gpus),
        secrets=secret_values([*argv, *env.values()]),
    )


def shown_command(config: Launched, port: Where, gpus: Sequence[Gpu]) -> str:
    """The same command as a shell line, references left as they are: what a dry run prints."""
    env = [f"{name}={_quote(value)}" for name, value in _env(config, gpus).items()]
    return " ".join([*env, *map(_quote, _argv(config, port, gpus))])


def _argv(config: Launched, port: Where, gpus: Sequence[Gpu]) -> list[str]:
    if isinstance(config, TritonServer):
        return triton_argv(config, port if isinstance(port, Place) else _shown_place(config), gpus)
    return [*_program(config), "--host", "127.0.0.1", "--port", str(port), *command_line_flags(config.args)]


def _shown_place(config: TritonServer) -> Place:
    return Place() if config.repository is None else Place(repository=config.repository)


def _env(config: Launched, gpus: Sequence[Gpu]) -> dict[str, str]:
    return {**config.env, **({"CUDA_VISIBLE_DEVICES": ",".join(gpu.device for gpu in gpus)} if gpus else {})}


def _quote(word: str) -> str:
    """Shell quoting that leaves `${NAME}` readable and working."""
    return f'"{word}"' if "${" in word and '"' not in word else shlex.quote(word)


def _program(config: EmbeddedServer | VllmServer) -> list[str]:
    if isinstance(config, VllmServer):
        return [config.executable, "serve", config.model]
    served = [] if "model" in config.args else ["--model", config.model]
    return [sys.executable, "-m", "pytest_llmperf.embedded", *served]
