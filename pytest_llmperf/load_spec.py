"""The loads of a plan: limits, margins, sweeps, and the points that come of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from pytest_llmperf.capacity_spec import CapacitySpec, check_capacity
from pytest_llmperf.definitions import METRICS, parse_quantity
from pytest_llmperf.load.datasets import parse_dataset, read_prompts
from pytest_llmperf.plan.fields import EntryError, Frozen, Seconds, entry
from pytest_llmperf.plan.limits import Sla
from pytest_llmperf.prompt_spec import Lengths, PromptFile, PromptSpec, TokenCount
from pytest_llmperf.shapes import Cancel, Ramp, Rate, Stage, TraceReplay, check_keys, check_values
from pytest_llmperf.traces import read_trace
from pytest_llmperf.units import parse_margin, parse_seconds, parse_sweep

Margin = Annotated[
    float, BeforeValidator(parse_margin), WithJsonSchema({"type": ["number", "string"], "examples": ["10 %"]})
]


def _slo(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    times = [name for name, metric in METRICS.items() if metric.kind == "distribution" and metric.unit == "ms"]
    limits = {}
    for name, value in given.items():
        with entry(str(name)):
            if name not in times:
                raise ValueError(f"slo cannot limit {name!r}; allowed: {', '.join(times)}")
            limits[name] = parse_seconds(value) * 1e3
    return limits


def parse_margins(given: object) -> dict[str, float]:
    """Tolerated changes by quantity, as a plan or a marker writes them; ValueError says which entry is wrong."""
    if not isinstance(given, Mapping):
        raise ValueError(f"a mapping of metrics to margins is needed, as in {{itl_p50: 3 %}}, given {given!r}")
    margins = {}
    for name, value in given.items():
        with entry(str(name)):
            quantity = parse_quantity(str(name))
            if quantity.better == "neither" or quantity.unit == "ratio":
                raise ValueError(f"{name} is not compared with a baseline; limit it in `sla`")
            margins[str(quantity)] = parse_margin(value)
    return margins


Margins = Annotated[
    dict[str, float],
    BeforeValidator(parse_margins),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["number", "string"], "examples": ["5 %"]}}),
]


def _workers(given: object) -> object:
    if given is None or given == "auto":
        return None
    if isinstance(given, str) and given.isdigit():
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f"{given!r} is neither 'auto' nor a whole number of at least 1")
    return given


Workers = Annotated[
    int | None,
    BeforeValidator(_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
]


class Stability(Frozen):
    """Repeat windows of `window` requests until the last three agree; in place of a fixed number of runs."""

    window: PositiveInt | None = None
    """Requests per window: another way to write the load's `requests`."""
    within: Margin = 0.10
    """By what share throughput and mean latency of the last three windows may differ (max / min - 1)."""
    max_windows: Annotated[int, Field(ge=3)] = 10
    """Windows after which an unstable load is given up, and INVALID."""


GateProfile = Literal["default", "strict", "report-only"]
Relaunch = Literal["auto", "never", "always"]
EndpointName = Literal["chat", "completions", "responses", "generate", "generate-once", "infer", "grpc"]


def _with_prompt(extra: dict[str, Any]) -> dict[str, Any]:
    for name in ("messages", "prompt", "input", "text_input"):
        if extra.get(name, "") is None:
            raise EntryError(f"{name}: null would leave out the prompt itself", name)
    if not isinstance(extra.get("parameters", {}), Mapping | None):
        raise EntryError(f"parameters: {extra['parameters']!r} is no mapping", "parameters")
    return extra


ExtraBody = Annotated[dict[str, Any], AfterValidator(_with_prompt)]


