"""The steps as a dry run shows them: commands and files; names in capitals are folders that are made on the way."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import yaml

from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer
from pytest_llmperf.servers.deployments.trtllm import commands
from pytest_llmperf.servers.deployments.trtllm.commands import Ports, makes_weights


def step_names(config: TrtllmServer) -> list[str]:
    """The steps of a configuration in their order."""
    names = [] if config.is_local_model else ["download"]
    if makes_weights(config):
        names.append("quantize" if config.is_quantised else "convert")
    if config.flow == "engine":
        names.append("build")
    if config.flow != "serve":
        names.append("repository")
    return [*names, "serve"]


def describe(config: TrtllmServer) -> Iterator[str]:
    """A line per step, then the environment's names."""
    model = config.model if config.is_local_model else "MODEL"
    served = "WEIGHTS" if makes_weights(config) else model
    names = step_names(config)
    for number, name in enumerate(names, start=1):
        yield f"step {number}/{len(names)} {name}: {_what(config, name, model, served)}"
    for name, value in config.env.items():
        yield f'environment: {name}="{value}"'


def _what(config: TrtllmServer, name: str, model: str, served: str) -> str:
    if name == "download":
        return f"{shlex.join(commands.download(config))} (its folder is MODEL)"
    if name in ("quantize", "convert"):
        return shlex.join(commands.weights(config, _script(config), model, "WEIGHTS"))
    if name == "build":
        return shlex.join(commands.build(config, "WEIGHTS", "ENGINE"))
    if name == "repository":
        return _repository(config, model, served)
    if config.flow == "serve":
        arguments = commands.llm_arguments(config)
        options = "OPTIONS" if arguments else None
        written = f" with OPTIONS {_inline(arguments)}" if arguments else ""
        return f"{shlex.join(commands.trtllm_serve(config, served, Ports(), options))}{written}"
    return _ranks(commands.triton(config, "REPOSITORY", Ports(), "REGION"))


def _ranks(argv: list[str]) -> str:
    """The command with its first two ranks; all but the first differ by their region of shared memory only."""
    others = argv.count(":") - 1
    if others < 1:
        return shlex.join(argv)
    second = argv.index(":", argv.index(":") + 1)
    return f"{shlex.join(argv[:second])} (and {others} more ranks like the last)"


def _script(config: TrtllmServer) -> str:
    examples = config.examples or "EXAMPLES"
    if config.is_quantised:
        return f"{examples}/quantization/quantize.py"
    return f"{examples}/{config.family or 'FAMILY'}/convert_checkpoint.py"


def _repository(config: TrtllmServer, model: str, served: str) -> str:
    templates = config.templates or "TEMPLATES"
    if config.flow == "llmapi":
        written = _inline(commands.model_yaml(config, served))
        return f"{templates}/llmapi to REPOSITORY, tensorrt_llm/1/model.yaml {written}"
    values = commands.template_values(config, model, "ENGINE") | config.template
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    return f"{templates}/inflight_batcher_llm to REPOSITORY, filled with {shown}"


def _inline(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=True, width=10_000).strip()
