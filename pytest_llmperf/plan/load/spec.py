"""A load as a plan writes it: values, sweeps and named combinations, checked and resolved into points."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    GetCoreSchemaHandler,
    PositiveInt,
    Tag,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from pytest_llmperf.plan.combinations import KEY, Variant, read_combinations, validate_variants
from pytest_llmperf.plan.fields import EntryError, Frozen, entry
from pytest_llmperf.plan.load.checks import check_point
from pytest_llmperf.plan.load.files.datasets import parse_dataset, read_prompts
from pytest_llmperf.plan.load.files.traces import read_trace
from pytest_llmperf.plan.load.point import KINDS, LoadKeys, LoadPoint
from pytest_llmperf.plan.load.prompts import Lengths
from pytest_llmperf.plan.load.shapes import Rate
from pytest_llmperf.units import parse_sweep

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
_NO_PLACE = {
    "trace": (_OF_TRACE, "has no place beside `trace`, whose file has due times and lengths"),
    "stages": (("requests", "duration", "ramp", "stability"), "has no place beside `stages`, which have durations"),
    "capacity": (("ramp", "stability"), "has no place beside `capacity`, which chooses levels"),
}
"""Keys that do not go with a kind of load, and the reason, by kind."""
_MOST_POINTS = 1000
"""Combinations of the swept values of one load; more is a slip of the pen, not a plan."""
_LIKE_A_SWEPT_VALUE = re.compile(r"(c|in|d|b)\d+|[\d.e+]+rps")


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


class LoadSpec(LoadKeys):
    """A load as the plan writes it: each axis a value or a sweep."""

    input_tokens: InputCount | None = None
    requests: PositiveInt | Literal["auto"] | None = None
    """Measured requests per run, every turn of a conversation one; closed loop sends `concurrency` more (or as many
    conversations) before them, which are not counted. `auto`: so many that each gated number's own error is a third of
    its margin, decided before the first run."""
    concurrency: Count | None = None
    request_rate: Rates | None = None
    dataset_entries: Count | None = None
    batch_size: Count = 1

    def points(self, name: str) -> tuple[LoadPoint, ...]:
        """One point per combination of swept values; swept values go into the name, as in `rate-20rps`."""
        axes = {axis: getattr(self, axis) for axis in _AXIS_SUFFIX}
        swept = {axis: value.sweep for axis, value in axes.items() if isinstance(value, IntSweep | RateSweep)}
        if (count := math.prod(map(len, swept.values()))) > _MOST_POINTS:
            sizes = " x ".join(str(len(values)) for values in swept.values())
            raise ValueError(f"{sizes} = {count} points; at most {_MOST_POINTS} are allowed")
        base = {field: value for field, value in self if field not in swept}
        if self.requests == "auto":
            base |= {"requests": None, "length": "auto"}
        combinations = (dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values()))
        # The values were validated in this object; validating them again would ask parsed times for their units.
        points = tuple(
            LoadPoint.model_construct(**{**base, **chosen, "name": "-".join([name, *_suffixes(chosen)])}).with_fewest()
            for chosen in combinations
        )
        for point in points:
            check_point(point)
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
    def _answers_as_they_are(cls, given: object) -> object:
        """Answers that are looked at end where the model ends them, to prompts that no run changes."""
        answers = given.get("answers") if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(answers, Mapping):
            return given
        scored = bool(answers.keys() - {"guard", "store_texts", "redact"})
        fixed = {"prefix_cache": "warm", **({"ignore_eos": False} if scored else {})}
        for name, value in fixed.items():
            if given.get(name, value) != value:
                raise ValueError(f"answers: need {name}: {str(value).lower()}, given {given[name]!r}")
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

    @model_validator(mode="before")
    @classmethod
    def _one_warm_up(cls, given: object) -> object:
        """Warm-up requests that are given are all that there is, where nothing else is said; `off` leaves none."""
        if not isinstance(given, Mapping):
            return given
        if "warmup_requests" in given:
            return {"warmup": "off", **given}
        return {**given, "warmup_requests": 0} if given.get("warmup") in ("off", False) else given

    @model_validator(mode="after")
    def _files_are_readable(self, info: ValidationInfo) -> LoadSpec:
        """Read here so that a bad file is a plan error, not a failure after the server has started."""
        if self.trace is not None and info.context:
            with entry("trace"):
                read_trace(self.trace)
        if self.prompts is not None and info.context:
            given, sessions = self.prompts, self.conversation is not None
            with entry("prompts"):
                data = parse_dataset(read_prompts(given.file), given.kind, given.file, sessions=sessions)
                if sessions and given.kind == "jsonl" and all(len(dialogue) == 1 for dialogue in data.dialogues):
                    raise ValueError(f"{given.file} has no dialogue of several turns, which `conversation` needs")
                without = sum(not dialogue[0].references for dialogue in data.dialogues)
                if self.answers and self.answers.scores and without:
                    raise ValueError(
                        f"{given.file}: {without} of {len(data.dialogues)} prompts have no right answer (`output` or "
                        f"`references`), which answers.scores need"
                    )
        return self

    @model_validator(mode="after")
    def _points_are_valid(self) -> LoadSpec:
        check_keys(self, {name for name in self.model_fields_set if getattr(self, name) is not None})
        self.points("load")
        return self


def _suffixes(chosen: Mapping[str, Any]) -> list[str]:
    return [_AXIS_SUFFIX[axis].format(value) for axis, value in chosen.items()]


def check_keys(load: LoadSpec, given: Set[str]) -> None:
    """Raises ValueError where the keys that a plan gives for a load don't go together."""
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        raise ValueError(
            "a load has either `concurrency` (closed loop) or `request_rate` (open loop), or else `stages`, `trace` or "
            "`capacity`; "
            f"given: {', '.join(kinds) or 'none of them'}"
        )
    kind = kinds[0]
    keys, why = _NO_PLACE.get(kind, ((), ""))
    for key in keys:
        if key in given:
            raise ValueError(f"{key}: {why}")
    if kind not in ("trace", "stages") and not given & {"requests", "duration"}:
        raise ValueError("'requests' is missing; a load is bounded by `requests: 100` or by `duration: 30 s`")
    if {"requests", "duration"} <= given:
        raise ValueError("a load is bounded by `requests` or by `duration`; both are given")
    if kind == "stages" and not load.stages:
        raise ValueError("stages: at least one is needed")
    if len({stage.concurrency is None for stage in load.stages}) > 1:
        raise ValueError("stages: all have `request_rate`, or all have `concurrency`")
    _check_open_length(load)
    _check_pairs(load, given)


