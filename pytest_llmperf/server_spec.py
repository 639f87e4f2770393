"""The servers of a plan: one model per engine, their arguments, and what must not stand in them."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.load import urls
from pytest_llmperf.plan.fields import EntryError, Frozen, Seconds, entry
from pytest_llmperf.triton_spec import ParameterValue, TritonModel

ArgValue = str | bool | int | float | list[Any] | dict[str, Any] | None

# Arguments that change what a model outputs. A plan must lock them, or a server must say in `unlocked` that it differs.
_OUTPUT_ARGS = frozenset(
    {
        "dtype", "kv-cache-dtype", "max-model-len", "quantization", "revision", "tokenizer", "tokenizer-mode",
        "tokenizer-revision", "chat-template", "rope-scaling", "rope-theta", "hf-overrides", "generation-config",
        "override-generation-config", "logits-processors", "enable-lora", "lora-modules", "load-format",
        "completion-template", "context-length", "default-chat-template-kwargs", "hf-chat-template-name",
        "json-model-override-args", "lora-paths", "modelopt-quant", "preferred-sampling-params",
        "quantization-param-path", "sampling-defaults", "tokenizer-path", "torchao-config",
    }
)  # fmt: skip
_GPU_ARGS = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
_ALIASES = {
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "tp-size": "tensor-parallel-size",
    "pp-size": "pipeline-parallel-size",
    "dp-size": "data-parallel-size",
    "q": "quantization",
    "sc": "speculative-config",
}
_OWN_ARGS = ("host", "port", "uds")
"""The plugin chooses where a server that it starts listens."""


def changes_output(arg: str) -> bool:
    """Whether an engine argument changes the model's output, so that results with and without it don't compare."""
    return arg in _OUTPUT_ARGS or arg.startswith(("speculative-", "num-speculative-"))


def argument_name(name: str) -> str:
    """The one name that stands for all spellings: `--tensor_parallel_size` and `tp` are `tensor-parallel-size`."""
    bare = name.lstrip("-").replace("_", "-")
    return _ALIASES.get(bare, bare)


def _argument_names(args: dict[str, ArgValue]) -> dict[str, ArgValue]:
    """Every spelling of an argument under one name: `--tensor_parallel_size` is `tensor-parallel-size`."""
    named = {argument_name(name): value for name, value in args.items()}
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
        with entry(name):
            _no_literal_secret(name, value)


Args = Annotated[dict[str, ArgValue], AfterValidator(_argument_names)]


class _Server(Frozen):
    """What every engine's configuration has. `args` are the effective ones: the plan's `locked` are merged in."""

    is_local: ClassVar[bool] = True
    """Whether the plugin starts it, on this machine."""
    known_args: ClassVar[Collection[str] | None] = None
    """All arguments that the engine has; None where the engine itself is to judge."""
    paths: ClassVar[tuple[str, ...]] = ("model",)
    """Fields whose value counts from the plan file where it starts with ./ or ../."""

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
        return tuple(argument_name(name) for name in names)

    @field_validator("args", mode="after")
    @classmethod
    def _no_secret_args(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        _no_literal_secrets(args)
        return args

    def as_dict(self) -> dict[str, Any]:
        """JSON data of the configuration; secrets are `${NAME}` references in it."""
        return self.model_dump(mode="json", exclude={"ready", "ready_timeout", "server_metrics"})

    def located(self, folder: Path) -> Self:
        """The same configuration with its paths counted from `folder`."""
        given = {name: getattr(self, name) for name in self.paths}
        return self.model_copy(update={name: counted_from(folder, path) for name, path in given.items() if path})

    @property
    def output_args(self) -> dict[str, ArgValue]:
        """The arguments that change output: results compare only between servers where these are equal."""
        return {name: value for name, value in sorted(self.args.items()) if changes_output(name)}

    @property
    def declares_args(self) -> bool:
        """Whether `args` only say what the server runs with, so that the plan's locked ones must be among them."""
        return not self.is_local

    @property
    def machine(self) -> str | None:
        """The machine that it runs on, as its baselines' folder names it; None: this one."""
        return None

    @property
    def simulated(self) -> bool:
        """Whether step times are modelled: such results are labelled and never mixed with real ones."""
        return False


def counted_from(folder: Path, path: str) -> str:
    """`path`, absolute where it starts with ./ or ../."""
    return str((folder / path).resolve()) if path.startswith(("./", "../")) else path


