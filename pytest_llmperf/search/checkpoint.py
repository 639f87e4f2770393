"""Keeps a search's runs on disk, after every run: a continued search measures none of them again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_llmperf.boundary.files import read_text, write_whole
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.search.strategy.trial import RunFacts, parse_facts

SCHEMA = "llmperf.search-checkpoint/1"
_SHOWN = 5
"""Differences in a message."""
_ANEW = "Start the search anew, without resuming"


@dataclass(slots=True)
class Entry:
    """The runs of one configuration."""

    server: Mapping[str, Any]
    """The `ServerConfig.as_dict`, so that only the same configuration takes these runs for its own."""
    runs: list[RunFacts] = field(default_factory=list)
    error: str | None = None


@dataclass(slots=True)
class Checkpoint:
    """The runs of a search so far; grows with every run, and is written each time."""

    path: Path
    plan: Mapping[str, Any]
    """The settings that must be equal for runs to count: loads, limits, objective."""
    environment: Mapping[str, Any]
    entries: dict[str, Entry] = field(default_factory=dict)
    """Entries by the configuration's name."""
    engine_version: str | None = None
    """Version that the first server reported; None where none has."""

    def entry(self, config: ServerConfig) -> Entry:
        """The entry of a configuration, made when there is none. Raises PlanError when it was recorded for another
        one.
        """
        known = self.entries.setdefault(config.name, Entry(config.as_dict()))
        _demand_equal(known.server, config.as_dict(), f"{self.path}: the plan has changed: server {config.name}")
        return known

    def same_engine(self, version: str | None) -> None:
        """PlanError when the engine is another version than that of the runs that are there."""
        if self.engine_version is None:
            self.engine_version = version
        elif version != self.engine_version:
            changed = f"the engine's version was {self.engine_version}, is {version}"
            raise PlanError(f"{self.path}: {changed}. {_ANEW}")

    def write(self) -> None:
        """Whole or not at all. Raises OSError."""
        document = {
            "schema": SCHEMA,
            "plan": self.plan,
            "environment": self.environment,
            "engine_version": self.engine_version,
            "trials": {
                name: {"server": entry.server, "error": entry.error, "runs": [run.as_dict() for run in entry.runs]}
                for name, entry in self.entries.items()
                if entry.runs or entry.error
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_checkpoint(path: Path, plan: Mapping[str, Any], environment: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in `path`. PlanError when it is damaged, or says what has changed since it was written."""
    try:
        document = json.loads(read_text(path))
        if document["schema"] != SCHEMA:
            raise PlanError(f"{path} has schema {document['schema']!r}, this version reads {SCHEMA!r}")
        entries = {
            name: Entry(held["server"], [parse_facts(run) for run in held["runs"]], held["error"])
            for name, held in document["trials"].items()
        }
        then_plan, then_environment, version = (document[key] for key in ("plan", "environment", "engine_version"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PlanError(f"{path} is no checkpoint of a search: {type(error).__name__}: {error}") from error
    _demand_equal(then_plan, plan, f"{path}: the plan has changed")
    _demand_equal(then_environment, environment, f"{path}: this is another environment")
    return Checkpoint(path, plan, environment, entries, version)


def _demand_equal(then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    changed = list(_differences(then, json.loads(json.dumps(now)), ""))
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise PlanError(f"{what}: {'; '.join(changed[:_SHOWN])}{more}. {_ANEW}")


def _differences(then: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*then, *now]):
            yield from _differences(then.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif then != now:
        yield f"{where} was {then!r}, is {now!r}"
