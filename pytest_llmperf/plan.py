"""The plan: which server configurations, which loads, which limits. Frozen, hashable, equal by value.

pytest keys its fixtures on these objects (an equal configuration is started once) and baselines on their names.
Reading the YAML file and its errors with line numbers is plan_file.py's part.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

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
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from pytest_llmperf.definitions import METRICS, Quantity, did_you_mean, parse_quantity
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.errors import PlanError
from pytest_llmperf.fields import Frozen, Seconds
from pytest_llmperf.load.datasets import parse_dataset, read_prompts
from pytest_llmperf.prompt_spec import Lengths, PlanFolder, PromptSpec, TokenCount
from pytest_llmperf.shapes import Cancel, Ramp, Rate, Stage, TraceReplay, check_keys, check_values
from pytest_llmperf.traces import read_trace
from pytest_llmperf.triton_spec import ParameterValue, TritonModel
from pytest_llmperf.units import Op, parse_limit, parse_margin, parse_seconds, parse_sweep

ArgValue = str | bool | int | float | list[Any] | dict[str, Any] | None

Margin = Annotated[
    float, BeforeValidator(parse_margin), WithJsonSchema({"type": ["number", "string"], "examples": ["10 %"]})
]

# Arguments that change what a model outputs. A plan must lock them, or a server must say in `unlocked` that it differs.
_OUTPUT_ARGS = frozenset(
    {
        "dtype", "kv-cache-dtype", "max-model-len", "quantization", "revision", "tokenizer", "tokenizer-mode",
        "tokenizer-revision", "chat-template", "rope-scaling", "rope-theta", "hf-overrides", "generation-config",
        "override-generation-config", "logits-processors", "enable-lora", "lora-modules", "load-format",
    }
)  # fmt: skip
_GPU_ARGS = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
_ALIASES = {
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "q": "quantization",
    "sc": "speculative-config",
}
_OWN_ARGS = ("host", "port", "uds")
"""The plugin chooses where a server that it starts listens."""
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+]*$")


class EntryError(ValueError):
    """A mistake at `keys`, counted from the field that pydantic names: the plan's reader finds the line by them."""

    def __init__(self, problem: str, *keys: str) -> None:
        super().__init__(problem)
        self.keys = keys


@contextlib.contextmanager
def _entry(*keys: str) -> Iterator[None]:
    """ValueErrors inside are those of the entry at `keys`."""
    try:
        yield
    except (ValueError, PlanError) as error:
        raise EntryError(str(error), *keys) from error


def changes_output(arg: str) -> bool:
    """Whether an engine argument changes the model's output, so that results with and without it don't compare."""
    return arg in _OUTPUT_ARGS or arg.startswith(("speculative-", "num-speculative-"))


def _argument_name(name: str) -> str:
    bare = name.lstrip("-").replace("_", "-")
    return _ALIASES.get(bare, bare)


def _argument_names(args: dict[str, ArgValue]) -> dict[str, ArgValue]:
    """Every spelling of an argument under one name: `--tensor_parallel_size` is `tensor-parallel-size`."""
    named = {_argument_name(name): value for name, value in args.items()}
    if len(named) != len(args):
        raise ValueError(f"two spellings of one argument in {list(args)}")
    return named


_SECRET_NAME = re.compile(
    r"(?i)(token$|secret|passw|(api|access|private|subscription)[-_]?key|authorization|cookie|credential)"
)
_SECRET_VALUE = re.compile(r"(?i)^(bearer|basic)\s+[^$\s]|://[^/@\s]*:(?!\$\{\w+\}@)[^/@\s]+@")
_REFERENCES = re.compile(r"(\$\{\w+\}[: ]?)+|(Bearer|Basic) \$\{\w+\}")