class _Load(PromptSpec):
    """What one value of a load and a whole sweep of it share."""

    endpoint: EndpointName = "chat"
    arrival: Literal["constant", "poisson", "gamma"] = "constant"
    """Gaps of an open loop: all equal, or exponential, or of a gamma distribution (seeded)."""
    burstiness: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Shape of the gamma distribution: 1 is Poisson, less comes in bursts, more is smoother."""
    requests: PositiveInt | None = None
    """Measured requests per run, every turn of a conversation one; closed loop sends `concurrency` more (or as many
    conversations) before them, which are not counted."""
    duration: Seconds | None = None
    """How long requests are sent, in the place of `requests`; those in flight at its end are waited for."""
    ramp: Ramp | None = None
    """Leads up (or down) to the measured part, and is not measured."""
    stages: tuple[Stage, ...] = ()
    """A staircase of rates or concurrencies, in the place of a single one; every stage is measured."""
    trace: TraceReplay | None = None
    """Replays a recorded trace, in the place of a rate and lengths."""
    cancel: Cancel | None = None
    """Requests that are broken off on purpose: neither failed nor part of latencies and rates."""
    max_in_flight: PositiveInt | None = None
    """Open loop: a request that is due while so many are in flight waits; its latency counts from the due time."""
    connection: Literal["keep-alive", "fresh"] = "keep-alive"
    """Whether connections are used again, or each request opens its own."""
    warmup_requests: NonNegativeInt = 2
    """Requests sent and forgotten before the first run of the point."""
    seed: NonNegativeInt | None = None
    """Seed of prompts and arrivals; None: derived from the point's id, so that every run has the same trace."""
    phase: Literal["prefill", "decode"] | None = None
    """Isolate one: `prefill` asks for a single token, `decode` for exactly `output_tokens`."""
    temperature: float = Field(0.0, ge=0)
    ignore_eos: bool = True
    """Ask for exactly `output_tokens` (ignore_eos and min_tokens, as vLLM takes them)."""
    stream_usage: Literal["every-chunk", "last-chunk"] | None = None
    """Which chunks carry token counts; None: every chunk where the engine is known to do it, else the last."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """What `output_tokens` is called in a request of chat or completions; None: max_tokens."""
    extra_body: ExtraBody = {}
    """Merged into every request's JSON body; null leaves a field out."""
    good_finish_reasons: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Finish reasons that are a good end of an answer, beside those that servers use for it; any other is a failure."""
    slo: Annotated[
        dict[str, float],
        BeforeValidator(_slo),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "string", "examples": ["500 ms"]}}),
    ] = {}
    """Limits per request, in ms, that make it count as goodput."""
    sla: Sla = ()
    """Limits of this load, beside the plan's; one on the same quantity replaces the plan's."""
    capacity: CapacitySpec | None = None
    """Search the highest rate or concurrency that meets limits, in the place of a given one."""
    stability: Stability | None = None
    """Measure until it is stable; None: a fixed number of runs."""
    workers: Workers = None
    """Processes of the load driver; None (`auto`): one, and twice as many whenever its CPU was the limit."""
    connect_timeout: Seconds = 10.0
    read_timeout: Seconds = 600.0
    """Longest time from sending a request to the end of its response."""
    no_data_timeout: Seconds = 120.0
    """Longest silence within a response, first byte included."""


class LoadPoint(_Load):
    """One load, with every sweep resolved: what the driver runs and a baseline is stored for. LoadSpec makes them."""

    name: str
    input_tokens: TokenCount | None = None
    """None: as long as the prompts of the file, or of the trace, are."""
    dataset_entries: PositiveInt | None = None
    """Unique prompts (with `conversation`: conversations), used in turn; None: every request has its own."""
    concurrency: PositiveInt | None = None
    """Closed loop: requests in flight at all times. Exactly one of this, `request_rate`, stages and trace is set."""
    request_rate: float | None = None
    """Open loop: requests per second, sent whether or not earlier ones have ended."""
    batch_size: PositiveInt = 1
    """Prompts in one request."""
    runs: PositiveInt | None = None
    """The plan's number of runs; None: the default."""
    margins: dict[str, float] = {}
    """The plan's margins, by quantity."""
    gate: GateProfile | None = None
    """The plan's; None: the option's, or default."""
    relaunch: Relaunch | None = None
    """The plan's; None: the option's, or auto."""

    def __repr__(self) -> str:
        # pytest shows the arguments of a failing test, and a load's twenty fields would bury the failure.
        return f"LoadPoint({self.name!r})"

    def as_dict(self) -> dict[str, Any]:
        """JSON data of the load; the SLA is not part of what is measured, nor is who sends it."""
        without = {"sla", "runs", "margins", "gate", "relaunch", "workers"}
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=without)

    @property
    def closed_loop(self) -> bool:
        """Whether requests follow the ends of others; else they have due times."""
        if self.capacity is not None:
            return self.capacity.concurrency is not None
        return self.concurrency is not None or any(stage.concurrency for stage in self.stages)