def _check_open_length(load: LoadSpec) -> None:
    """Keys for which the number of requests must be known beforehand."""
    for key in ("capacity", "stability", "answers"):
        if load.requests == "auto" and getattr(load, key) is not None:
            raise ValueError(f"requests: auto has no place beside `{key}`; give a number")


def _check_pairs(load: LoadSpec, given: Set[str]) -> None:
    """Keys that need another value of another key."""
    if "burstiness" in given and load.arrival != "gamma":
        raise ValueError(f"burstiness: {load.burstiness:g} needs `arrival: gamma`, not {load.arrival}")
    if load.max_tokens_field is not None and load.endpoint not in ("chat", "completions"):
        raise ValueError(f"max_tokens_field: {load.endpoint} has no such choice; it is for chat and completions")
    if load.batch_size != 1 and load.endpoint != "completions":
        raise ValueError(
            f"batch_size: needs `endpoint: completions`, which takes several prompts; {load.endpoint} takes one"
        )


@dataclass(frozen=True, slots=True)
class LoadEntry:
    """A load as the plan writes it: one LoadSpec, or one per named combination of its keys."""

    specs: tuple[LoadSpec, ...]
    names: tuple[str, ...] = ()
    """The combinations' names, one per spec; empty where the entry has none."""

    def points(self, name: str) -> tuple[LoadPoint, ...]:
        """One point per combination and swept values, named after them, as in `chat-long-c8`."""
        prefixes = [f"{name}-{combination}" for combination in self.names] or [name]
        points = (point for prefix, spec in zip(prefixes, self.specs, strict=True) for point in spec.points(prefix))
        return tuple(point.model_copy(update={"entry": name}) for point in points)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _load_entry,
            handler.generate_schema(LoadSpec),
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped),
        )


def _dumped(entry: LoadEntry) -> list[Any]:
    return [*entry.names, *(spec.model_dump(mode="json") for spec in entry.specs)]


def _load_entry(given: object, validate: ValidatorFunctionWrapHandler) -> LoadEntry:
    if isinstance(given, LoadEntry):
        return given
    if not isinstance(given, Mapping) or KEY not in given:
        return LoadEntry((validate(given),))
    named = read_combinations(given[KEY])
    shared = {key: value for key, value in given.items() if key != KEY}
    for name in named:
        if _LIKE_A_SWEPT_VALUE.fullmatch(name):
            raise EntryError(f"{name!r} is how a swept value is named in test ids; choose another name", KEY, name)
    variants = [
        Variant(name, {**shared, **keys}, {(str(key),): (KEY, name, str(key)) for key in keys})
        for name, keys in named.items()
    ]
    return LoadEntry(tuple(validate_variants(variants, validate)), tuple(named))
