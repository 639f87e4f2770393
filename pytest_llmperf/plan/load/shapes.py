"""Shapes of a load as a plan writes them: ramp, stages, replayed trace, cancellation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, WithJsonSchema, model_validator

from pytest_llmperf.plan.fields import Frozen, Seconds
from pytest_llmperf.plan.load.prompts import PlanPath
from pytest_llmperf.units import parse_rate, parse_ratio

Rate = Annotated[
    float, BeforeValidator(parse_rate), WithJsonSchema({"type": ["number", "string"], "examples": [10, "10 req/s"]})
]

TraceFormat = Literal["mooncake", "burstgpt", "azure"]
TimeUnit = Literal["s", "ms", "us", "ns"]
_TIME_UNITS: dict[TraceFormat, TimeUnit] = {"mooncake": "ms", "burstgpt": "s", "azure": "s"}
_MOONCAKE_BLOCK = 512


def _share(given: object) -> float:
    share = parse_ratio(given)
    if not 0 < share <= 1:
        raise ValueError(f"{given!r} is not a share; write more than 0 and at most 1 (100 %)")
    return share


Share = Annotated[
    float, BeforeValidator(_share), WithJsonSchema({"type": ["number", "string"], "examples": [0.1, "10 %"]})
]


class Ramp(Frozen):
    """The part before the measured one, in which the load goes from `from` to `request_rate` or `concurrency`."""

    start: Rate = Field(alias="from")
    """Requests per second, or slots of a closed loop, at the beginning."""
    over: Seconds
    shape: Literal["linear", "exponential"] = "linear"


class Stage(Frozen):
    """One step of a staircase: a rate or a concurrency, and how long it lasts."""

    request_rate: Rate | None = None
    concurrency: PositiveInt | None = None
    duration: Seconds

    @model_validator(mode="after")
    def _one_level(self) -> Stage:
        if (self.concurrency is None) == (self.request_rate is None):
            raise ValueError("a stage has either `request_rate` or `concurrency`, and a `duration`")
        return self


class WarmUpSpec(Frozen):
    """The length of a warm-up: the load's own requests, unmeasured, after a start of the server."""

    requests: PositiveInt | None = None
    duration: Seconds | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> WarmUpSpec:
        if (self.requests is None) == (self.duration is None):
            raise ValueError("a warm-up has either `requests` or a `duration`")
        return self


class TraceReplay(Frozen):
    """A recorded trace: its due times, prompt lengths and answer lengths."""

    file: PlanPath
    """A relative one counts from the plan's folder."""
    format: TraceFormat
    time_scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Factor on the due times: 0.5 replays twice as fast."""
    limit: PositiveInt | None = None
    """Only the first so many requests of the file; None: all."""
    time_unit: TimeUnit | None = None
    """Unit of the file's times; None: the format's own, `ms` of mooncake, `s` of burstgpt. Azure's are dates."""
    block_tokens: PositiveInt | None = None
    """Tokens that one of mooncake's `hash_ids` stands for; None: 512. A prompt has as many ids as its length takes."""

    @model_validator(mode="after")
    def _keys_of_the_format(self) -> TraceReplay:
        if self.block_tokens is not None and self.format != "mooncake":
            raise ValueError(f"block_tokens: needs `format: mooncake`, which has `hash_ids`; {self.format} has none")
        if self.time_unit is not None and self.format == "azure":
            raise ValueError("time_unit: has no place beside `format: azure`, whose times are dates")
        return self

    @property
    def unit(self) -> TimeUnit:
        return self.time_unit or _TIME_UNITS[self.format]

    @property
    def block_size(self) -> int:
        return self.block_tokens or _MOONCAKE_BLOCK


class Cancel(Frozen):
    """Requests that the client breaks off by closing the connection."""

    share: Share
    """Share of the measured requests, 0..1; which ones follows from the seed."""
    after: Seconds
    """Seconds from sending the request."""
