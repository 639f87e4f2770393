"""The part of a load that says what is sent: lengths, files of prompts, shared prefixes, conversations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationInfo,
    model_validator,
)

from pytest_llmperf.plan.fields import Frozen, Seconds

PromptForm = Literal["words", "token-ids", "tokenizer"]
FileFormat = Literal["jsonl", "sharegpt", "csv"]
_FORMATS: dict[str, FileFormat] = {".jsonl": "jsonl", ".json": "sharegpt", ".csv": "csv"}


class Lengths(Frozen):
    """Token counts of a normal distribution, drawn per request, rounded and then held within `min` and `max`."""

    mean: float = Field(gt=0, allow_inf_nan=False)
    sd: float = Field(0.0, ge=0, allow_inf_nan=False)
    min: PositiveInt = 1
    max: PositiveInt | None = None

    @model_validator(mode="after")
    def _mean_between_ends(self) -> Lengths:
        if not self.min <= self.mean <= (self.mean if self.max is None else self.max):
            raise ValueError(f"mean: {self.mean:g} is not between min: {self.min} and max: {self.max}")
        return self

    def __str__(self) -> str:
        ends = f", {self.min} to {self.max}" if self.max is not None else f", at least {self.min}"
        return f"{self.mean:g} ± {self.sd:g}{ends if self.sd else ''}"


def value_or_lengths(given: object) -> str:
    """Decides which of the two a mistake is reported for."""
    return "lengths of" if isinstance(given, Mapping | Lengths) else "value of"


TokenCount = Annotated[
    Annotated[PositiveInt, Tag("value of")] | Annotated[Lengths, Tag("lengths of")], Discriminator(value_or_lengths)
]


def _in_plans_folder(value: str, info: ValidationInfo) -> str:
    """A path of a plan that was read from a file counts from that file's folder."""
    folder = (info.context or {}).get("folder")
    return value if folder is None else str((folder / value).resolve())


def _existing(value: str, info: ValidationInfo) -> str:
    """Checked here so that a missing file is a plan error, not a failure after the server has started."""
    if info.context and not Path(value).is_file():
        raise ValueError(f"{value} is not a file")
    return value


PlanPath = Annotated[str, AfterValidator(_in_plans_folder)]
OWN_SET = "llmperf:"
"""The beginning of the names of prompt sets that come with the package."""


def _own_set(given: object) -> object:
    """The file of a set that comes with the package; any other value as it is."""
    if not isinstance(given, str) or not given.startswith(OWN_SET):
        return given
    folder = Path(__file__).with_name("files")
    known = sorted(path.stem for path in folder.glob("*.jsonl"))
    if given.removeprefix(OWN_SET) not in known:
        raise ValueError(f"{given!r} is no set of the package; there is {', '.join(OWN_SET + name for name in known)}")
    return str(folder / f"{given.removeprefix(OWN_SET)}.jsonl")


class PromptFile(Frozen):
    """A file of prompts; a relative path counts from the plan's folder, and `llmperf:quick` is the package's own."""

    file: Annotated[PlanPath, BeforeValidator(_own_set), AfterValidator(_existing)]
    format: FileFormat | None = None
    """None: by the extension (.jsonl, .csv, .json for ShareGPT)."""

    @model_validator(mode="after")
    def _known_format(self) -> PromptFile:
        if self.format is None and PurePath(self.file).suffix.lower() not in _FORMATS:
            known = ", ".join(f"{suffix} ({name})" for suffix, name in _FORMATS.items())
            raise ValueError(f"{PurePath(self.file).name!r} does not tell its format: {known}; or give `format:`")
        return self

    @property
    def kind(self) -> FileFormat:
        return self.format or _FORMATS[PurePath(self.file).suffix.lower()]


class SharedPrefix(Frozen):
    """Every prompt begins with one of `prefixes` texts of `tokens` tokens, before its own `input_tokens`."""

    prefixes: PositiveInt
    tokens: PositiveInt


class Conversation(Frozen):
    """Several turns of one user, each with the real history."""

    turns: PositiveInt | None = None
    """Turns per conversation; of a ShareGPT file at most so many of each (None: all)."""
    think_time: Seconds | None = None
    """Pause between the end of an answer and the next turn, in seconds; None: none."""


class PromptSpec(Frozen):
    """The keys of a load that decide what its requests hold."""

    output_tokens: TokenCount = 128
    prompt_as: PromptForm | None = None
    """None: `tokenizer` where one is given, else `words`."""
    tokenizer: PlanPath | None = None
    """Folder of a Hugging Face tokenizer on this machine; None: the plan's, if it has one."""
    prompts: PromptFile | None = None
    """Prompts from a file instead of synthetic ones; then `input_tokens` is not given."""
    shared_prefix: SharedPrefix | None = None
    conversation: Conversation | None = None
    prefix_cache: Literal["cold", "warm"] = "cold"
    """The state of the prefix cache: `cold` gives every run other first words, `warm` sends the same prompts in
    every run, and once before the first.
    """

    @property
    def prompt_form(self) -> PromptForm:
        return self.prompt_as or ("tokenizer" if self.tokenizer else "words")
