"""SGLang in a plan."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from pytest_llmperf.boundary.literals import is_secret
from pytest_llmperf.plan.fields import EntryError
from pytest_llmperf.plan.server.base import ArgValue, LaunchedServer


class SglangServer(LaunchedServer):
    """`sglang serve` with any arguments; `python -m sglang.launch_server` where `executable` is a Python."""

    paths = ("model", "executable")
    usage_in_every_chunk = True

    engine: Literal["sglang"]
    executable: str = "sglang"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""

    @field_validator("args", mode="after")
    @classmethod
    def _args_with_keys_of_their_own(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for name in args.keys() & {"model", "model-path"}:
            raise EntryError(f"{name} is the entry's `model`", name)
        if "config" in args and (secret := next(filter(is_secret, args), None)):
            raise EntryError(
                f"{secret} is handed over in a config file, of which SGLang takes one; write it there", secret
            )
        return args

    @property
    def parallel_size(self) -> int:
        """TP x PP x DP; with data-parallel attention the DP groups share the GPUs of TP."""
        shared = self.args.get("enable-dp-attention") is True
        return super().parallel_size // (int(str(self.args.get("data-parallel-size", 1))) if shared else 1)

    @classmethod
    def takes_secret(cls, arg: str) -> bool:
        return is_secret(arg)
