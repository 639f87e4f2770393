"""Results as plain JSON data: the report (`llmperf.report/1`), and the per-request lines. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.definitions import METRICS, parse_quantity
from pytest_llmperf.gate.verdict import MetricVerdict
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.metrics.summary import Summary, in_drain, rounded, run_window
from pytest_llmperf.metrics.trust.stability import Steadiness
from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import ModelSide, Run, ServerSide, Telemetry
from pytest_llmperf.report.json.search import search_document
from pytest_llmperf.report.views.capacity import capacity_dict
from pytest_llmperf.report.views.comparison import Comparison, comparisons
from pytest_llmperf.report.views.curves import Curve, curves
from pytest_llmperf.report.views.verdicts import level
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.search.result import SearchResult

SCHEMA = "llmperf.report/1"


def sla_verdict(outcome: Outcome) -> str:
    """PASS, FAIL, INCONCLUSIVE, INVALID (the numbers are not to be trusted), NOT CHECKED without any limit."""
    if not outcome.sla:
        return "NOT CHECKED"
    if outcome.result is not None and not outcome.result.valid:
        return "INVALID"
    found = {check.verdict for check in outcome.sla}
    return next(verdict for verdict in ("FAIL", "INCONCLUSIVE", "PASS") if verdict in found)


def regression_verdict(outcome: Outcome) -> str:
    """The regression's verdict, or NOT CHECKED where no comparison was made."""
    return outcome.regression.verdict if outcome.regression else "NOT CHECKED"


def report_document(
    outcomes: Sequence[Outcome],
    started: datetime,
    dialect: str | None = None,
    notes: Sequence[str] = (),
    searches: Sequence[SearchResult] = (),
) -> dict[str, Any]:
    """The whole report; `dialect` adds a block with that tool's metrics to every point."""
    environments = {o.result.environment.slug: o.result.environment.as_dict() for o in outcomes if o.result}
    return {
        "schema": SCHEMA,
        "llmperf": __version__,
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "environment": next(iter(environments.values()), {}),
        "environments": environments,
        "definitions": {metric.key: metric.definition for metric in METRICS.values()},
        "notes": list(notes),
        "points": [_point_dict(outcome, dialect) for outcome in outcomes],
        "curves": [_curve_dict(curve) for curve in outcome_curves(outcomes)],
        "comparisons": [_comparison_dict(found) for found in outcome_comparisons(outcomes)],
        **({"searches": [search_document(found) for found in searches]} if searches else {}),
    }


def outcome_curves(outcomes: Sequence[Outcome]) -> tuple[Curve, ...]:
    """The curves of all points that were measured."""
    return curves([(o.test, o.result) for o in outcomes if o.result is not None and o.result.runs])


def outcome_comparisons(outcomes: Sequence[Outcome]) -> tuple[Comparison, ...]:
    """One per load that several servers were measured at."""
    return comparisons([(o.test, o.result) for o in outcomes if o.result is not None and o.result.runs])


def _comparison_dict(found: Comparison) -> dict[str, Any]:
    """Levels are geometric means over the runs, with their 90 % interval."""
    rows = [
        {
            "quantity": str(row.quantity),
            "unit": row.quantity.unit,
            "best": None if row.best is None else found.configurations[row.best],
            "why": row.why,
            "values": {
                name: level and {key: rounded(value) for key, value in asdict(level).items()}
                for name, level in zip(found.configurations, row.levels, strict=True)
            },
        }
        for row in found.rows
    ]
    return {**asdict(found), "answer": found.answer, "rows": rows}


def _curve_dict(curve: Curve) -> dict[str, Any]:
    points = [
        {
            "input_tokens": point.input_tokens,
            "valid": point.valid,
            **{name: {"value": rounded(v), "unit": parse_quantity(name).unit} for name, v in point.values.items()},
        }
        for point in curve.points
    ]
    return {**asdict(curve), "points": points}


def _point_dict(outcome: Outcome, dialect: str | None) -> dict[str, Any]:
    head: dict[str, Any] = {
        "id": outcome.point_id,
        "test": outcome.test,
        "passed": outcome.passed,
        "error": outcome.error,
    }
    if outcome.result is None:
        return head
    result = outcome.result
    return {
        **head,
        "environment": result.environment.slug,
        "simulated": result.environment.simulated,
        "taken_from": outcome.taken_from and outcome.taken_from.isoformat(timespec="seconds"),
        "server": result.server.as_dict(),
        "load": result.load.as_dict(),
        "valid": result.valid,
        "invalid_reasons": list(result.invalid_reasons),
        "saturated": result.saturated,
        "remarks": list(result.remarks),
        **({"stability": _stability_dict(result.steadiness)} if result.steadiness else {}),
        "timestamps": result.stamps,
        "trace_hash": result.trace_hash,
        "runs": [
            _run_dict(run, summary, result.load) for run, summary in zip(result.runs, result.summaries, strict=True)
        ],
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
        "server": old.server.as_dict(),
        "valid": old.valid,
        "invalid_reasons": list(old.invalid_reasons),
        "saturated": old.saturated,
        "timestamps": old.stamps,
        "trace_hash": old.trace_hash,
        "runs": [_run_dict(run, summary, old.load) for run, summary in zip(old.runs, old.summaries, strict=True)],
        "metrics": old.metrics.as_dict(),
        **({"capacity": capacity_dict(old.capacity)} if old.capacity else {}),
    }


