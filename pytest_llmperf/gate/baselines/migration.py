"""Baselines of schema 1 to schema 2. Pure.

Schema 1 had one session and no histograms. What it did not have stays absent: None, and samples of no size.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from pytest_llmperf.definitions import METRICS, STATISTICS, Quantity, parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.fingerprint import Identity
from pytest_llmperf.gate.baselines.model import Baseline, StoredRun, StoredSession
from pytest_llmperf.gate.baselines.parse import SCHEMA_NAME, damaged, parse_json, schema_of
from pytest_llmperf.gate.load_facts import hard_facts, measuring_facts
from pytest_llmperf.metrics.stats.margins import default_margins
from pytest_llmperf.telemetry.environment import Environment

_ENVIRONMENT = TypeAdapter(Environment)


def is_old(text: str) -> bool:
    """True if this is the text of a schema 1 baseline; False also for a text that is no baseline at all."""
    try:
        return schema_of(parse_json(text)) == (SCHEMA_NAME, 1)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def migrated(text: str, path: Path) -> Baseline:
    """The baseline of a schema 1 text; its sessions become rolling and anchor. BaselineError when it is damaged."""
    try:
        return _baseline(parse_json(text), path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaselineError(damaged(path, error)) from error


def _baseline(data: Mapping[str, Any], path: Path) -> Baseline:
    facts = data["identity"]
    shape: Literal["closed loop", "open loop"] = facts["load_shape"]
    sessions = tuple(_session(stored, data) for stored in data["sessions"])
    margins = default_margins(open_loop=shape == "open loop")
    return Baseline(
        path=path,
        test=data["test"],
        point_id=data["point_id"],
        identity=Identity(**{**facts, "gpus": tuple(facts["gpus"]), "load": hard_facts(data["load"])}),
        load=data["load"],
        margins={parse_quantity(name): margin for name, margin in margins.items()},
        rolling=sessions,
        anchor=sessions,
    )


def _session(stored: Mapping[str, Any], data: Mapping[str, Any]) -> StoredSession:
    started = datetime.fromisoformat(stored["started"])
    return StoredSession(
        id=f"{started:%Y-%m-%dT%H:%M:%SZ}-migrated",
        started=started,
        git_sha=stored["git_sha"],
        environment=_ENVIRONMENT.validate_python({**data["environment"], "gpus": tuple(data["environment"]["gpus"])}),
        args=data["circumstances"]["args"],
        launches=(tuple(_run(run["metrics"]) for run in stored["runs"]),),
        measuring=measuring_facts(data["load"], data["identity"]["engine"]),
    )


def _run(metrics: Mapping[str, Any]) -> StoredRun:
    values: dict[Quantity, float | None] = {}
    counts: dict[str, int] = {}
    for metric in METRICS.values():
        if metric.kind == "scalar":
            values[Quantity(metric.name)] = metrics.get(metric.key, {}).get("value")
            counts[metric.name] = metrics["requests"]["sent" if metric.n_of == "sent" else "ok"]
        else:
            row = metrics.get(metric.key, {})
            counts[metric.name] = row.get("n", 0)
            values.update((Quantity(metric.name, stat), row.get(stat)) for stat in STATISTICS)
    return StoredRun(values, counts, {})
