"""A point as plain JSON data: its part of the report (`llmperf.report/1`). No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf.gate.regression import Against, gated_margins
from pytest_llmperf.gate.verdict import MetricVerdict
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import LevelSearch, LevelTrial
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.metrics.summary import Summary, in_drain, rounded, run_window
from pytest_llmperf.metrics.trust.length import RunErrors, run_errors
from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import ModelSide, Run, Telemetry
from pytest_llmperf.report.json.plain import plain
from pytest_llmperf.report.views.verdicts import level, measured_change, regression_verdict, sla_verdict
from pytest_llmperf.runner.outcomes import Outcome


def point_document(outcome: Outcome, dialect: str | None) -> dict[str, Any]:
    """The point with its runs, metrics and verdicts; `dialect` adds a block with that tool's metrics."""
    head = {"id": outcome.point_id, "test": outcome.test, "passed": outcome.passed, "error": outcome.error}
    if outcome.result is None:
        return head
    result = outcome.result
    return {
        **head,
        "environment": result.environment.slug,
        "deployment": dict(result.environment.deployment),
        "simulated": result.environment.simulated,
        "taken_from": outcome.taken_from and outcome.taken_from.isoformat(timespec="seconds"),
        "server": result.server.as_dict(),
        "load": result.load.as_dict(),
        **plain(result, "valid", "invalid_reasons", "saturated", "remarks"),
        **_stability(result),
        "timestamps": result.stamps,
        "trace_hash": result.trace_hash,
        "runs": _runs(result),
        "reruns": list(outcome.reruns),
        "metrics": result.metrics.as_dict(),
        "stages": [
            {"stage": stage.model_dump(exclude_none=True), "metrics": summary.as_dict()}
            for stage, summary in zip(result.load.stages, result.stages, strict=False)
        ],
        **({"dialect": {"name": dialect, "metrics": dialect_metrics(dialect, result.runs)}} if dialect else {}),
        "sla": {"verdict": sla_verdict(outcome), "checks": [_check_dict(check) for check in outcome.sla or ()]},
        "regression": _regression_dict(outcome),
        **({"capacity": capacity_dict(result.capacity)} if result.capacity else {}),
        **({"duet": _duet_dict(result.reference)} if result.reference else {}),
    }


def _duet_dict(old: Result) -> dict[str, Any]:
    """The server that this one was measured in turns with."""
    return {
        "id": old.point_id,
        "environment": old.environment.slug,
        "deployment": dict(old.environment.deployment),
        "server": old.server.as_dict(),
        **plain(old, "valid", "invalid_reasons", "saturated"),
        "timestamps": old.stamps,
        "trace_hash": old.trace_hash,
        "runs": _runs(old),
        "metrics": old.metrics.as_dict(),
        **({"capacity": capacity_dict(old.capacity)} if old.capacity else {}),
    }


def _runs(result: Result) -> list[dict[str, Any]]:
    gated = () if result.capacity else gated_margins(result.load, result.load.margins)
    runs = zip(result.runs, result.summaries, run_errors(result.runs, gated), strict=True)
    return [_run_dict(run, summary, errors, result.load) for run, summary, errors in runs]


