"""compressa-perf's YAML files of experiments, of its main line (0.2.8) and of the fork for Gonka's nodes (0.2.5)."""

from __future__ import annotations

import csv
import io
import random
import string
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pytest_llmperf.boundary.files import read_text
from pytest_llmperf.boundary.literals import is_secret, refuse_secret
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import located, message, nothing_unexpected, read_yaml
from pytest_llmperf.plan.load.checks import MOST_REQUESTS, MOST_SLOTS
from pytest_llmperf.plan.load.files.data_lines import MOST_TOKENS

_MOST_BYTES = 1 << 20
_MOST_CHARACTERS = 1_000_000_000
"""Most characters of all prompts of an experiment, which are held in memory."""
_ASK = ". Repeat this text at least 10 times and number the repetitions."
"""Ends a generated prompt, so that answers get as long as they may."""


def _secret(value: Any) -> Any:
    if value is not None:
        refuse_secret("api_key", value)
    return value


class Experiment(BaseModel):
    """One entry of the file; defaults are the tool's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    experiment_name: Annotated[str, Field(min_length=1)]
    model_name: str | None = None
    description: str | None = None
    num_tasks: Annotated[int, Field(ge=1, le=MOST_REQUESTS)]
    """Requests in all."""
    num_runners: Annotated[int, Field(ge=1, le=MOST_SLOTS)]
    """Requests in flight."""
    openai_url: str | None = None
    node_url: str | None = None
    api_key: Annotated[str | None, BeforeValidator(_secret)] = None
    """A reference, as `${OPENAI_API_KEY}`."""
    serv_api_url: str | None = None
    account_address: str | None = None
    generate_prompts: bool = False
    num_prompts: Annotated[int, Field(ge=1, le=MOST_REQUESTS)] = 100
    prompt_length: Annotated[int, Field(ge=0, le=_MOST_CHARACTERS)] | None = None
    """Characters of a prompt; None or 0: 100 of one that is made, and all of one from a file."""
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 1000
    prompts_file: str | None = None
    report_file: str | None = None
    report_mode: str | None = None
    seed: int = 42

    @model_validator(mode="after")
    def _fits_memory(self) -> Experiment:
        characters = max(self.num_prompts, self.num_tasks) * (self.prompt_length or 0)
        if characters > _MOST_CHARACTERS:
            raise ValueError(f"prompts of {characters:,} characters in all; {_MOST_CHARACTERS:,} are the most")
        return self


_EXPERIMENTS = TypeAdapter(tuple[Experiment, ...])


def parse_experiments(text: str, source: str) -> tuple[Experiment, ...]:
    """Returns the experiments of a file's text. PlanError names `source` and every mistake with its line."""
    if len(text.encode()) > _MOST_BYTES:
        raise PlanError(f"{source}: larger than {_MOST_BYTES >> 20} MiB, which no file of experiments is")
    with nothing_unexpected(source):
        root, given = read_yaml(text, source)
        entries = tuple(given) if isinstance(given, list) else (given,)
        if root is None or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise PlanError(
                f"{source}:1: a mapping with experiment_name, num_tasks and num_runners is needed, or a list of these"
            )
        try:
            return _EXPERIMENTS.validate_python(entries)
        except ValidationError as error:
            raise PlanError(foreign("\n".join(_mistake(found, root, source) for found in error.errors()))) from None


def _mistake(found: Any, root: yaml.Node, source: str) -> str:
    number, *rest = found["loc"]
    keys, line = located(root, found["loc"])
    where = f"{rest[0]}: " if rest and found["type"] not in ("missing", "extra_forbidden") else ""
    what = message(found, any(map(is_secret, keys)), lambda _: list(Experiment.model_fields))
    return f"{source}:{line}: experiment {number + 1}: {where}{what}"


def sent_prompts(experiment: Experiment, folder: Path) -> list[str]:
    """Returns the prompts in the order in which they are sent, `num_tasks` of them, drawn with the experiment's seed.

    PlanError says what is wrong with a file of prompts, whose name counts from `folder`.
    """
    draw = random.Random(experiment.seed)
    prompts = _made(experiment) if experiment.generate_prompts else _from_file(experiment, folder)
    return [draw.choice(prompts) for _ in range(experiment.num_tasks)]


def _made(experiment: Experiment) -> list[str]:
    draw = random.Random(experiment.seed)
    length = experiment.prompt_length or 100
    return [_words(draw, f"{number} ", length) for number in range(experiment.num_prompts)]


def _words(draw: random.Random, start: str, length: int) -> str:
    """`length` characters of random words behind `start`, with what ends a prompt where there is room for it."""
    text = start
    while len(text) + len(_ASK) < length:
        text += f"{''.join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 20)))} "
    return (text[: max(len(start), length - len(_ASK))].rstrip() + _ASK)[:length] if length > len(start) else start


def _from_file(experiment: Experiment, folder: Path) -> list[str]:
    name = experiment.experiment_name
    if experiment.prompts_file is None:
        raise PlanError(f"experiment {name!r} has neither generate_prompts: true nor a prompts_file")
    path = folder / experiment.prompts_file
    try:
        rows = csv.reader(io.StringIO(read_text(path)))
        prompts = [row[0] for row in rows if row and row[0].strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"experiment {name!r}: prompts_file {path}: {error}") from error
    if not prompts:
        raise PlanError(f"experiment {name!r}: prompts_file {path} holds no prompt")
    # A `prompt_length` of 0 means the whole prompts.
    return [prompt[: experiment.prompt_length or None] for prompt in prompts]
