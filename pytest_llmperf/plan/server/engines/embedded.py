"""The embedded engine in a plan."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.plan.fields import EntryError, Seconds
from pytest_llmperf.plan.server.base import ArgValue, LaunchedServer

EMBEDDED_ARGS = sorted(name.replace("_", "-") for name in EngineSettings.__dataclass_fields__)


class EmbeddedServer(LaunchedServer):
    """The package's own engine: real continuous batching; numpy decoder or modelled step times."""

    known_args = EMBEDDED_ARGS
    usage_in_every_chunk = True
    default_gpus = 0

    engine: Literal["embedded"]
    ready_timeout: Seconds = 30.0

    @field_validator("args", mode="after")
    @classmethod
    def _known_args(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for name in args:
            if name not in EMBEDDED_ARGS:
                problem = f"the embedded engine has no argument {name!r}{did_you_mean(name, EMBEDDED_ARGS)}"
                raise EntryError(problem, name)
        return args

    @property
    def simulated(self) -> bool:
        return self.args.get("step") == "modelled"
