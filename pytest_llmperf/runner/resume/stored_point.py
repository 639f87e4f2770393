"""A measured point as JSON, with everything that its Result follows from: what an interrupted suite is continued from.

Pure: text in, facts out. Metrics and verdicts are not in it; they are computed from the runs as ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.gate.baselines.fingerprint import changes
from pytest_llmperf.metrics.capacity.bracket import LevelSearch
from pytest_llmperf.records import Run
from pytest_llmperf.telemetry.environment import Environment

SCHEMA = "llmperf.point/3"
"""1 knew no capacity searches; 2 believed usage as it stood, and knew no hidden tokens and one answer per request."""


class StoredPointError(LlmPerfError):
    """A text that holds no stored point that we can read."""


@dataclass(frozen=True, slots=True)
class StoredSide:
    """The measurement of one server of the point."""

    environment: Environment
    runs: tuple[Run, ...]
    """All of them, those before a stable load became stable too; of a capacity those that its searches are shown by."""
    levels: tuple[float, ...] = ()
    """The level of each of these runs, in req/s or requests in flight; empty where no capacity was searched."""
    searches: tuple[LevelSearch, ...] = ()
    """Searches of a capacity; the limits of their levels are in `asked`."""

    def __post_init__(self) -> None:
        if self.levels and len(self.levels) != len(self.runs):
            raise ValueError(f"{len(self.levels)} levels for {len(self.runs)} runs")


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """One point whose measuring was complete."""

    schema: str
    test: str
    """The pytest node id."""
    asked: dict[str, Any]
    """The server's configuration, the load, runs and workers of the measurement, as JSON."""
    session: datetime
    """Start of the session that measured it."""
    measured: datetime
    """End of its measurement."""
    sides: tuple[StoredSide, ...]
    """The one that is judged comes last; in a duet the old server's before it."""
    reruns: tuple[str, ...]
    """The reason for each run after the first runs, once per run."""


_POINT = TypeAdapter(StoredPoint)


def point_json(stored: StoredPoint) -> bytes:
    """The text that parse_point gives the same point for."""
    return _POINT.dump_json(stored)


def parse_point(text: bytes, source: str) -> StoredPoint:
    """The point in a text; `source` is what StoredPointError calls it."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoredPointError(f"{source} is not whole: {error}") from error
    schema = given.get("schema") if isinstance(given, dict) else None
    if schema != SCHEMA:
        raise StoredPointError(f"{source} has the schema {schema!r}; this version reads {SCHEMA}")
    try:
        point = _POINT.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise StoredPointError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not point.sides or not all(any(run.records for run in side.runs) for side in point.sides):
        raise StoredPointError(f"{source} holds no measured request")
    return point


def asked_json(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same as it comes back from a file, so that the two can be compared."""
    made: dict[str, Any] = json.loads(json.dumps(asked))
    return made


def other_than(stored: StoredPoint, asked: Mapping[str, Any], environment: Environment) -> tuple[str, ...]:
    """Differences between a stored point and one that is to be measured now; none: it need not be measured.

    `environment` is today's. Facts that only a running server gives are not compared here: its engine's version, its
    deployment.
    """
    then, now = asdict(stored.sides[-1].environment), asdict(environment)
    facts = {name for name in now if name not in ("engine_version", "deployment")}
    machine = changes({name: then[name] for name in facts}, {name: now[name] for name in facts})
    return tuple(sentence for _, sentence in (*changes(stored.asked, asked_json(asked)), *machine))
