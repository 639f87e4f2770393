"""vLLM in a plan."""

from __future__ import annotations

from typing import Literal

from pytest_llmperf.plan.server.base import LaunchedServer


class VllmServer(LaunchedServer):
    """`vllm serve` with any arguments."""

    paths = ("model", "executable")
    usage_in_every_chunk = True

    engine: Literal["vllm"]
    executable: str = "vllm"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""

    @classmethod
    def takes_secret(cls, arg: str) -> bool:
        """Returns whether it is the key, which goes by the environment; vLLM takes others from there by its names."""
        return arg == "api-key"
