"""The swept points of a session as the CSV file of GenAI-Perf's `analyze`. Pure: no I/O.

Its two tables, checked against genai-perf 0.0.16: a row per point, most requests per second first; then a row per point
and GPU, of which there are none, because GPU telemetry is not measured.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.result import Result

FILE = "analyze_export_genai_perf.csv"
_COLUMNS = {
    "p99 Time To First Token (ms)": ("time_to_first_token", "p99"),
    "p99 Inter Token Latency (ms)": ("inter_token_latency", "p99"),
    "p99 Request Latency (ms)": ("request_latency", "p99"),
    "p99 Output Sequence Length (tokens)": ("output_sequence_length", "p99"),
    "Avg. Output Token Throughput (tokens/sec)": ("output_token_throughput", "value"),
    "Request Throughput (requests/sec)": ("request_throughput", "value"),
}
_GPU_COLUMNS = (
    *("Config Name", "GPU", "p99 GPU Power Usage (W)", "p99 GPU Energy Consumption (MJ)", "p99 GPU Utilization (%)"),
    *("p99 GPU Memory Used (GB)", "Avg. GPU Power Limit (W)", "Avg. GPU Total Memory (GB)"),
)


def analyze_files(measured: Sequence[tuple[str, Result]]) -> Mapping[str, str]:
    """The text of the file of every sweep, by a name for the sweep: its test function, server and load."""
    sweeps: dict[tuple[str, ...], list[Result]] = {}
    for test, result in measured:
        sweep = (test.partition("[")[0], result.environment.slug, result.server.name, result.load.load)
        sweeps.setdefault(sweep, []).append(result)
    return {
        f"{function}[{server}-{load}]": _analyze_csv(results)
        for (function, _, server, load), results in sweeps.items()
        if len(results) > 1
    }


def _analyze_csv(results: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    axis = "Concurrency" if results[0].load.closed_loop else "Request Rate"
    writer.writerow(["Config Name", axis, "ISL", "Num Dataset Entries", *_COLUMNS])
    rows = [
        (f"{result.server.model}_run_config_{place}", result, dialect_metrics("genai-perf", result.runs))
        for place, result in enumerate(results)
    ]
    rows.sort(key=lambda row: row[2]["request_throughput"]["value"] or 0.0, reverse=True)
    writer.writerows(_row(*row) for row in rows)
    writer.writerows([[], _GPU_COLUMNS])
    return text.getvalue()


def _row(name: str, result: Result, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A value that there is none of stays empty; the tool would write 0.00."""
    load = result.load
    stimulus = load.concurrency or load.request_rate
    length = metrics["input_sequence_length"]["p99"]
    entries = load.dataset_entries or load.requests
    values = (metrics[metric][stat] for metric, stat in _COLUMNS.values())
    head = (name, stimulus, None if length is None else int(length), entries)
    return [*("" if part is None else str(part) for part in head), *("" if v is None else f"{v:.2f}" for v in values)]
