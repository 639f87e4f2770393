"""One load with every sweep resolved, and the keys that it shares with the load that a plan writes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt, WithJsonSchema

from pytest_llmperf.boundary.literals import literal_secrets
from pytest_llmperf.definitions import ACCURACIES, METRICS, did_you_mean, parse_quantity
from pytest_llmperf.errors import MissingExtra, MissingRequirement, NotThere
from pytest_llmperf.plan.fields import EntryError, Frozen, Seconds, entry
from pytest_llmperf.plan.limits import Sla
from pytest_llmperf.plan.load.answers import AnswerSpec
from pytest_llmperf.plan.load.capacity import CapacitySpec
from pytest_llmperf.plan.load.prompts import PromptSpec, TokenCount
from pytest_llmperf.plan.load.shapes import Cancel, Ramp, Rate, Stage, TraceReplay, WarmUpSpec
from pytest_llmperf.units import parse_margin, parse_seconds

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
            if quantity.better == "neither" or (quantity.unit == "ratio" and quantity.metric not in ACCURACIES):
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
    if isinstance(given, str) and given.isdecimal():
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
    """Share by which throughput and mean latency of the last three windows may differ (max / min - 1)."""
    max_windows: Annotated[int, Field(ge=3)] = 10
    """Windows after which an unstable load is given up, and INVALID."""


KINDS = ("concurrency", "request_rate", "stages", "trace", "capacity")
"""Keys that say what a load is; every load has exactly one of them."""
_FEWEST, _FEWEST_PER_SLOT = 100, 5
_DEFAULT_RUNS = 3
GateProfile = Literal["default", "strict", "report-only"]
Relaunch = Literal["auto", "never", "always"]
EndpointName = Literal["chat", "completions", "responses", "generate", "generate-once", "infer", "grpc"]


def _with_prompt(extra: dict[str, Any]) -> dict[str, Any]:
    for name in ("messages", "prompt", "input", "text_input"):
        if extra.get(name, "") is None:
            raise EntryError(f"{name}: null would leave out the prompt itself", name)
    if not isinstance(extra.get("parameters", {}), Mapping | None):
        raise EntryError(f"parameters: {extra['parameters']!r} is no mapping", "parameters")
    for name, value in extra.items():
        if any(True for _ in literal_secrets({name: value})):
            raise EntryError(
                f"{name} holds a secret: a body is sent and stored as it is. Write it into the server's `headers` or "
                "`bearer`, as ${NAME}",
                name,
            )
    return extra


ExtraBody = Annotated[dict[str, Any], AfterValidator(_with_prompt)]


def _off(given: object) -> object:
    """YAML reads `off` as false."""
    return "off" if given is False else given


class LoadKeys(PromptSpec):
    """The keys that one value of a load and a whole sweep of it share."""

    endpoint: EndpointName = "chat"
    arrival: Literal["constant", "poisson", "gamma"] = "constant"
    """Gaps of an open loop: all equal, or exponential, or of a gamma distribution (seeded)."""
    burstiness: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Shape of the gamma distribution: 1 is Poisson, less comes in bursts, more is smoother."""
    duration: Seconds | None = None
    """Seconds in which requests are sent, in the place of `requests`; those in flight at its end are waited for."""
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
    """The reuse of connections: they are kept, or each request opens its own."""
    warmup_requests: NonNegativeInt = 2
    """Requests sent and forgotten before the first run of the point."""
    warmup: Annotated[Literal["auto", "off"] | WarmUpSpec | None, BeforeValidator(_off)] = None
    """The load's own requests, unmeasured, after every start of the server and its `warmup_requests`. `auto`: until
    they take no less time than before; None: `auto` for a server that is started here, unless `warmup_requests` is
    given.
    """
    seed: NonNegativeInt | None = None
    """Seed of prompts and arrivals; None: derived from the point's id, so that every run has the same trace."""
    phase: Literal["prefill", "decode"] | None = None
    """Isolate one: `prefill` asks for a single token, `decode` for exactly `output_tokens`."""
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    ignore_eos: bool = True
    """Ask for exactly `output_tokens` (ignore_eos and min_tokens, as vLLM takes them)."""
    stream_usage: Literal["every-chunk", "last-chunk"] | None = None
    """The chunks that carry token counts; None: every chunk where the engine is known to do it, else the last."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The name of `output_tokens` in a request of chat or completions; None: max_tokens."""
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
    answers: AnswerSpec | None = None
    """Score the answers, or guard them against change; None: their texts are not looked at."""
    stability: Stability | None = None
    """Measure until it is stable; None: a fixed number of runs."""
    workers: Workers = None
    """Processes of the load driver; None (`auto`): one, and twice as many whenever its CPU was the limit."""
    connect_timeout: Seconds = 10.0
    read_timeout: Seconds = 600.0
    """Longest time from sending a request to the end of its response."""
    no_data_timeout: Seconds = 120.0
    """Longest silence within a response, first byte included."""
    max_response_mib: PositiveInt = 64
    """MiB of a response's body, after which it is broken off: a stream that never ends would fill memory and disk."""