class LaunchedServer(_Server):
    """A server that the plugin starts itself."""

    default_gpus: ClassVar[int | None] = None
    """GPUs of a replica whose entry names none; None: as many as its arguments ask for."""

    env: dict[str, str] = {}
    """Environment variables added to pytest's own; `${NAME}` takes the value from there, and is never shown."""
    gpus: NonNegativeInt | None = None
    """GPUs that one replica needs; the product TP x PP x DP of its args when not given. 0 runs on the CPU."""
    replicas: PositiveInt = 1
    """Equal instances to start, each with its own GPUs; requests are spread over them."""
    server_metrics: bool = True
    """Whether its `/metrics`, processes and GPUs are sampled while it is measured."""

    @property
    def is_sampled(self) -> bool:
        """Whether there is anything to look at during a run."""
        return self.server_metrics

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

    @property
    def gpu_count(self) -> int:
        """GPUs of this machine that all replicas need."""
        default = self.parallel_size if self.default_gpus is None else self.default_gpus
        return (default if self.gpus is None else self.gpus) * self.replicas

    @property
    def served_model(self) -> str:
        """The name under which it answers."""
        served = self.args.get("served-model-name", self.model)
        return str(served[0] if isinstance(served, list) else served)

    @property
    def in_container(self) -> bool:
        """Whether its processes are not below the one that is started."""
        return False


EMBEDDED_ARGS = sorted(name.replace("_", "-") for name in EngineSettings.__dataclass_fields__)


class EmbeddedServer(LaunchedServer):
    """The package's own engine: real continuous batching; numpy decoder or modelled step times."""

    known_args = EMBEDDED_ARGS
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


class VllmServer(LaunchedServer):
    """`vllm serve` with any arguments."""

    paths = ("model", "executable")

    engine: Literal["vllm"]
    executable: str = "vllm"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""


_TRITON_OWN = ("http-address", "http-port", "grpc-address", "grpc-port", "metrics-address", "metrics-port")
_REMOTE_REPOSITORY = re.compile(r"^(s3|gs|as)://")


class TritonServer(LaunchedServer):
    """`tritonserver` on a model repository that the plan describes, or names.

    `args` are the model's engine arguments: of a vllm model's model.json, of a python model's `parameters`. Of a
    `repository` that is used as it is, they are what its owner says it holds.
    """

    paths = ("model", "executable", "repository")

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
    def served_model(self) -> str:
        """Name of the model that is asked."""
        return self.serve or next(iter(self.models))

    @property
    def declares_args(self) -> bool:
        return self.repository is not None

    @property
    def in_container(self) -> bool:
        return self.image is not None

    @property
    def has_remote_repository(self) -> bool:
        return bool(_REMOTE_REPOSITORY.match(self.repository or ""))


def _parameters(url: str) -> list[tuple[str, str]]:
    """Names and values in its query."""
    return [(name, value) for name, _, value in (part.partition("=") for part in urlsplit(url).query.split("&"))]


def _host_path(path: str) -> str:
    if (
        not path.startswith("/")
        or path.startswith("//")
        or not (path.isascii() and path.isprintable())
        or re.search(r"[\s#\\]", path)
    ):
        raise ValueError(f"{path!r} is not a whole path of the host, such as '/openai/v1/chat/completions'")
    for name, value in _parameters(path):
        _no_literal_secret(name, value)
    return path


HostPath = Annotated[str, AfterValidator(_host_path)]
"""A path that counts from the host, whatever path the URL has; a query in it is added to the URL's."""


class Ready(Frozen):
    """What a server answers to GET when it is up."""

    path: HostPath
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    """None: any of 200 to 299."""


def _ready(given: object) -> object:
    if isinstance(given, str):
        return {"path": given}
    if given is None or given is False or isinstance(given, Mapping | Ready):
        return given
    raise ValueError(f"{given!r} is neither a path such as /healthz, {{path: /healthz, status: 204}}, nor false")


def _check_or_none(given: object) -> str:
    """Decides which of the two a mistake is reported for."""
    return "value of" if given is False else "check of"


_Check = Annotated[
    Annotated[Ready, Tag("check of")] | Annotated[Literal[False], Tag("value of")], Discriminator(_check_or_none)
]
ReadyCheck = Annotated[
    _Check | None,
    BeforeValidator(_ready),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^/", "examples": ["/healthz"]},
                {
                    "type": "object",
                    "properties": {"path": {"type": "string"}, "status": {"type": "integer"}},
                    "required": ["path"],
                    "additionalProperties": False,
                },
                {"const": False},
                {"type": "null"},
            ]
        }
    ),
]


