"""A Baseline to the text of its file. Pure.

These files are committed and their changes are reviewed: keys in a fixed order, a line per metric of a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.definitions import METRICS, STATISTICS, Quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.fingerprint import Identity
from pytest_llmperf.gate.baselines.model import Baseline, Provenance, StoredRun, StoredSession
from pytest_llmperf.gate.baselines.parse import SCHEMA_NAME, SCHEMA_VERSION
from pytest_llmperf.metrics.answers import Answers
from pytest_llmperf.telemetry.environment import Environment


def baseline_text(baseline: Baseline) -> str:
    """The file's text, ending in a newline. BaselineError where a value has no JSON."""
    document = {
        "schema": f"{SCHEMA_NAME}/{SCHEMA_VERSION}",
        "llmperf": __version__,
        "test": baseline.test,
        "point_id": baseline.point_id,
        "identity": _identity_dict(baseline.identity),
        "load": baseline.load,
        "margins": {str(quantity): margin for quantity, margin in sorted(baseline.margins.items(), key=str)},
        "rolling": [session.id for session in baseline.rolling],
        "anchor": [session.id for session in baseline.anchor],
        "sessions": [_session_dict(session) for session in baseline.sessions],
    }
    try:
        return f"{_layout(document)}\n"
    except (ValueError, TypeError) as error:
        raise BaselineError(f"baseline {baseline.path} cannot be written: {error}") from error


def _identity_dict(found: Identity) -> dict[str, Any]:
    """The identity without the load, which the file has itself, and without replicas where there is one."""
    left_out = ("load", "replicas", "balance") if found.replicas == 1 else ("load",)
    return {name: fact for name, fact in _plain(found).items() if name not in left_out}


def _plain(facts: Identity | Environment | Provenance) -> dict[str, Any]:
    found = {name: getattr(facts, name) for name in facts.__dataclass_fields__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _session_dict(session: StoredSession) -> dict[str, Any]:
    return {
        "id": session.id,
        "started": session.started.isoformat(),
        "git_sha": session.git_sha,
        "environment": _plain(session.environment),
        "args": dict(sorted(session.args.items())),
        "measuring": dict(sorted(session.measuring.items())),
        "launches": [[_run_dict(run) for run in launch] for launch in session.launches],
        **({"answers": _answers_dict(session.answers)} if session.answers else {}),
        **({"imported": _plain(session.imported)} if session.imported else {}),
    }


def _answers_dict(answers: Answers) -> dict[str, Any]:
    return {
        "scores": {name: dict(scores) for name, scores in answers.scores.items()},
        "outputs": [dict(run) for run in answers.outputs],
        "texts": dict(answers.texts),
    }


def _run_dict(run: StoredRun) -> dict[str, Any]:
    distributions: dict[str, dict[str, Any]] = {}
    for metric in METRICS.values():
        if metric.kind == "distribution":
            n = run.n[metric.name]
            stats = {stat: run.values[Quantity(metric.name, stat)] for stat in STATISTICS} if n else {}
            distributions[metric.key] = {**stats, "n": n}
    return {
        "requests": {"ok": run.n["request_throughput"], "sent": run.n["error_rate"]},
        "scalars": {q.metric: value for q, value in run.values.items() if q.stat is None},
        "distributions": distributions,
        "histograms": {METRICS[name].key: found for name, found in run.histograms.items()},
    }


def _layout(value: Any, indent: str = "") -> str:
    """JSON with what holds only plain values on one line, so that a metric of a run is a line of a diff."""
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list) or not any(isinstance(part, Mapping | list) for part in parts):
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    inner = indent + " "
    begin, end = "{}" if isinstance(value, Mapping) else "[]"
    names = [f"{json.dumps(name)}: " for name in value] if isinstance(value, Mapping) else [""] * len(value)
    lines = (f"{inner}{name}{_layout(part, inner)}" for name, part in zip(names, parts, strict=True))
    return "\n".join([begin, ",\n".join(lines), f"{indent}{end}"])
