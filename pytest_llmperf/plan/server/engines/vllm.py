"""vLLM in a plan."""

from __future__ import annotations

from typing import Literal

from pytest_llmperf.plan.server.base import LaunchedServer


class VllmServer(LaunchedServer):
    """`vllm serve` with any arguments."""

    paths = ("model", "executable")

    engine: Literal["vllm"]
    executable: str = "vllm"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""