def _run_dict(run: Run, summary: Summary, point: LoadPoint) -> dict[str, Any]:
    return {
        "run": run.index + 1,
        "started": datetime.fromtimestamp(run.started_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        "duration_s": rounded((run.ended_ns - run.started_ns) / 1e9),
        "invalid_reasons": list(invalid_reasons([run], point)),
        "client": {name: rounded(v) if isinstance(v, float) else v for name, v in asdict(run.client).items()},
        "launch": run.launch,
        "workers": run.workers,
        "repeats": len(run.spoiled),
        "repeated_because": list(run.spoiled),
        "window": _window_dict(run, point),
        "metrics": summary.as_dict(),
        **({"server_side": _server_side_dict(run.server_side)} if run.server_side else {}),
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


def _server_side_dict(side: ServerSide) -> dict[str, Any]:
    return {"models": [_model_side_dict(model) for model in side.models], "metrics": dict(side.metrics)}


def _model_side_dict(side: ModelSide) -> dict[str, Any]:
    """Times are means per request."""
    return {
        "model": side.model,
        "requests": side.requests,
        "failed": side.failed,
        "inferences": side.inferences,
        "executions": side.executions,
        "average_batch": rounded(side.average_batch),
        "batch_sizes": {str(size): count for size, count in side.batch_sizes},
        "queue_ms": rounded(side.mean_ms(side.queue_ns)),
        "compute_input_ms": rounded(side.mean_ms(side.compute_input_ns)),
        "compute_infer_ms": rounded(side.mean_ms(side.compute_infer_ns)),
        "compute_output_ms": rounded(side.mean_ms(side.compute_output_ns)),
    }


def _window_dict(run: Run, point: LoadPoint) -> dict[str, Any] | None:
    """Where rates were counted, and what lies outside; None when there was no window."""
    window = run_window(run, point)
    if window is None:
        return None
    lead_in = sum(record.phase == "lead-in" for record in run.records)
    draining = sum(in_drain(record, window) for record in run.records if record.phase == "measured" and record.ok)
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


def _stability_dict(steady: Steadiness) -> dict[str, Any]:
    return {
        "windows": steady.windows,
        "reached": steady.reached,
        "throughput_spread": rounded(steady.throughput_spread),
        "latency_spread": rounded(steady.latency_spread),
        "within": steady.within,
    }


def _check_dict(check: SlaCheck) -> dict[str, Any]:
    return {
        "quantity": str(check.limit.quantity),
        "op": check.limit.op,
        "limit": check.limit.value,
        "unit": check.limit.quantity.unit,
        "value": rounded(check.value),
        "n": check.n,
        "ok": check.ok,
        "verdict": check.verdict,
        "verified": check.verified,
        "reason": check.reason,
    }


def _regression_dict(outcome: Outcome) -> dict[str, Any]:
    regression = outcome.regression
    return {
        "verdict": regression_verdict(outcome),
        "notes": list(regression.notes) if regression else [],
        "metrics": [_metric_verdict_dict(metric) for metric in regression.metrics] if regression else [],
    }


def _metric_verdict_dict(metric: MetricVerdict) -> dict[str, Any]:
    """`worse_ratio` and its 90 % `interval` are above 1 where it got worse, whichever direction is better."""
    series, estimate = metric.series, metric.estimate
    return {
        "quantity": str(series.quantity),
        "unit": series.quantity.unit,
        "reference": series.reference,
        "baseline": rounded(level(series.baseline)),
        "now": rounded(level(series.candidate)),
        "worse_ratio": rounded(estimate.ratio) if estimate else None,
        "interval": [rounded(math.exp(estimate.bound(at))) for at in (0.05, 0.95)] if estimate else None,
        "detectable": rounded(metric.detectable),
        "margin": series.margin,
        "baseline_runs": sum(map(len, series.baseline)),
        "runs": series.runs,
        "verdict": metric.verdict,
        "reason": metric.reason,
        "too_noisy": metric.too_noisy,
    }
