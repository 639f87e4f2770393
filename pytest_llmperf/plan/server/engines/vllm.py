"""vLLM in a plan."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from pytest_llmperf.boundary.literals import is_secret
from pytest_llmperf.plan.fields import EntryError
from pytest_llmperf.plan.server.base import ArgValue, LaunchedServer


class VllmServer(LaunchedServer):
    """`vllm serve` with any arguments."""

    paths = ("model", "executable")
    usage_in_every_chunk = True

    engine: Literal["vllm"]
    executable: str = "vllm"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""

    @field_validator("args", mode="after")
    @classmethod
    def _no_secret_in_the_command_line(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        """One key is handed over in the environment; vLLM takes other secrets from there by their own names."""
        for name, value in args.items():
            if is_secret(name) and value is not None and not (name == "api-key" and isinstance(value, str)):
                raise EntryError(
                    f"{name} would stand in the server's command line, which everybody on its machine can read; "
                    "write it into `env`, as in env: {HF_TOKEN: '${HF_TOKEN}'}",
                    name,
                )
        return args