def _no_literal_secret(name: str, value: object) -> None:
    """A plan is committed: a secret in it is a leak. References such as `${API_KEY}` are filled in at start."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _no_literal_secret(str(key), inner)
    elif isinstance(value, list):
        for inner in value:
            _no_literal_secret(name, inner)
    elif isinstance(value, str):
        plain = is_secret(name) and not _REFERENCES.fullmatch(value)
        if plain or _SECRET_VALUE.search(value):
            raise ValueError(f"{name} holds a secret in plain text; write '${{NAME}}' and set NAME in the environment")


def is_secret(name: str) -> bool:
    """Whether what goes by this name is a secret, never to be stored or shown."""
    return bool(_SECRET_NAME.search(name))


def _no_literal_secrets(entries: Mapping[str, Any]) -> None:
    for name, value in entries.items():
        with _entry(name):
            _no_literal_secret(name, value)


Args = Annotated[dict[str, ArgValue], AfterValidator(_argument_names)]


class _Server(Frozen):
    """What every engine's configuration has. `args` are the effective ones: the plan's `locked` are merged in."""

    name: SkipJsonSchema[str] = ""
    """The plan's name for this server: filled in by `Plan.server_configs`, not a key of the entry."""
    model: str = ""
    args: Args = {}
    """Engine arguments by their command-line names without dashes; null takes a locked one away (an error)."""
    unlocked: tuple[str, ...] = ()
    """Output-changing arguments in which this server differs on purpose: its results compare with no other's."""
    ready_timeout: Seconds = 600.0
    """How long the server may take to answer its first request."""

    @field_validator("unlocked", mode="after")
    @classmethod
    def _unlocked_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_argument_name(name) for name in names)

    @field_validator("args", mode="after")
    @classmethod
    def _no_secret_args(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        _no_literal_secrets(args)
        return args

    def as_dict(self) -> dict[str, Any]:
        """JSON data of the configuration; secrets are `${NAME}` references in it."""
        return self.model_dump(mode="json", exclude={"ready_timeout"})

    @property
    def output_args(self) -> dict[str, ArgValue]:
        """The arguments that change output: results compare only between servers where these are equal."""
        return {name: value for name, value in sorted(self.args.items()) if changes_output(name)}


class _Launched(_Server):
    """A server that the plugin starts itself."""

    env: dict[str, str] = {}
    """Environment variables added to pytest's own; `${NAME}` takes the value from there, and is never shown."""
    gpus: NonNegativeInt | None = None
    """GPUs that one replica needs; the product TP x PP x DP of its args when not given. 0 runs on the CPU."""
    replicas: PositiveInt = 1
    """Equal instances to start, each with its own GPUs; requests are spread over them."""

    @field_validator("env", mode="after")
    @classmethod
    def _no_secret_env(cls, env: dict[str, str]) -> dict[str, str]:
        _no_literal_secrets(env)
        return env

    @field_validator("args", mode="after")
    @classmethod
    def _args_that_we_use(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for name, value in args.items():
            if name in _OWN_ARGS:
                raise EntryError(f"{name} is the plugin's to choose: it starts servers on free ports", name)
            if name in _GPU_ARGS and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise EntryError(f"{name} is a whole number of at least 1, not {value!r}", name)
        return args

    @property
    def parallel_size(self) -> int:
        """TP x PP x DP."""
        return math.prod(int(str(self.args.get(name, 1))) for name in _GPU_ARGS)


_EMBEDDED_ARGS = sorted(name.replace("_", "-") for name in EngineSettings.__dataclass_fields__)


class EmbeddedServer(_Launched):
    """The package's own engine: real continuous batching; numpy decoder or modelled step times."""

    engine: Literal["embedded"]
    ready_timeout: Seconds = 30.0

    @field_validator("args", mode="after")
    @classmethod
    def _known_args(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for name in args:
            if name not in _EMBEDDED_ARGS:
                problem = f"the embedded engine has no argument {name!r}{did_you_mean(name, _EMBEDDED_ARGS)}"
                raise EntryError(problem, name)
        return args

    @property
    def gpu_count(self) -> int:
        return (self.gpus or 0) * self.replicas

    @property
    def simulated(self) -> bool:
        """Whether step times are modelled: such results are labelled and never mixed with real ones."""
        return self.args.get("step") == "modelled"


class VllmServer(_Launched):
    """`vllm serve` with any arguments."""

    engine: Literal["vllm"]
    executable: str = "vllm"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""

    @property
    def gpu_count(self) -> int:
        return (self.parallel_size if self.gpus is None else self.gpus) * self.replicas

    @property
    def simulated(self) -> bool:
        return False


_TRITON_OWN = ("http-address", "http-port", "grpc-address", "grpc-port", "metrics-address", "metrics-port")
_REMOTE_REPOSITORY = re.compile(r"^(s3|gs|as)://")


class TritonServer(_Launched):
    """`tritonserver` on a model repository that the plan describes, or names.

    `args` are the model's engine arguments: of a vllm model's model.json, of a python model's `parameters`. Of a
    `repository` that is used as it is, they are what its owner says it holds.
    """

    engine: Literal["triton"]
    executable: str = "tritonserver"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""
    image: str | None = None
    """Docker image to run it in, as in nvcr.io/nvidia/tritonserver:25.01-vllm-python-py3; `executable` is then its."""
    docker_args: tuple[str, ...] = ()
    """More arguments of `docker run`, such as `-v=/models:/models:ro`."""
    shm_size: str = "1g"
    """Shared memory of the container: tensors of python models pass through it."""
    models: dict[str, TritonModel] = {}
    repository: str | None = None
    """In the place of `models`: a local folder, or an s3://, gs:// or as:// URL."""
    serve: str = ""
    """The model that is asked; needed unless there is one only."""
    options: dict[str, ParameterValue | list[ParameterValue]] = {}
    """Flags of tritonserver without dashes; a list repeats the flag."""
    exit_timeout: Seconds = 5.0
    """How long it may finish requests when it is stopped (--exit-timeout-secs)."""

    @field_validator("options", mode="after")
    @classmethod
    def _options_that_we_use(cls, options: dict[str, Any]) -> dict[str, Any]:
        named = {name.lstrip("-").replace("_", "-"): value for name, value in options.items()}
        for name in named:
            if name in (*_TRITON_OWN, "model-repository", "model-store", "exit-timeout-secs"):
                raise EntryError(f"{name} is the plugin's to choose; it has a key of its own, or is a free port", name)
        _no_literal_secrets(named)
        return named

    @model_validator(mode="after")
    def _one_repository(self) -> TritonServer:
        if bool(self.models) == (self.repository is not None):
            raise ValueError("a triton server has either `models`, to write a repository, or `repository`")
        if self.repository is not None and not self.serve:
            raise ValueError("`repository` needs `serve`, the model that is asked")
        if self.models and not self.serve and len(self.models) > 1:
            raise ValueError(f"of several models, `serve` says which is asked: {', '.join(self.models)}")
        if self.models and self.serve and self.serve not in self.models:
            raise EntryError(f"serve: {self.serve!r} is none of the models {', '.join(self.models)}", "serve")
        return self

    @property
    def served(self) -> str:
        """Name of the model that is asked."""
        return self.serve or next(iter(self.models))

    @property
    def has_remote_repository(self) -> bool:
        return bool(_REMOTE_REPOSITORY.match(self.repository or ""))

    @property
    def gpu_count(self) -> int:
        return (self.parallel_size if self.gpus is None else self.gpus) * self.replicas

    @property
    def simulated(self) -> bool:
        return False


class RemoteServer(_Server):
    """A server that is already up. Its `args` are what the owner says it was started with."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https")

    url: str
    """Base URL, with or without `/v1`."""
    headers: dict[str, str] = {}
    bearer: str | None = None
    """`${NAME}`: the token is read from that environment variable."""
    basic: str | None = None
    """`${USER}:${PASSWORD}`, read from the environment."""
    hardware: str | None = None
    """Label of the machine behind the URL, as in `h200x8`; part of the baselines' folder. Default: the URL's host."""
    gpus: NonNegativeInt | None = None
    """GPUs behind the URL, for per-GPU throughput."""
    ready_timeout: Seconds = 30.0

    @field_validator("headers")
    @classmethod
    def _no_secret_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        _no_literal_secrets(headers)
        return headers

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("the URL holds credentials in plain text; write them as `basic: '${USER}:${PASSWORD}'`")
        parts = urlsplit(url)
        if parts.scheme not in cls.schemes or not parts.hostname or parts.port == 0 or re.search(r"[\s?#]", url):
            raise ValueError(f"{url!r} is not a base URL, such as 'http://10.0.0.5:8000'")
        return url.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _no_secrets(self) -> RemoteServer:
        with _entry("bearer"):
            _no_literal_secret("bearer token", self.bearer)
        with _entry("basic"):
            _no_literal_secret("basic password", self.basic)
        if self.bearer and self.basic:
            raise ValueError("`bearer` and `basic` exclude each other")
        return self

    @property
    def gpu_count(self) -> int:
        return self.gpus or 0

    @property
    def simulated(self) -> bool:
        return False


class OpenAIServer(RemoteServer):
    """An OpenAI-compatible URL (or Triton's HTTP port, for the `generate` endpoints)."""

    engine: Literal["openai"]


class TritonRemoteServer(RemoteServer):
    """A Triton that is already up: its HTTP URL, its gRPC one, or both."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https", "grpc", "grpcs")

    engine: Literal["triton-remote"]
    grpc: str | None = None
    """host:port of its gRPC service, for `endpoint: grpc`; `url: grpc://host:port` where there is no other."""
    metrics: str | None = None
    """URL of its metrics, as in http://10.0.0.5:8002/metrics."""

    @property
    def grpc_target(self) -> str:
        """host:port of its gRPC service; empty when the plan names none."""
        return self.grpc or (self.url.partition("://")[2] if self.url.startswith("grpc") else "")


ServerConfig = EmbeddedServer | VllmServer | TritonServer | OpenAIServer | TritonRemoteServer


class Limit(Frozen):
    """One absolute limit of an SLA; `value` in the metric's unit."""

    metric: str
    stat: str | None
    op: Op
    value: float

    @property
    def quantity(self) -> Quantity:
        return Quantity(self.metric, self.stat)

    def __str__(self) -> str:
        return f"{self.quantity} {self.op} {self.quantity.shown(self.value, 'g')}"


def _limit(name: str, given: object) -> Limit:
    quantity = parse_quantity(name)
    op, value = parse_limit(quantity.unit, given)
    wrong = {"lower": (">", ">="), "higher": ("<", "<="), "neither": ()}[quantity.better]
    if op in wrong:
        raise ValueError(f"{given!r}: {quantity.better} is better for {name}, so its limit is written {_flip(op)}")
    return Limit(metric=quantity.metric, stat=quantity.stat, op=op, value=value)


def _flip(op: str) -> str:
    return op.replace(">", "<") if ">" in op else op.replace("<", ">")


def _limits(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    limits = []
    for name, value in given.items():
        with _entry(str(name)):
            limits.append(_limit(str(name), value))
    return tuple(limits)


Sla = Annotated[
    tuple[Limit, ...],
    BeforeValidator(_limits),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string", "examples": ["<= 500 ms"]}}),
]


def _slo(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    times = [name for name, metric in METRICS.items() if metric.kind == "distribution" and metric.unit == "ms"]
    limits = {}
    for name, value in given.items():
        with _entry(str(name)):
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
        with _entry(str(name)):
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
    extra_body: dict[str, Any] = {}
    """Merged into every request's JSON body."""
    slo: Annotated[
        dict[str, float],
        BeforeValidator(_slo),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "string", "examples": ["500 ms"]}}),
    ] = {}
    """Limits per request, in ms, that make it count as goodput."""
    sla: Sla = ()
    """Limits of this load, beside the plan's; one on the same quantity replaces the plan's."""
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
    if load.prompts is not None and load.prompts.kind != "sharegpt":
        raise ValueError(f"conversation needs a ShareGPT file; {load.prompts.kind} holds single prompts")


def _check_tokenizer(tokenizer: str | None, load: PromptSpec) -> None:
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
            with _entry("trace"):
                read_trace(self.trace)
        if self.prompts is not None and info.context:
            with _entry("prompts"):
                parse_dataset(read_prompts(self.prompts.file), self.prompts.kind, self.prompts.file)
        return self

    @model_validator(mode="after")
    def _points_are_valid(self) -> LoadSpec:
        check_keys(self, {name for name in self.model_fields_set if getattr(self, name) is not None})
        self.points("load")
        return self


def _point_name(name: str, chosen: dict[str, Any]) -> str:
    return "-".join([name, *(_AXIS_SUFFIX[axis].format(value) for axis, value in chosen.items())])


class Plan(Frozen):
    """A whole plan file."""

    model: str
    locked: Args = {}
    """Arguments that change output, with the value that every server carries."""
    servers: dict[str, Annotated[ServerConfig, Field(discriminator="engine")]] = Field(min_length=1)
    loads: dict[str, LoadSpec] = Field(min_length=1)
    sla: Sla = ()
    tokenizer: PlanFolder | None = None
    """Folder of the model's tokenizer, for loads that name none: prompts then have exactly the length asked for."""
    margins: Margins = {}
    """Tolerated change per gated quantity, as a share; the built-in margin where none is given."""
    runs: PositiveInt | None = None
    """First runs per point, before any that a gate in doubt adds; `--llmperf-runs` wins. Default 3."""
    gate: GateProfile | None = None
    """`strict` fails at 99 % confidence only, `report-only` never does; `--llmperf-gate` wins."""
    relaunch: Relaunch | None = None
    """Whether reruns are on a server launched anew: where launches differ by more than runs (`auto`), or not at all, or
    for every run; `--llmperf-relaunch` wins."""

    @field_validator("servers", "loads")
    @classmethod
    def _names(cls, entries: dict[str, Any]) -> dict[str, Any]:
        for name in entries:
            if not _NAME.match(name):
                raise EntryError(f"{name!r} cannot be part of a test id; use letters, digits, '_', '.' and '+'", name)
        return entries

    @model_validator(mode="after")
    def _locked_everywhere(self) -> Plan:
        for name, server in self.servers.items():
            if server.name:
                raise EntryError("the name is the entry's key", "servers", name, "name")
            _check_locked(name, server, self.locked)
        return self

    @model_validator(mode="after")
    def _tokenizers_where_needed(self) -> Plan:
        for name, load in self.loads.items():
            with _entry("loads", name):
                _check_tokenizer(load.tokenizer or self.tokenizer, load)
        return self

    def server_configs(self) -> tuple[ServerConfig, ...]:
        """The servers in plan order, with name, model and locked arguments filled in."""
        return tuple(
            server.model_copy(
                update={"name": name, "model": server.model or self.model, "args": _effective(self.locked, server)}
            )
            for name, server in self.servers.items()
        )

    def load_points(self) -> tuple[LoadPoint, ...]:
        """Every point of every load, in plan order, with the SLA that holds for it."""
        points = (point for name, load in self.loads.items() for point in load.points(name))
        shared = {"runs": self.runs, "margins": self.margins, "gate": self.gate, "relaunch": self.relaunch}
        return tuple(
            point.model_copy(
                update={
                    **shared,
                    "sla": _merged(self.sla, point.sla),
                    "tokenizer": point.tokenizer or self.tokenizer,
                }
            )
            for point in points
        )


def _effective(locked: Mapping[str, ArgValue], server: ServerConfig) -> dict[str, ArgValue]:
    return {name: value for name, value in {**locked, **server.args}.items() if value is not None}


def _merged(general: tuple[Limit, ...], own: tuple[Limit, ...]) -> tuple[Limit, ...]:
    replaced = {limit.quantity for limit in own}
    return (*(limit for limit in general if limit.quantity not in replaced), *own)


def _check_locked(name: str, server: ServerConfig, locked: Mapping[str, ArgValue]) -> None:
    """`locked` is merged into servers that we configure; what is up or written already must say so itself."""
    problems = []
    for arg, value in locked.items():
        if isinstance(server, EmbeddedServer) and arg not in _EMBEDDED_ARGS:
            raise EntryError(f"the embedded engine has no argument {arg!r}, which this plan locks", "servers", name)
        if arg in server.unlocked:
            continue
        given = isinstance(server, RemoteServer) or (isinstance(server, TritonServer) and server.repository is not None)
        declared = server.args.get(arg) if arg in server.args or given else value
        if declared is None:
            problems.append(f"server {name!r} lacks the locked argument {arg}: {value}")
        elif declared != value:
            problems.append(
                f"server {name!r} changes the locked argument {arg} to {declared!r}; the plan locks {value!r}"
            )
    for arg in server.args:
        if changes_output(arg) and arg not in locked and arg not in server.unlocked:
            problems.append(f"server {name!r} sets {arg}, which changes what the model outputs")
    if problems:
        raise EntryError(
            f"{'; '.join(problems)}. Lock it for the whole plan (`locked:`), or name it in this server's "
            "`unlocked: [...]`: its results are then never compared with the others'",
            *("servers", name, "args"),
        )
