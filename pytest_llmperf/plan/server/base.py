"""The part of a server's entry that all engines share: their arguments, and the words that no argument may hold."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from pytest_llmperf.boundary.literals import refuse_in_command, refuse_secret
from pytest_llmperf.plan.fields import EntryError, Frozen, Seconds, entry
from pytest_llmperf.plan.server.proxy import Proxy

T = TypeVar("T")
Balance = Literal["least-inflight", "round-robin", "session"]
"""The rule by which the load driver spreads requests over replicas."""
ArgValue = str | bool | int | float | list[Any] | dict[str, Any] | None
# Arguments that change what a model outputs. A plan must lock them, or a server must say in `unlocked` that it differs.
_OUTPUT_ARGS = frozenset(
    {
        "dtype", "kv-cache-dtype", "max-model-len", "quantization", "revision", "tokenizer", "tokenizer-mode",
        "tokenizer-revision", "chat-template", "rope-scaling", "rope-theta", "hf-overrides", "generation-config",
        "override-generation-config", "logits-processors", "enable-lora", "lora-modules", "load-format",
        "completion-template", "context-length", "precision", "default-chat-template-kwargs", "hf-chat-template-name",
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
_HANDED_OVER = (
    *("env", "headers", "bearer", "basic", "values", "ready"),
    *("url", "path", "inference_url", "instance_urls", "server_metrics", "proxy"),
)
"""Fields whose `${NAME}` go to a process's environment, its input, or with requests; the others go to command lines
and files, or nowhere."""
OWN_ARGS = ("host", "port", "uds")
"""Arguments for the address of a server, which its launcher chooses: the plugin, or a node."""


def changes_output(arg: str) -> bool:
    """True if an engine argument changes the model's output, so that results with and without it don't compare."""
    return arg in _OUTPUT_ARGS or arg.startswith(("speculative-", "num-speculative-"))


def argument_name(name: str) -> str:
    """The one name that stands for all spellings: `--tensor_parallel_size` and `tp` are `tensor-parallel-size`."""
    bare = name.lstrip("-").replace("_", "-")
    return _ALIASES.get(bare, bare)


def check_parallelism(args: Mapping[str, ArgValue]) -> None:
    """Raises EntryError where TP, PP or DP is no whole number from 1 on."""
    for name in _GPU_ARGS:
        value = args.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise EntryError(f"{name} is a whole number of at least 1, not {value!r}", name)


def parallel_size(args: Mapping[str, ArgValue]) -> int:
    """GPUs of one instance with these arguments: TP x PP x DP."""
    return math.prod(int(str(args.get(name, 1))) for name in _GPU_ARGS)


def served_model(model: str, args: Mapping[str, ArgValue]) -> str:
    """The name under which an instance with these arguments answers: `served-model-name`, else the model's."""
    served = args.get("served-model-name", model)
    return str(served[0] if isinstance(served, list) else served)


def _argument_names(args: dict[str, ArgValue]) -> dict[str, ArgValue]:
    """Every spelling of an argument under one name: `--tensor_parallel_size` is `tensor-parallel-size`."""
    named = {argument_name(name): value for name, value in args.items()}
    if len(named) != len(args):
        raise ValueError(f"two spellings of one argument in {list(args)}")
    return named


def refuse_secrets(entries: dict[str, T]) -> dict[str, T]:
    """The same entries. EntryError where one holds a secret."""
    for name, value in entries.items():
        with entry(name):
            refuse_secret(name, value)
    return entries


def _reference(name: str) -> AfterValidator:
    """The validator of a credential: a plan holds the name of its variable, never itself."""

    def checked(given: str | None) -> str | None:
        refuse_secret(name, given)
        return given

    return AfterValidator(checked)


Args = Annotated[dict[str, ArgValue], AfterValidator(_argument_names)]
Texts = Annotated[dict[str, str], AfterValidator(refuse_secrets)]
"""Environment variables or headers, secrets in them as `${NAME}`."""
Bearer = Annotated[str | None, _reference("bearer token")]
Basic = Annotated[str | None, _reference("basic password")]


class BaseServer(Frozen):
    """The part of a configuration that every engine shares. `args` are the effective ones: the plan's `locked` are
    merged in.
    """

    is_started: ClassVar[bool] = True
    """True if the plugin starts it; False for one that is up already."""
    is_local: ClassVar[bool] = True
    """True if it runs on this machine, on GPUs of this machine."""
    usage_in_every_chunk: ClassVar[bool] = False
    """True if it is asked for token counts in every chunk, unless a load's `stream_usage` says otherwise."""
    known_args: ClassVar[Collection[str] | None] = None
    """All arguments that the engine has; None where the engine itself is to judge."""
    paths: ClassVar[tuple[str, ...]] = ("model",)
    """Fields whose value counts from the plan file where it starts with ./ or ../."""

    name: SkipJsonSchema[str] = ""
    """The plan's name for this server: filled in by `Plan.server_configs`, not a key of the entry."""
    model: str = ""
    args: Annotated[Args, AfterValidator(refuse_secrets)] = {}
    """Engine arguments by their command-line names without dashes; null takes a locked one away (an error)."""
    unlocked: tuple[str, ...] = ()
    """Output-changing arguments in which this server differs on purpose: its results compare with no other's."""
    ready_timeout: Seconds = 600.0
    """Seconds that the server may take to answer its first request."""

    @model_validator(mode="after")
    def _secrets_where_nobody_reads_them(self) -> Self:
        for field, given in self.model_dump(exclude={*_HANDED_OVER, "args"}).items():
            with entry(field):
                refuse_in_command(field, given)
        for name, value in self.args.items():
            if not (isinstance(value, str) and self.takes_secret(name)):
                with entry("args", name):
                    refuse_in_command(name, value)
        return self

    @classmethod
    def takes_secret(cls, arg: str) -> bool:
        """Returns whether the argument is handed over in another way than in a command line or a file that stays."""
        return not cls.is_started

    @field_validator("unlocked", mode="after")
    @classmethod
    def _unlocked_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(argument_name(name) for name in names)

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
        """True if `args` only say what the server runs with, so that the plan's locked ones must be among them."""
        return not self.is_started

    @property
    def local_gpus(self) -> int:
        """GPUs of this machine that it takes."""
        return 0

    @property
    def process_count(self) -> int:
        """Processes that are started for it, each with GPUs of its own."""
        return 1

    @property
    def balance_by(self) -> str:
        """The way in which requests are spread over replicas: a Balance of the load driver's, or `proxy`."""
        return "least-inflight"

    @property
    def replicas_are_open(self) -> bool:
        """True if the number of its replicas depends on the machine."""
        return False

    def on_gpus(self, count: int) -> Self:
        """The same on a machine of so many GPUs."""
        return self

    @property
    def machine(self) -> str | None:
        """The machine that it runs on, as its baselines' folder names it; None: this one."""
        return None

    @property
    def simulated(self) -> bool:
        """True if step times are modelled: such results are labelled and never mixed with real ones."""
        return False


