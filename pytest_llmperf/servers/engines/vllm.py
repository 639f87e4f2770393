"""vLLM: `vllm serve`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.plan.server.engines.vllm import VllmServer
from pytest_llmperf.servers.process.process import LOOPBACK, Command, command_line_flags, listening_at
from pytest_llmperf.servers.secrets import bearer
from pytest_llmperf.telemetry.gpu import Gpu

_KEY = "api-key"


def command(config: VllmServer, port: int | str, gpus: Sequence[Gpu]) -> Command:
    """The command with the plan's arguments after the address; a key is in the environment, which only we can read."""
    program = (config.executable, "serve", config.model)
    args = {name: value for name, value in config.args.items() if name != _KEY}
    key = {"VLLM_API_KEY": str(config.args[_KEY])} if config.args.get(_KEY) else {}
    return Command((*program, *listening_at(port), *command_line_flags(args)), {**config.env, **key})


def target(config: VllmServer | EmbeddedServer, port: int) -> Target:
    """Requests carry the key that the server was given, by argument or by environment."""
    key = config.args.get(_KEY) or config.env.get("VLLM_API_KEY")
    return Target(
        f"http://{LOOPBACK}:{port}", config.served_model, bearer(key), continuous_usage=config.usage_in_every_chunk
    )


def from_command_line(name: str, words: Sequence[str]) -> VllmServer | None:
    """The server of a command as typed in a shell: `[NAME=VALUE …] vllm serve MODEL [--option [VALUE …]] …`.

    None for another program. ValueError for a word that belongs to no option, ValidationError for a bad argument.
    """
    if "serve" not in words[1:-1]:
        return None
    program = words.index("serve") - 1
    model, *flags = words[program + 2 :]
    args: dict[str, list[Any]] = {}
    for word in flags:
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            values = args[option.lstrip("-")] = [yaml.safe_load(value)] if equals else []
        elif args:
            values.append(yaml.safe_load(word))
        else:
            raise ValueError(f"{word!r} after the model is no option of vllm serve")
    return VllmServer(
        engine="vllm",
        name=name,
        model=model,
        executable=words[program],
        env=dict(word.split("=", 1) for word in words[:program]),
        args={option: found if len(found) > 1 else found[0] if found else True for option, found in args.items()},
    )