class RemoteServer(_Server):
    """A server that is already up. Its `args` are what the owner says it was started with."""

    is_local = False
    replicas: ClassVar[int] = 1
    in_container: ClassVar[bool] = False
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")

    url: str = Field(repr=False)
    """Base URL, with or without `/v1`, or with a path and a query of its own: see load/urls.py. In the query,
    `${NAME}` is read from the environment."""
    ready: ReadyCheck = None
    """What answers when the server is up; False: nothing does, and the first request decides at once. None: the
    engine's usual route, or where it has none the first request."""
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
    server_metrics: bool | str = False
    """Whether its `/metrics` is sampled while it is measured: the URL's own, or a URL of its own. Not unless asked for:
    a server of others is asked nothing that the load does not need."""

    @property
    def is_sampled(self) -> bool:
        """Whether there is anything to look at during a run."""
        return bool(self.server_metrics)

    @field_validator("headers")
    @classmethod
    def _no_secret_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        _no_literal_secrets(headers)
        return headers

    @field_validator("server_metrics")
    @classmethod
    def _metrics_url(cls, given: bool | str) -> bool | str:
        if isinstance(given, str):
            _no_literal_secret("server_metrics", given)
            parts = urlsplit(given)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise ValueError(f"{given!r} is neither true, false nor a URL, such as 'http://10.0.0.5:9090/metrics'")
        return given

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if "@" in re.split("[/?#]", url.partition("://")[2])[0]:
            raise ValueError("the URL holds credentials in plain text; write them as `basic: '${USER}:${PASSWORD}'`")
        for name, value in _parameters(url):
            _no_literal_secret(name, value)
        return urls.base_url(url, cls.schemes)

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "url": urls.shown(self.url)}

    @model_validator(mode="after")
    def _no_secrets(self) -> RemoteServer:
        with entry("bearer"):
            _no_literal_secret("bearer token", self.bearer)
        with entry("basic"):
            _no_literal_secret("basic password", self.basic)
        if self.bearer and self.basic:
            raise ValueError("`bearer` and `basic` exclude each other")
        return self

    @property
    def gpu_count(self) -> int:
        """GPUs behind the URL; 0 where the plan does not say."""
        return self.gpus or 0

    @property
    def machine(self) -> str:
        """The machine behind the URL, as its baselines' folder names it."""
        return self.hardware or urlsplit(self.url).netloc


class OpenAIServer(RemoteServer):
    """An OpenAI-compatible URL (or Triton's HTTP port, for the `generate` endpoints)."""

    engine: Literal["openai"]
    path: HostPath = ""
    """Where every load's requests are posted, in place of the endpoint's own route below the URL."""

    def as_dict(self) -> dict[str, Any]:
        found = super().as_dict()
        path = found.pop("path")
        return {**found, "path": urls.shown(path)} if path else found


class TritonRemoteServer(RemoteServer):
    """A Triton that is already up: its HTTP URL, its gRPC one, or both."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https", "grpc", "grpcs")

    engine: Literal["triton-remote"]
    grpc: str | None = None
    """host:port of its gRPC service, for `endpoint: grpc`; `url: grpc://host:port` where there is no other."""
    metrics: str | None = None
    """URL of its metrics, as in http://10.0.0.5:8002/metrics; they are then sampled while it is measured."""

    @model_validator(mode="after")
    def _ready_over_http(self) -> TritonRemoteServer:
        if self.ready and self.url.startswith("grpc"):
            raise EntryError("ready: a path is asked over HTTP; a grpc:// URL has none", "ready")
        return self

    @property
    def is_sampled(self) -> bool:
        return bool(self.metrics or self.server_metrics)

    @property
    def grpc_target(self) -> str:
        """host:port of its gRPC service; empty when the plan names none."""
        return self.grpc or (self.url.partition("://")[2] if self.url.startswith("grpc") else "")


class SglangServer(LaunchedServer):
    """`sglang serve` with any arguments; `python -m sglang.launch_server` where `executable` is a Python."""

    paths = ("model", "executable")

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


_PLACEHOLDER = re.compile(r"(?<![${])\{(\w+)\}(?!\})")
_PLACEHOLDERS = ("model", "port")