def _check_prompts(load: LoadPoint) -> None:
    """What the keys that decide what is sent ask of each other."""
    if load.trace is None and (load.input_tokens is None) == (load.prompts is None):
        raise ValueError("a load has either `input_tokens` (synthetic prompts) or `prompts: {file: ...}`")
    if load.prompt_form == "token-ids" and load.endpoint != "completions":
        raise ValueError(f"prompt_as: token-ids needs endpoint: completions; {load.endpoint} takes text only")
    if load.conversation is not None:
        _check_conversation(load)


def _check_conversation(load: LoadPoint) -> None:
    assert load.conversation is not None
    if load.endpoint != "chat":
        raise ValueError(f"conversation needs endpoint: chat; {load.endpoint} has no history")
    if not load.closed_loop:
        raise ValueError("conversation needs `concurrency`, the number of users")
    turns = load.conversation.turns
    if load.prompts is None and turns is None:
        raise ValueError("conversation of synthetic prompts needs `turns`, as in {turns: 3}")
    if load.requests and load.concurrency and load.requests < load.concurrency * (turns or 1):
        raise ValueError(
            f"requests: {load.requests} (turns) is less than one conversation of {turns} turns for each of "
            f"{load.concurrency} users"
        )
    if load.prompts is not None and load.prompts.kind == "csv":
        raise ValueError("conversation needs a ShareGPT or JSONL file; csv holds single prompts")


def check_tokenizer(tokenizer: str | None, load: PromptSpec) -> None:
    """Checked when the plan's own tokenizer is known."""
    if tokenizer is not None:
        return
    if load.prompt_form == "tokenizer":
        raise ValueError("prompt_as: tokenizer needs `tokenizer: PATH`, in the load or for the whole plan")
    if load.prompt_form == "token-ids" and load.prompts is not None:
        raise ValueError("prompt_as: token-ids of a file's texts needs `tokenizer: PATH`")


def _whole(given: object) -> tuple[int, ...]:
    values = parse_sweep(given)
    if any(value != int(value) for value in values):
        raise ValueError(f"sweep {given!r} gives {values}; whole numbers are needed")
    return tuple(int(value) for value in values)


class IntSweep(Frozen):
    """Whole numbers: `{sweep: "1:256"}` doubles, `{sweep: "100:500:50"}` steps, `{sweep: [1, 8]}` lists."""

    sweep: Annotated[tuple[PositiveInt, ...], BeforeValidator(_whole), WithJsonSchema({"type": ["string", "array"]})]


class RateSweep(Frozen):
    """Rates in req/s, in the grammar of IntSweep."""

    sweep: Annotated[tuple[float, ...], BeforeValidator(parse_sweep), WithJsonSchema({"type": ["string", "array"]})]


# 15 digits write 1048576 as it is, and the third of 0.1:0.5:0.1 as 0.3.
_AXIS_SUFFIX = {
    "concurrency": "c{:.15g}",
    "request_rate": "{:.15g}rps",
    "input_tokens": "in{:.15g}",
    "dataset_entries": "d{:.15g}",
    "batch_size": "b{:.15g}",
}


def _value_or_sweep(given: object) -> str:
    """Decides which of the two a mistake is reported for."""
    return "sweep of" if isinstance(given, Mapping | Frozen) else "value of"


