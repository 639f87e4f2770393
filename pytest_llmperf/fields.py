"""What every part of a plan is made of: frozen models, and values with units as fields."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from pytest_llmperf.units import parse_seconds

_DURATION = {"type": "string", "pattern": r"^\s*[0-9.]+\s*(us|µs|ms|s|min|h)\s*$", "examples": ["500 ms", "2 s"]}
Seconds = Annotated[float, BeforeValidator(parse_seconds), WithJsonSchema(_DURATION)]


class Frozen(BaseModel):
    """Immutable and hashable by value, though some fields are mappings."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def __hash__(self) -> int:
        # Keys sorted: mappings are equal in any order of their keys, and then must hash alike.
        return hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))
