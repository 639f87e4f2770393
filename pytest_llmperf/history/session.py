"""A session as the history keeps it, made of a report. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import AwareDatetime, FiniteFloat, TypeAdapter, ValidationError

from pytest_llmperf.definitions import METRICS, STATISTICS
from pytest_llmperf.errors import LlmPerfError

_SCHEMA = "llmperf.report/1"
KEPT = ("mean", "p50", "p90", "p95", "p99", "max")
"""Statistics of a distribution that are kept of every run."""


class HistoryError(LlmPerfError):
    """A history, or a report for it, cannot be read or written; the message names the file."""


@dataclass(frozen=True, slots=True)
class HistoryRun:
    """One run of a point."""

    number: int
    """Number of the run, from 1."""
    launch: int
    valid: bool
    values: Mapping[str, FiniteFloat]
    """Values by quantity (`ttft_p99`, `output_token_throughput`), in its own unit; a quantity without a value is
    absent.
    """


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One test's point with its verdicts."""

    test: str
    """The pytest node id."""
    name: str
    """Server and load, as `tp4pp2-short`."""
    environment: str | None
    engine: str | None
    """Engine with its version, as `vllm 0.11.0`; None where nothing was measured."""
    measured: AwareDatetime | None
    """Start of its first run; None where nothing was measured."""
    verdict: str
    """PASS, FAIL, INCONCLUSIVE, INVALID, ERROR, SKIPPED, or MEASURED where nothing was judged."""
    reasons: tuple[str, ...]
    """Codes of what led to it: `sla:ttft_p99`, `regression:itl_p50`, `invalid`, `error`."""
    parameters: Mapping[str, str]
    """Settings of the server and the load, by dotted key: `server.args.tensor-parallel-size`, `load.concurrency`."""
    values: Mapping[str, FiniteFloat]
    """Values over all runs, as HistoryRun's."""
    dialect: Mapping[str, Any]
    """Another tool's metrics, as the report has them; empty where none were asked for."""
    runs: tuple[HistoryRun, ...]


@dataclass(frozen=True, slots=True)
class HistorySession:
    """One session of pytest or one command."""

    id: str
    started: AwareDatetime
    commit: str | None
    """Commit of the repository that was tested, in full; None outside of one."""
    version: str
    """Version of pytest-llmperf."""
    points: tuple[HistoryPoint, ...]


def session_of(report: Any, source: str) -> HistorySession:
    """Returns what the history keeps of a report. HistoryError says what is wrong with `source`."""
    if not isinstance(report, dict) or report.get("schema") != _SCHEMA:
        schema = report.get("schema") if isinstance(report, dict) else None
        raise HistoryError(f"{source} is no report of llmperf: its schema is {schema!r}, not {_SCHEMA!r}")
    try:
        points = tuple(_point(point, report["environments"]) for point in report["points"])
        return HistorySession(
            id=report.get("session") or _own_id(report),
            started=datetime.fromisoformat(report["started"]).astimezone(UTC),
            commit=report.get("commit"),
            version=str(report["llmperf"]),
            points=points,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise HistoryError(f"{source} is no whole report: {type(error).__name__}: {error}") from error


_STORED = TypeAdapter(HistorySession)
_STORED_POINT = TypeAdapter(HistoryPoint)
T = TypeVar("T")


def session_json(session: HistorySession) -> Any:
    """Returns the session as plain data, which stored_session reads back."""
    return _STORED.dump_python(session, mode="json")


def stored_session(given: Any, source: str) -> HistorySession:
    """Returns the session in exported data. HistoryError says what is wrong with `source`."""
    return _checked(_STORED, given, source)


def stored_point(given: Any, source: str) -> HistoryPoint:
    """Returns the point in the fields of one. HistoryError says what is wrong with `source`."""
    return _checked(_STORED_POINT, given, source)


def _checked(adapter: TypeAdapter[T], given: Any, source: str) -> T:
    try:
        return adapter.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise HistoryError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _own_id(report: Mapping[str, Any]) -> str:
    """An id for a report that has none: the same at every import."""
    facts = [report["started"], *sorted(f"{point['test']} {_began(point)}" for point in report["points"])]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _began(point: Mapping[str, Any]) -> str | None:
    return point["runs"][0]["started"] if point.get("runs") else None


def _point(point: Mapping[str, Any], environments: Mapping[str, Any]) -> HistoryPoint:
    began, slug = _began(point), point.get("environment")
    facts = environments.get(slug, {}) if slug else {}
    verdict, reasons = _verdict(point)
    return HistoryPoint(
        test=str(point["test"]),
        name=str(point["id"]),
        environment=slug,
        engine=" ".join(filter(None, (facts.get("engine"), facts.get("engine_version")))) or None,
        measured=datetime.fromisoformat(began).astimezone(UTC) if began else None,
        verdict=verdict,
        reasons=reasons,
        parameters={**_flat("server", point.get("server", {})), **_flat("load", point.get("load", {}))},
        values=_values(point.get("metrics", {})),
        dialect=point.get("dialect") or {},
        runs=tuple(_run(run) for run in point.get("runs", ())),
    )


def _run(run: Mapping[str, Any]) -> HistoryRun:
    return HistoryRun(run["run"], run.get("launch", 1), not run["invalid_reasons"], _values(run["metrics"]))


def _verdict(point: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The worst that was said of a point, and why."""
    error = point.get("error")
    if error and str(error).startswith("skipped:"):
        return "SKIPPED", ("skipped",)
    if point.get("runs") and not point["valid"]:
        return "INVALID", ("invalid",)
    checks = [(f"sla:{check['quantity']}", check["verdict"]) for check in point.get("sla", {}).get("checks", ())]
    metrics = point.get("regression", {}).get("metrics", ())
    judged = [*checks, *((f"regression:{metric['quantity']}", metric["verdict"]) for metric in metrics)]
    for verdict in ("FAIL", "INCONCLUSIVE"):
        if reasons := tuple(reason for reason, found in judged if found == verdict):
            return verdict, reasons
    if point.get("regression", {}).get("verdict") == "NO BASELINE" or (error and not (judged and point.get("passed"))):
        return "ERROR", ("error",)
    return ("PASS", ()) if judged else ("MEASURED", ())


def _flat(prefix: str, given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        return {prefix: given if isinstance(given, str) else json.dumps(given)}
    flat: dict[str, str] = {}
    for key, value in given.items():
        flat |= _flat(f"{prefix}.{key}", value)
    return flat


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Every known metric's value, or its statistics; what is None is left out."""
    found = (
        (name, value) for metric in METRICS.values() for name, value in _of_metric(metric.name, metrics.get(metric.key))
    )
    known = {name: float(value) for name, value in found if value is not None}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def _of_metric(name: str, metric: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(metric, Mapping) and "value" in metric:
        yield name, metric["value"]
    elif isinstance(metric, Mapping):
        assert set(KEPT) <= set(STATISTICS)
        yield from ((f"{name}_{statistic}", metric.get(statistic)) for statistic in KEPT)
