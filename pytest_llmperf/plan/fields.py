"""The building blocks of a plan's models: frozen models, and values with units as fields."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from pytest_llmperf.errors import PlanError
from pytest_llmperf.units import parse_seconds

_DURATION = {"type": "string", "pattern": r"^\s*[0-9.]+\s*(us|µs|ms|s|min|h)\s*$", "examples": ["500 ms", "2 s"]}
Seconds = Annotated[float, BeforeValidator(parse_seconds), WithJsonSchema(_DURATION)]


def _listed(given: object) -> object:
    return (given,) if isinstance(given, str | Mapping) else given


Listed = BeforeValidator(_listed)
"""Lets a list's single text or mapping be written without the list around it."""


class Frozen(BaseModel):
    """Immutable and hashable by value, though some fields are mappings."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def __hash__(self) -> int:
        # Keys sorted: mappings are equal in any order of their keys, and then must hash alike.
        return hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))


class EntryError(ValueError):
    """A mistake at `keys`, counted from the field that pydantic names: the plan's reader finds the line by them."""

    def __init__(self, problem: str, *keys: str) -> None:
        super().__init__(problem)
        self.keys = keys


@contextlib.contextmanager
def entry(*keys: str) -> Iterator[None]:
    """ValueErrors inside are those of the entry at `keys`."""
    try:
        yield
    except (ValueError, PlanError) as error:
        raise EntryError(str(error), *keys) from error
