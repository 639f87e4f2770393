"""Request times in the layout of perf_analyzer's --profile-export-file, which GenAI-Perf and many scripts read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.records import RequestRecord, Run


def profile_export(results: Sequence[Result], service_kind: str) -> dict[str, Any]:
    """One experiment per point and run; times are ns of CLOCK_REALTIME, responses those that carried tokens."""
    experiments = [_experiment(result, run) for result in results for run in result.runs]
    return {"experiments": experiments, "version": f"pytest-llmperf {__version__}", "service_kind": service_kind}


def _experiment(result: Result, run: Run) -> dict[str, Any]:
    load = result.load
    mode, value = ("request_rate", load.request_rate) if load.concurrency is None else ("concurrency", load.concurrency)
    return {
        "experiment": {"mode": mode, "value": value},
        "requests": [_request(record) for record in run.measured if record.sent_ns],
        "window_boundaries": [run.started_ns, run.ended_ns],
    }


def _request(record: RequestRecord) -> dict[str, Any]:
    return {"timestamp": record.sent_ns, "response_timestamps": list(record.chunk_ns), "success": record.ok}