def fill_in(text: str, port: int | str, model: str) -> str:
    """`text` with `{port}` and `{model}` filled in; other braces are left alone."""
    values = {"port": str(port), "model": model}
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def _known_placeholders(text: str) -> str:
    for name in _PLACEHOLDER.findall(text):
        if name not in _PLACEHOLDERS:
            allowed = ", ".join(f"{{{known}}}" for known in _PLACEHOLDERS)
            raise ValueError(
                f"{{{name}}} in {text!r} is not known; allowed: {allowed}{did_you_mean(name, _PLACEHOLDERS)}"
            )
    return text


def _as_word(given: object) -> object:
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given


Word = Annotated[
    str, BeforeValidator(_as_word), AfterValidator(_known_placeholders), WithJsonSchema({"type": ["string", "number"]})
]
"""One word of a command, in which `{port}` and `{model}` are filled in."""


def _no_secret_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """A flag is a name for the word behind it, or behind its `=`."""
    for word, after in zip(words, (*words[1:], ""), strict=True):
        name, equals, value = word.partition("=")
        flag = name.startswith("-")
        _no_literal_secret(name if flag else "command", value if equals and flag else word)
        if flag and not equals and after and not after.startswith("-"):
            _no_literal_secret(name, after)
    return words


Words = Annotated[tuple[Word, ...], Field(min_length=1), AfterValidator(_no_secret_words)]


def _stop_signal(given: object) -> object:
    """A signal by its whole name; a list is a command."""
    if isinstance(given, list | tuple):
        return given
    name = f"SIG{str(given).upper().removeprefix('SIG')}"
    if not isinstance(given, str) or name not in signal.Signals.__members__:
        raise ValueError(f"{given!r} is neither a signal, such as SIGINT, nor a command as a list of words")
    return name


class CommandServer(LaunchedServer):
    """Any program that serves; its `args` only say what it runs with, for what the plan locks."""

    default_gpus = 0

    engine: Literal["command"]
    command: Words
    """The program and its arguments, word by word: no shell reads them. Where it runs is `cwd`."""
    env: dict[str, Word] = {}
    """Environment variables added to pytest's own; `${NAME}` takes the value from there, and is never shown."""
    cwd: str = "."
    """Folder that it runs in, counted from the plan file."""
    url: Annotated[str, AfterValidator(_known_placeholders)] = "http://127.0.0.1:{port}"
    """Base URL under which it answers, with or without `/v1`."""
    ready: ReadyCheck = None
    """What answers when it is up, `/health` where not given; False: its first request tells, tried again and again."""
    stop: Annotated[
        Words | str,
        BeforeValidator(_stop_signal),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": ["string", "number"]}}]}),
    ] = "SIGTERM"
    """How it is stopped: a signal to all of its processes, or a command. What is left after 10 s is killed."""
    headers: dict[str, str] = {}
    """Sent with every request."""
    bearer: str | None = None
    """`${NAME}`: the token is read from that environment variable."""

    @property
    def declares_args(self) -> bool:
        return True

    def located(self, folder: Path) -> Self:
        return super().located(folder).model_copy(update={"cwd": str((folder / self.cwd).resolve())})

    @field_validator("url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        RemoteServer._http(url.replace("{port}", "1"))
        return url.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _no_secrets(self) -> CommandServer:
        with entry("headers"):
            _no_literal_secrets(self.headers)
        with entry("bearer"):
            _no_literal_secret("bearer token", self.bearer)
        return self

    @model_validator(mode="after")
    def _knows_its_port(self) -> CommandServer:
        given = any("{port}" in text for text in (*self.command, *self.env.values()))
        if "{port}" in self.url and not given:
            raise EntryError("the server is to listen on {port}, which neither `command` nor `env` holds", "command")
        if self.replicas > 1 and "{port}" not in self.url:
            raise EntryError("replicas need ports of their own: write {port} into `url`", "url")
        return self


ServerConfig = (
    EmbeddedServer
    | VllmServer
    | TritonServer
    | OpenAIServer
    | TritonRemoteServer
    | SglangServer
    # An engine more is a line here, and one in ENGINES.
    | CommandServer
)
ENGINE_MODELS: dict[str, type[_Server]] = {
    str(get_args(model.model_fields["engine"].annotation)[0]): model for model in get_args(ServerConfig)
}
"""The model of a server's entry, by its `engine`."""