class LoadPoint(LoadKeys):
    """One load, with every sweep resolved: what the driver runs and a baseline is stored for. LoadSpec makes them."""

    name: str
    entry: str = Field("", exclude=True)
    """The plan's name of its load, which its own name begins with; empty where no plan has it."""
    input_tokens: TokenCount | None = None
    """None: as long as the prompts of the file, or of the trace, are."""
    dataset_entries: PositiveInt | None = None
    """Unique prompts (with `conversation`: conversations), used in turn; None: every request has its own."""
    requests: PositiveInt | None = None
    """Measured requests per run; where the length is `auto`, the fewest."""
    length: Literal["auto"] | None = None
    """`auto`: the point's baseline or first run decides how many requests all have; None: `requests` says it."""
    concurrency: PositiveInt | None = None
    """Closed loop: requests in flight at all times. Exactly one of this, `request_rate`, stages,
    trace and capacity is set."""
    request_rate: Rate | None = None
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
        # pytest shows the arguments of a failing test, and a load's many fields would bury the failure.
        return f"LoadPoint({self.name!r})"

    def replace(self, **changes: Any) -> LoadPoint:
        """Returns the same load with other values, as in `load_point.replace(concurrency=4, requests=40)`.

        Values are as a plan writes them, and None takes one away: `replace(request_rate=5, concurrency=None)`.
        TypeError for a name that a load does not have, ValueError for a value that it does not take or that contradicts
        another.
        """
        known = list(type(self).model_fields)
        if wrong := next((name for name in changes if name not in known), None):
            raise TypeError(f"a load point has no {wrong!r}{did_you_mean(wrong, known)}")
        if "requests" in changes:
            changes = {"length": None, **changes}
        parsed = type(self).model_validate({"name": self.name, **changes})
        made = self.model_copy(update={name: getattr(parsed, name) for name in changes}).with_fewest()
        made.check_shape()
        return made

    def check_shape(self) -> None:
        """Raises ValueError unless the load is of one kind, with a length and prompts that go with it."""
        kinds = [kind for kind in KINDS if getattr(self, kind)]
        if len(kinds) != 1:
            given = " and ".join(kinds) or "none of them"
            raise ValueError(f"a load has one of {', '.join(KINDS)}; given: {given} (None takes one away)")
        if self.requests is not None and self.duration is not None:
            raise ValueError("a load is bounded by `requests` or by `duration`; both are given (None takes one away)")
        if self.concurrency is not None and self.requests is not None and self.requests < self.concurrency:
            raise ValueError(
                f"requests: {self.requests} is less than concurrency: {self.concurrency}; "
                "the load would never be at that concurrency"
            )
        if self.closed_loop and self.arrival != "constant":
            raise ValueError(
                f"arrival: {self.arrival} needs `request_rate`; in closed loop arrivals follow completions"
            )
        if self.closed_loop and self.max_in_flight is not None:
            raise ValueError("max_in_flight: needs an open loop; in closed loop `concurrency` is the limit")
        if self.trace is None and (self.input_tokens is None) == (self.prompts is None):
            raise ValueError("a load has either `input_tokens` (synthetic prompts) or `prompts: {file: ...}`")

    def as_dict(self) -> dict[str, Any]:
        """JSON data of the load; the SLA is not part of what is measured, nor is who sends it."""
        without = {"sla", "runs", "margins", "gate", "relaunch", "workers"}
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=without)

    @property
    def missing(self) -> MissingRequirement | None:
        """The tokenizer or library that it needs and this machine lacks, known before a server is started for it."""
        if self.tokenizer and not Path(self.tokenizer).is_dir():
            given = f"needs the tokenizer {self.tokenizer}, which is not a folder"
            return NotThere(f"{given}; give that of a downloaded model or tokenizer")
        if self.tokenizer and find_spec("transformers") is None:
            return MissingExtra("its tokenizer needs transformers: pip install 'pytest-llmperf[tokenizers]'")
        if self.endpoint in ("infer", "grpc") and find_spec("tritonclient") is None:
            return MissingExtra(f"{self.endpoint} needs tritonclient: pip install 'pytest-llmperf[triton]'")
        return self.answers.missing if self.answers else None

    @property
    def load(self) -> str:
        """The plan's name of its load; where no plan has it, what its own name has before combinations and values."""
        return self.entry or self.name.partition("-")[0]

    def of_length(self, requests: int) -> LoadPoint:
        """Returns the load with the length that was decided on, where it leaves that open; else itself."""
        return self.model_copy(update={"requests": requests}) if self.length and requests else self

    def with_fewest(self) -> LoadPoint:
        """Returns the load with its fewest requests, where it leaves their number open: five for each slot, 100 at
        least.
        """
        turns = (self.conversation.turns if self.conversation else None) or 1
        return self.of_length(max(_FEWEST, _FEWEST_PER_SLOT * turns * (self.concurrency or 0)))

    def first_runs(self, asked: int | None, at_least: int = 1) -> int:
        """Runs to measure first: the most windows of stability, else the number asked for, the plan's, or 3."""
        if self.stability:
            return self.stability.max_windows
        return asked or max(self.runs or _DEFAULT_RUNS, at_least)

    @property
    def closed_loop(self) -> bool:
        """True if each request follows the end of another; False if requests have due times."""
        if self.capacity is not None:
            return self.capacity.concurrency is not None
        return self.concurrency is not None or any(stage.concurrency for stage in self.stages)
