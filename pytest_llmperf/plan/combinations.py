"""Named combinations: keys of an entry that go together, each combination a variant of the entry of its own.

An entry with variants is validated once per variant. A mistake that several of them have is reported once, at the line
that it was written on: that of the combination, where the wrong key is one of its.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import ErrorDetails, InitErrorDetails

from pytest_llmperf.plan.fields import EntryError

KEY = "combinations"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.+-]*[A-Za-z0-9_.+])?\Z")
"""Names of servers, loads and combinations: what can be part of a test id."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An entry with one value for everything that it writes several for."""

    label: str
    """Name of the variant in messages."""
    data: Mapping[str, Any]
    """The entry as a plan without sweeps would write it."""
    written_at: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    """Place in the validated entry -> where the plan has it, for what a combination brought."""


def read_combinations(given: object) -> dict[str, Mapping[str, Any]]:
    """The value of a `combinations:` key, checked as far as it is the same for servers and loads."""
    if not isinstance(given, Mapping) or not given:
        raise EntryError(f"a mapping of names to what goes together is needed, given {given!r}", KEY)
    for name, keys in given.items():
        check_name(name, KEY, str(name))
        if not isinstance(keys, Mapping):
            raise EntryError(f"a mapping of keys to values is needed, given {keys!r}", KEY, name)
    return dict(given)


def check_name(name: object, *at: str) -> None:
    """EntryError where it cannot be part of a test id."""
    if not isinstance(name, str) or not NAME.match(name):
        allowed = "letters, digits, '_', '.', '+' and, between them, '-'"
        raise EntryError(f"{name!r} cannot be part of a test id; use {allowed}", *at)


def validate_variants(variants: Sequence[Variant], validate: ValidatorFunctionWrapHandler) -> list[Any]:
    """Every variant validated; ValidationError has the mistakes of all of them, each once."""
    valid, failed = [], []
    for variant in variants:
        try:
            valid.append(validate(variant.data))
        except ValidationError as error:
            failed += [(variant, problem) for problem in error.errors(include_url=False)]
    if failed:
        raise ValidationError.from_exception_data("plan", list(_once(failed, len(variants))))
    return valid


def _once(failed: Iterable[tuple[Variant, ErrorDetails]], variants: int) -> Iterator[InitErrorDetails]:
    grouped: dict[tuple[object, ...], list[tuple[Variant, ErrorDetails]]] = {}
    for variant, problem in failed:
        # For a mistake of a whole entry the given value differs in every variant, though the sentence is the same.
        given = "" if problem["type"] == "value_error" else repr(problem["input"])
        grouped.setdefault((_written_at(variant, problem), problem["msg"], given), []).append((variant, problem))
    for group in grouped.values():
        yield _init_details(*group[0], everywhere=len(group) == variants)


def _written_at(variant: Variant, problem: ErrorDetails) -> tuple[int | str, ...]:
    """The problem's place, with what a combination brought where the combination has it."""
    error = problem.get("ctx", {}).get("error")
    place = (*problem["loc"], *(error.keys if isinstance(error, EntryError) else ()))
    moved = ((*at, *place[len(valid) :]) for valid, at in variant.written_at.items() if place[: len(valid)] == valid)
    return next(moved, place)


def _init_details(variant: Variant, problem: ErrorDetails, everywhere: bool) -> InitErrorDetails:
    """The same mistake where it is written; with the variant, where the others do not have it."""
    details = InitErrorDetails(type=problem["type"], loc=_written_at(variant, problem), input=problem["input"])
    if problem["type"] == "value_error":
        suffix = "" if everywhere or KEY in details["loc"] else f" (in {variant.label})"
        details["ctx"] = {"error": ValueError(f"{problem['ctx']['error']}{suffix}")}
    elif "ctx" in problem:
        details["ctx"] = problem["ctx"]
    return details