def counted_from(folder: Path, path: str) -> str:
    """`path`, absolute where it starts with ./ or ../ (which count from `folder`) or ~/."""
    path = os.path.expanduser(path) if path.startswith("~/") else path
    return str((folder / path).resolve()) if path.startswith(("./", "../")) else path


def _replicas(given: object) -> object:
    if given == "auto":
        return 0
    if isinstance(given, str) or (isinstance(given, int) and given < 1):
        raise ValueError(f"{given!r} is neither a whole number of at least 1 nor auto")
    return given


Replicas = Annotated[
    int,
    BeforeValidator(_replicas),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}], "default": 1}),
]


class LaunchedServer(BaseServer):
    """A server that the plugin starts itself."""

    default_gpus: ClassVar[int | None] = None
    """GPUs of a replica whose entry names none; None: as many as its arguments ask for."""

    env: Texts = {}
    """Environment variables added to pytest's own; `${NAME}` takes the value from there, and is never shown."""
    gpus: NonNegativeInt | None = None
    """GPUs that one replica needs; the product TP x PP x DP of its args when not given. 0 runs on the CPU."""
    replicas: Replicas = 1
    """Equal instances to start, each with its own GPUs. `auto`: as many as the machine's GPUs allow (0 until then)."""
    balance: Balance = "least-inflight"
    """The rule by which the load driver spreads requests over replicas: to the one with the fewest in flight, to one
    after the other, or a conversation's turns all to the same.
    """
    proxy: Proxy | None = None
    """A program that spreads the load over the replicas in the place of the load driver."""
    server_metrics: bool = True
    """True if its `/metrics`, processes and GPUs are sampled while it is measured."""

    @property
    def is_sampled(self) -> bool:
        """True if there is anything to sample during a run."""
        return self.server_metrics

    @field_validator("args", mode="after")
    @classmethod
    def _args_that_we_use(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for name in args.keys() & {*OWN_ARGS}:
            raise EntryError(f"{name} is the plugin's to choose: it starts servers on free ports", name)
        check_parallelism(args)
        return args

    @property
    def parallel_size(self) -> int:
        """TP x PP x DP."""
        return parallel_size(self.args)

    @property
    def gpu_count(self) -> int:
        """GPUs of this machine that all replicas need."""
        default = self.parallel_size if self.default_gpus is None else self.default_gpus
        return (default if self.gpus is None else self.gpus) * max(1, self.replicas)

    @property
    def local_gpus(self) -> int:
        return self.gpu_count

    @property
    def process_count(self) -> int:
        return self.replicas

    @property
    def balance_by(self) -> str:
        return "proxy" if self.proxy else self.balance

    def located(self, folder: Path) -> Self:
        found = super().located(folder)
        if found.proxy is None:
            return found
        proxy = found.proxy.model_copy(update={"cwd": str((folder / found.proxy.cwd).resolve())})
        return found.model_copy(update={"proxy": proxy})

    @property
    def replicas_are_open(self) -> bool:
        return not self.replicas

    def on_gpus(self, count: int) -> Self:
        return self if self.replicas else self.model_copy(update={"replicas": max(1, count // self.gpu_count)})

    @model_validator(mode="after")
    def _replicas_by_gpus(self) -> Self:
        if not self.replicas and not self.local_gpus:
            raise EntryError("auto counts this machine's GPUs, of which the server takes none: a number", "replicas")
        return self

    @property
    def served_model(self) -> str:
        """The name under which it answers."""
        return served_model(self.model, self.args)

    @property
    def in_container(self) -> bool:
        """True if its processes are not below the one that is started."""
        return False


def _host_path(path: str) -> str:
    if (
        not path.startswith("/")
        or path.startswith("//")
        or not (path.isascii() and path.isprintable())
        or re.search(r"[\s#\\]", path)
    ):
        raise ValueError(f"{path!r} is not a whole path of the host, such as '/openai/v1/chat/completions'")
    refuse_secret("path", path)
    return path


HostPath = Annotated[str, AfterValidator(_host_path)]
"""A path that counts from the host, whatever path the URL has; a query in it is added to the URL's."""


class Ready(Frozen):
    """The answer to GET by which a server shows that it is up."""

    path: HostPath
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    """None: any of 200 to 299."""


def _ready(given: object) -> object:
    if given is None or given is False or isinstance(given, Mapping | Ready):
        return given
    if isinstance(given, str):
        return {"path": given}
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