def _run_dict(run: Run, summary: Summary, errors: RunErrors, point: LoadPoint) -> dict[str, Any]:
    return {
        "run": run.index + 1,
        "started": datetime.fromtimestamp(run.started_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        "duration_s": rounded((run.ended_ns - run.started_ns) / 1e9),
        "invalid_reasons": list(invalid_reasons([run], point)),
        "client": plain(run.client),
        **plain(run, "launch", "workers"),
        "repeats": len(run.spoiled),
        "repeated_because": list(run.spoiled),
        "window": _window_dict(run, point),
        "metrics": summary.as_dict(),
        "own_errors": {
            str(quantity): {name: rounded(share) for name, share in asdict(found).items()}
            for quantity, found in errors.items()
        },
        **({"warmup": plain(run.warmup)} if run.warmup else {}),
        "host": plain(run.host) if run.host else None,
        **_server_side(run),
        **({"telemetry": _telemetry_dict(run.telemetry, run.started_ns)} if run.telemetry else {}),
    }


def _telemetry_dict(found: Telemetry, started_ns: int) -> dict[str, Any]:
    """Seconds count from the run's start."""
    tracks = [
        {
            "source": track.source,
            "seconds": [round((at - started_ns) / 1e9, 3) for at in track.at_ns],
            "series": {name: [rounded(value) for value in values] for name, values in track.series},
        }
        for track in found.tracks
    ]
    return {"interval_s": found.interval_s, "notes": list(found.notes), "tracks": tracks}


def _server_side(run: Run) -> dict[str, Any]:
    if run.server_side is None:
        return {}
    models = [_model_side_dict(model) for model in run.server_side.models]
    return {"server_side": {"models": models, "metrics": dict(run.server_side.metrics)}}


def _model_side_dict(side: ModelSide) -> dict[str, Any]:
    """Times are means per request."""
    times = ("queue", "compute_input", "compute_infer", "compute_output")
    return {
        **plain(side, "model", "requests", "failed", "inferences", "executions", "average_batch"),
        "batch_sizes": {str(size): count for size, count in side.batch_sizes},
        **{f"{name}_ms": rounded(side.mean_ms(getattr(side, f"{name}_ns"))) for name in times},
    }


def _window_dict(run: Run, point: LoadPoint) -> dict[str, Any] | None:
    """The window in which rates were counted, and what lies outside; None when there was none."""
    window = run_window(run, point)
    if window is None:
        return None
    lead_in = sum(record.phase == "lead-in" for record in run.records)
    draining = sum(in_drain(record, window) for record in run.measured if record.ok)
    return {
        "start_ns": window.start_ns,
        "end_ns": window.end_ns,
        "seconds": rounded(window.seconds),
        "excluded": {
            "lead_in_s": rounded((window.start_ns - run.started_ns) / 1e9),
            "lead_in_requests": lead_in,
            "drain_s": rounded((run.ended_ns - window.end_ns) / 1e9),
        },
        "latencies_from_drain": draining,
    }


def _stability(result: Result) -> dict[str, Any]:
    steady = result.steadiness
    if steady is None:
        return {}
    return {"stability": plain(steady, "windows", "reached", "throughput_spread", "latency_spread", "within")}


def _check_dict(check: SlaCheck) -> dict[str, Any]:
    limit = check.limit
    return {
        "quantity": str(limit.quantity),
        "op": limit.op,
        "limit": limit.value,
        "unit": limit.quantity.unit,
        **plain(check, "value", "n", "ok", "verdict", "verified", "reason"),
    }


def _regression_dict(outcome: Outcome) -> dict[str, Any]:
    regression = outcome.regression
    return {
        "verdict": regression_verdict(outcome),
        "notes": list(regression.notes) if regression else [],
        "against": _against_dict(regression.against) if regression and regression.against else None,
        "metrics": [_metric_verdict_dict(metric) for metric in regression.metrics] if regression else [],
    }


def _against_dict(found: Against) -> dict[str, Any]:
    return {
        **plain(found, "sessions", "runs", "commit"),
        "last": found.last.isoformat(timespec="seconds"),
        "provisional": bool(found.provisional),
    }


def _metric_verdict_dict(metric: MetricVerdict) -> dict[str, Any]:
    """`change` is that of the value, with its 90 % interval: 0.366 is 36.6 % more, of a throughput an improvement.

    `worse_ratio` and its `interval` are above 1 where it got worse, whichever direction is better.
    """
    series, estimate, change = metric.series, metric.estimate, measured_change(metric)
    return {
        "quantity": str(series.quantity),
        "unit": series.quantity.unit,
        "reference": series.reference,
        "baseline": rounded(level(series.baseline)),
        "now": rounded(level(series.candidate)),
        "change": rounded(change[0]) if change else None,
        "change_interval": list(map(rounded, change[1:])) if change else None,
        "worse_ratio": rounded(estimate.ratio) if estimate else None,
        "interval": [rounded(math.exp(estimate.bound(at))) for at in (0.05, 0.95)] if estimate else None,
        "detectable": rounded(metric.detectable),
        "margin": series.margin,
        "baseline_runs": sum(map(len, series.baseline)),
        "runs": series.runs,
        **plain(metric, "verdict", "reason", "too_noisy"),
        "noise": {name: rounded(share) for name, share in asdict(metric.noise).items()} if metric.noise else None,
    }


def capacity_dict(capacity: Capacity) -> dict[str, Any]:
    """The answer, its interval, and every search with its levels."""
    interval = capacity.interval
    return {
        "quantity": str(capacity.quantity),
        "unit": capacity.quantity.unit,
        "answer": capacity.sentence,
        "value": rounded(capacity.value),
        "is_lower_bound": capacity.is_bound,
        "interval": None if interval is None else [rounded(interval.low), rounded(interval.high)],
        "holds": capacity.holds,
        "breaks": capacity.breaks,
        "resolution": rounded(capacity.resolution),
        "within": capacity.asked.within,
        "range": list(capacity.asked.span),
        "criterion": [str(limit) for limit in capacity.asked.sla],
        "notes": list(capacity.notes),
        "searches": [_search_dict(search) for search in capacity.searches],
    }


def _search_dict(search: LevelSearch) -> dict[str, Any]:
    return {
        "ended": search.ended,
        "value": rounded(search.estimate),
        "interpolated": search.interpolated,
        "holds": search.holds,
        "breaks": search.breaks,
        "levels": [_trial_dict(trial) for trial in search.trials],
    }


def _trial_dict(trial: LevelTrial) -> dict[str, Any]:
    facts = asdict(trial) | {"achieved_rate": rounded(trial.achieved_rate)}
    del facts["values"]
    figures: Mapping[str, float | None] = facts.pop("figures") or {}
    return {**facts, "metrics": {name: rounded(value) for name, value in figures.items()}}
