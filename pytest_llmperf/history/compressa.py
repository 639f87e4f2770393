"""Experiments of compressa-perf's database as sessions of the history. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC

from pytest_llmperf.history.session import KEPT, HistoryPoint, HistoryRun, HistorySession
from pytest_llmperf.interchange.compressa.database import StoredExperiment, StoredRequest
from pytest_llmperf.metrics.summary import distribution

_KNOWN = {
    "num_workers": "load.concurrency",
    "num_tasks": "load.requests",
    "max_tokens": "load.output_tokens",
    "model_name": "server.model",
    "openai_url": "server.url",
    "node_url": "server.url",
}
"""Our names of the tool's parameters."""


def session_of_experiment(experiment: StoredExperiment) -> HistorySession:
    """Returns a session with one point; the same experiment gives the same session at every import."""
    ended = [one.end_time for one in experiment.measurements]
    facts = [experiment.name, experiment.date.isoformat(), len(ended), max(ended, default=0.0)]
    began = experiment.date.astimezone(UTC)
    values = dict(_values(experiment.measurements))
    point = HistoryPoint(
        test=f"compressa-perf::{experiment.name}",
        name=experiment.name,
        environment=None,
        engine=None,
        measured=began,
        verdict="MEASURED",
        reasons=(),
        parameters=dict(experiment.parameters)
        | {_KNOWN[key]: value for key, value in experiment.parameters.items() if key in _KNOWN}
        | ({"description": experiment.description} if experiment.description else {}),
        values=values,
        dialect={
            "name": "compressa",
            "metrics": {name: {"value": value} for name, value in experiment.metrics.items()},
        },
        runs=(HistoryRun(1, 1, True, values),) if values else (),
    )
    return HistorySession(hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32], began, None, "", (point,))


def _values(measurements: Sequence[StoredRequest]) -> Iterator[tuple[str, float]]:
    """Yields what its rows say under our definitions; TTFT only where it was seen (0 stands for none)."""
    good = [one for one in measurements if one.status == "success"]
    seconds = max((one.end_time for one in good), default=0.0) - min((one.start_time for one in good), default=0.0)
    latencies = {
        "ttft": [one.ttft * 1e3 for one in good if one.ttft > 0],
        "e2e": [(one.end_time - one.start_time) * 1e3 for one in good],
    }
    for name, samples in latencies.items():
        kept_statistics = distribution(samples).as_dict()
        yield from ((f"{name}_{kept}", float(kept_statistics[kept])) for kept in KEPT if samples)
    if measurements:
        yield "error_rate", 1 - len(good) / len(measurements)
    if seconds > 0:
        yield "request_throughput", len(good) / seconds
        yield "input_token_throughput", sum(one.n_input for one in good) / seconds
        yield "output_token_throughput", sum(one.n_output for one in good) / seconds
