"""A search as plain data: JSON (`llmperf.search/1`), CSV, and JUnit properties. No I/O."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.boundary.text import cell
from pytest_llmperf.metrics.summary import rounded
from pytest_llmperf.report.json.plain import plain
from pytest_llmperf.report.json.properties import UNIT_SUFFIX, Property
from pytest_llmperf.search.result import Ranked, SearchResult
from pytest_llmperf.search.strategy.goal import Check

SCHEMA = "llmperf.search/1"


def search_document(result: SearchResult) -> dict[str, Any]:
    """The whole result. Levels have a 90 % interval; `excess` of a check is the share beyond its limit."""
    return {
        "schema": SCHEMA,
        "llmperf": __version__,
        "search": result.name,
        **plain(result, "mode", "answer", "interrupted"),
        "objective": {"name": result.objective, "unit": result.unit, "better": result.better},
        "axes": {name: list(values) for name, values in result.axes.items()},
        **plain(result, "loads", "limits"),
        "best": result.best and result.best.name,
        "not_distinguishable": [tie.name for tie in result.ties],
        **plain(result, "snippet", "command", "configurations", "runs"),
        "brute_force_runs": result.brute_runs,
        "tried": list(result.tried),
        "ranked": [_ranked_dict(found) for found in result.ranked],
        "pareto": [{**asdict(front), "latency": str(front.latency)} for front in result.pareto],
        "environment": dict(result.environment),
        "notes": list(result.notes),
    }


def _ranked_dict(found: Ranked) -> dict[str, Any]:
    level = found.objective
    return {
        "rank": found.rank,
        "server": found.name,
        "values": dict(found.values),
        **plain(found, "standing", "why"),
        "tied_with_best": found.tied,
        "objective": level and plain(level),
        "checks": [_check_dict(check) for check in found.checks],
        **plain(found, "runs", "stopped"),
        "replicas": getattr(found.config, "replicas", 1),
        "gpus": found.config.gpu_count,
        "metrics": {
            load: {name: rounded(value) for name, value in values.items()} for load, values in found.metrics.items()
        },
        "config": found.config.as_dict(),
    }


def _check_dict(check: Check) -> dict[str, Any]:
    return {
        "load": check.load,
        "quantity": check.name,
        "limit": check.limit,
        "value": rounded(check.value),
        **plain(check, "ok", "verdict"),
        "excess": rounded(check.share),
        "reason": check.reason,
    }


def search_csv(result: SearchResult) -> str:
    """A row per configuration tried, the best first; per load the mean of each metric."""
    rows = list(_rows(result))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _rows(result: SearchResult) -> Iterator[dict[str, Any]]:
    for found in result.ranked:
        level = plain(found.objective) if found.objective else {}
        metrics = {
            f"{load}.{name}": rounded(value)
            for load, values in found.metrics.items()
            for name, value in values.items()
            if value is not None
        }
        yield {
            "rank": found.rank or "",
            "server": found.name,
            **found.values,
            "standing": found.standing,
            "tied_with_best": found.tied,
            "objective": level.get("value", ""),
            "objective_low": level.get("low", ""),
            "objective_high": level.get("high", ""),
            "runs": found.runs,
            "gpus": found.config.gpu_count,
            "why": found.why or found.stopped or "",
            **metrics,
        }


def search_properties(result: SearchResult) -> Iterator[Property]:
    """JUnit properties: what was found and how; without a best configuration that it is missing."""
    yield "llmperf.search", result.name
    for name in ("mode", "objective", "configurations"):
        yield f"llmperf.search.{name}", getattr(result, name)
    yield "llmperf.search.tried", len(result.ranked)
    yield "llmperf.search.runs", result.runs
    yield "llmperf.search.brute_force_runs", result.brute_runs
    best = result.best
    if best is None or best.objective is None:
        yield "llmperf.search.best", "none"
        return
    yield "llmperf.search.best", best.name
    for name, value in best.values.items():
        yield f"llmperf.search.best.{name}", value if isinstance(value, str | int | float | bool) else str(value)
    level = plain(best.objective)
    yield f"llmperf.search.best.objective{UNIT_SUFFIX.get(result.unit, '')}", level["value"]
    yield "llmperf.search.best.objective.low", level["low"]
    yield "llmperf.search.best.objective.high", level["high"]
    yield "llmperf.search.best.ties", len(result.ties)
    yield "llmperf.search.best.command", result.command
