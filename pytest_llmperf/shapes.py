"""Shapes of a load as a plan writes them: ramp, stages, replayed trace, cancellation; and which keys go together."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, WithJsonSchema, model_validator

from pytest_llmperf.plan.fields import Frozen, Seconds
from pytest_llmperf.prompt_spec import PlanPath
from pytest_llmperf.units import parse_rate, parse_ratio

if TYPE_CHECKING:
    from pytest_llmperf.load_spec import LoadPoint, LoadSpec

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
    """What comes before the measured part: the load goes from `from` to `request_rate` or `concurrency`."""

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
    """Of the measured requests, in 0..1; which ones follows from the seed."""
    after: Seconds
    """From sending the request."""


_KINDS = ("concurrency", "request_rate", "stages", "trace", "capacity")
_OF_TRACE = (
    "requests",
    "duration",
    "ramp",
    "arrival",
    "input_tokens",
    "output_tokens",
    "prompts",
    "dataset_entries",
    "shared_prefix",
    "conversation",
    "batch_size",
    "phase",
    "stability",
)
_OF_CAPACITY = ("ramp", "stability")
_OF_STAGES = ("requests", "duration", "ramp", "stability")


def check_keys(load: LoadSpec, given: Set[str]) -> None:
    """Raises ValueError where the keys that a plan gives for a load don't go together."""
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1:
        raise ValueError(
            "a load has either `concurrency` (closed loop) or `request_rate` (open loop), or else `stages`, `trace` or "
            "`capacity`; "
            f"given: {', '.join(kinds) or 'none of them'}"
        )
    kind = kinds[0]
    _refuse(
        given, _OF_TRACE if kind == "trace" else (), "has no place beside `trace`, whose file has due times and lengths"
    )
    _refuse(given, _OF_STAGES if kind == "stages" else (), "has no place beside `stages`, which have durations")
    _refuse(given, _OF_CAPACITY if kind == "capacity" else (), "has no place beside `capacity`, which chooses levels")
    if kind in ("concurrency", "request_rate", "capacity"):
        _check_bound(given)
    _check_stages(load, given)
    _check_dialect(load, given)
    closed = kind == "concurrency" or any(stage.concurrency for stage in load.stages)
    _check_open_only(load, closed or (load.capacity is not None and load.capacity.concurrency is not None))


def _check_bound(given: Set[str]) -> None:
    if not given & {"requests", "duration"}:
        raise ValueError("'requests' is missing; a load is bounded by `requests: 100` or by `duration: 30 s`")
    if {"requests", "duration"} <= given:
        raise ValueError("a load is bounded by `requests` or by `duration`; both are given")


def _refuse(given: Set[str], keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if key in given:
            raise ValueError(f"{key}: {why}")


def _check_stages(load: LoadSpec, given: Set[str]) -> None:
    if "stages" in given and not load.stages:
        raise ValueError("stages: at least one is needed")
    if len({stage.concurrency is None for stage in load.stages}) > 1:
        raise ValueError("stages: all have `request_rate`, or all have `concurrency`")


def _check_dialect(load: LoadSpec, given: Set[str]) -> None:
    if "burstiness" in given and load.arrival != "gamma":
        raise ValueError(f"burstiness: {load.burstiness:g} needs `arrival: gamma`, not {load.arrival}")
    if load.max_tokens_field is not None and load.endpoint not in ("chat", "completions"):
        raise ValueError(f"max_tokens_field: {load.endpoint} has no such choice; it is for chat and completions")
    if load.batch_size != 1 and load.endpoint != "completions":
        raise ValueError(
            f"batch_size: needs `endpoint: completions`, which takes several prompts; {load.endpoint} takes one"
        )


def _check_open_only(load: LoadSpec, closed: bool) -> None:
    if not closed:
        return
    if load.arrival != "constant":
        raise ValueError(f"arrival: {load.arrival} needs `request_rate`; in closed loop arrivals follow completions")
    if load.max_in_flight is not None:
        raise ValueError("max_in_flight: needs an open loop; in closed loop `concurrency` is the limit")


def check_values(load: LoadPoint) -> None:
    """Raises ValueError where the values of one point contradict each other."""
    if load.concurrency is not None and load.requests is not None and load.requests < load.concurrency:
        raise ValueError(
            f"requests: {load.requests} is less than concurrency: {load.concurrency}; "
            "the load would never be at that concurrency"
        )
    if load.ramp is None:
        return
    if load.ramp.start in (load.concurrency, load.request_rate):
        raise ValueError(f"ramp: it starts from {load.ramp.start:g}, which is where it would end")
    if load.concurrency is not None and load.ramp.start != int(load.ramp.start):
        raise ValueError(f"ramp: from: {load.ramp.start:g} is a concurrency here; a whole number is needed")
