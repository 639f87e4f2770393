"""The keys of a load that concern its answers: scores, an output guard, and the texts that may be stored."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from pytest_llmperf.boundary.files import read_text
from pytest_llmperf.boundary.literals import refuse_secret, texts
from pytest_llmperf.definitions import ACCURACY
from pytest_llmperf.errors import MissingExtra
from pytest_llmperf.plan.fields import Frozen, Listed, Seconds
from pytest_llmperf.plan.load.prompts import PlanPath
from pytest_llmperf.units import parse_ratio

ScoreName = Literal["exact", "normalised", "numeric", "token_f1", "rouge_l", "chrf", "bleu"]
_MOST_SCHEMA_BYTES = 16 << 20
_LIBRARIES = {"chrf": "sacrebleu", "bleu": "sacrebleu", "json_schema": "jsonschema"}


def _pattern(given: str) -> str:
    try:
        re.compile(given)
    except re.error as error:
        raise ValueError(f"{given!r} is no regular expression: {error}") from None
    return given


Pattern = Annotated[str, AfterValidator(_pattern)]


def _reference(given: str | None) -> str | None:
    refuse_secret("bearer", given)
    return given


def _share(given: object) -> float:
    share = parse_ratio(given)
    if not 0 <= share < 1:
        raise ValueError(f"{given!r} is no share; write it as '2 %' or 0.02")
    return share


def _schema_file(path: str, info: ValidationInfo) -> str:
    """Read with the plan, so that a bad schema is a plan error, where the library that knows schemas is there."""
    if info.context and is_installed("json_schema"):
        read_schema(path)
    return path


def _check_references(schema: Any) -> None:
    """Raises ValueError for a reference that leads out of the schema, since nothing is fetched, or nowhere in it."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    registry: Registry[Any] = Registry().with_resource("", DRAFT202012.create_resource(schema))
    for keys, reference in texts(schema):
        if keys[-1:] not in (("$ref",), ("$dynamicRef",)):
            continue
        if not reference.startswith("#"):
            raise ValueError(f"$ref {reference!r:.200} leads out of it, and nothing is fetched; write it into $defs")
        try:
            registry.resolver().lookup(reference)
        except Unresolvable:
            raise ValueError(f"$ref {reference!r:.200} leads nowhere in it") from None


def read_schema(path: str) -> Any:
    """The JSON schema in a file. Raises ValueError with the path; needs jsonschema."""
    import jsonschema

    try:
        schema = json.loads(read_text(Path(path), _MOST_SCHEMA_BYTES))
        jsonschema.validators.validator_for(schema).check_schema(schema)
        _check_references(schema)
    except (OSError, ValueError, RecursionError, jsonschema.SchemaError) as error:
        raise ValueError(f"{path} is no JSON schema: {str(error).partition(chr(10))[0]}") from None
    return schema


def is_installed(score: str) -> bool:
    """True if the library of a score is there, if it takes one."""
    return score not in _LIBRARIES or importlib.util.find_spec(_LIBRARIES[score]) is not None


def _function(given: str, info: ValidationInfo) -> str:
    """Imported with the plan, whose folder is looked in too, so that a slip is a plan error."""
    folder = (info.context or {}).get("folder")
    if folder is not None:
        sys.path.append(str(folder))
        try:
            load_function(given)
        finally:
            sys.path.remove(str(folder))
    return given


def load_function(name: str) -> Callable[..., Any]:
    """The callable `module:callable`. Raises ValueError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} is no 'module:callable' that can be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"{name!r} is a {type(found).__name__}, no function of (answer, references, prompt)")
    return found  # type: ignore[no-any-return]


class JudgeSpec(Frozen):
    """A model that marks answers, behind an OpenAI-compatible chat endpoint."""

    url: str = Field(pattern=r"^https?://")
    """Base URL, as of a server; `/v1/chat/completions` is added."""
    model: str
    bearer: Annotated[str | None, AfterValidator(_reference)] = None
    """Token as `${NAME}`."""
    instructions: str = (
        "Mark the answer to the question. Reply with one number from 0 (wrong) to 1 (right) and nothing else."
    )
    parallel: PositiveInt = 4
    """Answers that are marked at the same time."""
    timeout: Seconds = 60.0


class GuardSpec(Frozen):
    """The tolerance within which greedy answers may differ from those of the baseline."""

    may_differ: Annotated[float, BeforeValidator(_share), WithJsonSchema({"type": ["number", "string"]})] = 0.0
    """Share of answers that may differ beyond what differs between runs of one server."""
    prompts: Annotated[PositiveInt, Field(le=500)] = 100
    """Prompts whose answers are compared: the first different ones of the load."""


def _guard(given: object) -> object:
    return ({} if given else None) if isinstance(given, bool) else given


class AnswerSpec(Frozen):
    """Scores and guard of a load's answers."""

    scores: Annotated[tuple[ScoreName, ...], Listed] = ()
    """Scores against the references of the prompts' file (`output`, `references`)."""
    regex: Pattern | None = None
    """Found in a right answer."""
    json_schema: Annotated[PlanPath, AfterValidator(_schema_file)] | None = None
    """File of the JSON schema that a right answer meets."""
    function: Annotated[str, AfterValidator(_function)] | None = None
    """`module:callable` of (answer, references, prompt), which returns a number in 0..1 or a bool."""
    judge: JudgeSpec | None = None
    guard: Annotated[
        GuardSpec | None,
        BeforeValidator(_guard),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, GuardSpec.model_json_schema()]}),
    ] = None
    store_texts: Literal["none", "guard", "all"] = "none"
    """Texts that are stored: none, the guarded answers (with the baseline), or all prompts and answers."""
    redact: tuple[Pattern, ...] = ()
    """Patterns that are replaced by `***` in every text that is stored."""

    @model_validator(mode="after")
    def _asks_for_something(self, info: ValidationInfo) -> AnswerSpec:
        if not self.names and self.guard is None:
            raise ValueError("nothing is asked of the answers: give `scores`, another score, or `guard: true`")
        if len(set(self.scores)) < len(self.scores):
            raise ValueError("scores: one is named twice")
        if self.store_texts == "guard" and self.guard is None:
            raise ValueError("store_texts: guard needs `guard: true`")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores, without `accuracy_`."""
        own = ("regex", "json_schema", "function", "judge")
        return (*self.scores, *(name for name in own if getattr(self, name) is not None))

    @property
    def missing(self) -> MissingExtra | None:
        """The libraries that its scores need and nobody installed; None when all are there.

        No mistake of the plan: its other loads are measured without them.
        """
        lacking = {name: _LIBRARIES[name] for name in self.names if not is_installed(name)}
        if not lacking:
            return None
        libraries = " and ".join(dict.fromkeys(lacking.values()))
        return MissingExtra(
            f"answers: {', '.join(lacking)}: {libraries} is not installed: pip install 'pytest-llmperf[answers]'"
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores as metrics."""
        return tuple(f"{ACCURACY}{name}" for name in self.names)


def scoring_facts(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a score, from a load's `answers` as JSON data: of a file the name, of the judge the
    model.
    """
    judge, schema = answers.get("judge"), answers.get("json_schema")
    found = {
        "scores": list(answers.get("scores", ())),
        "regex": answers.get("regex"),
        "json_schema": schema and Path(schema).name,
        "function": answers.get("function"),
        "judge": judge and {"model": judge["model"], "instructions": judge.get("instructions")},
    }
    return {name: value for name, value in found.items() if value}