def _any_count(given: object) -> str:
    """The same for what may be a distribution too."""
    if isinstance(given, Lengths) or (isinstance(given, Mapping) and "sweep" not in given):
        return "lengths of"
    return _value_or_sweep(given)


_Choice = Discriminator(_value_or_sweep)
Count = Annotated[Annotated[PositiveInt, Tag("value of")] | Annotated[IntSweep, Tag("sweep of")], _Choice]
InputCount = Annotated[
    Annotated[PositiveInt, Tag("value of")]
    | Annotated[IntSweep, Tag("sweep of")]
    | Annotated[Lengths, Tag("lengths of")],
    Discriminator(_any_count),
]
Rates = Annotated[Annotated[Rate, Tag("value of")] | Annotated[RateSweep, Tag("sweep of")], _Choice]


class LoadSpec(_Load):
    """A load as the plan writes it: each axis a value or a sweep."""

    input_tokens: InputCount | None = None
    concurrency: Count | None = None
    request_rate: Rates | None = None
    dataset_entries: Count | None = None
    batch_size: Count = 1

    def points(self, name: str) -> tuple[LoadPoint, ...]:
        """One point per combination of swept values; swept values go into the name, as in `rate-20rps`."""
        axes = {axis: getattr(self, axis) for axis in _AXIS_SUFFIX}
        swept = {axis: value.sweep for axis, value in axes.items() if isinstance(value, IntSweep | RateSweep)}
        base = {field: value for field, value in self if field not in swept}
        combinations = (dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values()))
        # The values were validated in this object; validating them again would ask parsed times for their units.
        points = tuple(
            LoadPoint.model_construct(**{**base, **chosen, "name": _point_name(name, chosen)})
            for chosen in combinations
        )
        for point in points:
            check_values(point)
            check_capacity(point)
            _check_prompts(point)
        return points

    @model_validator(mode="before")
    @classmethod
    def _phase_gives_output(cls, given: object) -> object:
        if not isinstance(given, Mapping) or given.get("phase") not in ("prefill", "decode"):
            return given
        phase = given["phase"]
        fixed = {"ignore_eos": True, **({"output_tokens": 1} if phase == "prefill" else {})}
        for name, value in fixed.items():
            if given.get(name, value) != value:
                raise ValueError(f"phase: {phase} needs {name}: {str(value).lower()}, given {given[name]!r}")
        return {**given, **fixed}

    @model_validator(mode="before")
    @classmethod
    def _window_gives_requests(cls, given: object) -> object:
        stability = given.get("stability") if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(stability, Mapping) or "window" not in stability:
            return given
        window = stability["window"]
        if given.get("requests", window) != window:
            raise ValueError(f"requests: {given['requests']} and stability.window: {window} differ; write one of them")
        return {**given, "requests": window}

    @model_validator(mode="after")
    def _files_are_readable(self, info: ValidationInfo) -> LoadSpec:
        """Told with the plan, because later means after the server's start."""
        if self.trace is not None and info.context:
            with entry("trace"):
                read_trace(self.trace)
        if self.prompts is not None and info.context:
            with entry("prompts"):
                self._check_dataset(self.prompts)
        return self

    def _check_dataset(self, given: PromptFile) -> None:
        sessions = self.conversation is not None
        data = parse_dataset(read_prompts(given.file), given.kind, given.file, sessions=sessions)
        if sessions and given.kind == "jsonl" and all(len(dialogue) == 1 for dialogue in data.dialogues):
            raise ValueError(f"{given.file} has no dialogue of several turns, which `conversation` needs")

    @model_validator(mode="after")
    def _points_are_valid(self) -> LoadSpec:
        check_keys(self, {name for name in self.model_fields_set if getattr(self, name) is not None})
        self.points("load")
        return self


def _point_name(name: str, chosen: dict[str, Any]) -> str:
    return "-".join([name, *(_AXIS_SUFFIX[axis].format(value) for axis, value in chosen.items())])
