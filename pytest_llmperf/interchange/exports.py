"""A result as the files that other tools write, with their names, units and definitions (dialects). Pure: no I/O.

Every maker gives file name and text. Where a tool knows a key that we have no fact for, the key is left out.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.boundary.text import cell
from pytest_llmperf.definitions import PERCENTILES
from pytest_llmperf.interchange.readers.aiperf import OWN_MARK
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.frame import COLUMNS, request_rows
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.records import RequestRecord, Run

Files = Mapping[str, str]
_STATS = ("min", "max", "std", *(f"p{p}" for p in PERCENTILES))
_WRITER = f"pytest-llmperf {__version__}"
_UNITS = {"tok/s": "tokens/sec", "tok/s/user": "tokens/sec/user", "req/s": "requests/sec", "s": "sec"}
_VLLM_STATS = {"mean": "mean", "median": "p50", "std": "std", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
_CSV_STATS = ("avg", "min", "max", *(f"p{p}" for p in reversed(PERCENTILES)))
_CSV = ("search", "level", "unit", "verdict", "sure", "repeats", "sent", "failed", "achieved_rate", "reason")


def _statistics(values: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """One metric as GenAI-Perf and AIPerf write it; `avg` alone for what is one number per run."""
    if "value" in values:
        return {"unit": unit, "avg": values["value"]}
    return {"unit": unit, "avg": values["mean"], **{stat: values[stat] for stat in _STATS}, "n": values["n"]}


def _metrics(result: Result, dialect: str) -> dict[str, dict[str, Any]]:
    """Statistics without those that have no value: the tools leave them out too."""
    found = dialect_metrics(dialect, result.runs)
    made = {name: _statistics(values, _UNITS.get(values["unit"], values["unit"])) for name, values in found.items()}
    return {name: values for name, values in made.items() if values["avg"] is not None}


def _length(tokens: Any) -> dict[str, Any]:
    """A fixed length has no spread; a distribution's parts have other names in every tool, and are left out."""
    return {"mean": tokens, "stddev": 0} if isinstance(tokens, int) else {}


def genai_perf(result: Result) -> Files:
    """`profile_export_genai_perf.json` and `.csv`."""
    metrics = _metrics(result, "genai-perf")
    metrics = {name: {k: v for k, v in values.items() if k != "n"} for name, values in metrics.items()}
    if "request_count" in metrics:
        metrics["request_count"]["unit"] = "count"
    document = {**metrics, "input_config": _genai_perf_config(result)}
    return {
        "profile_export_genai_perf.json": _json(document),
        "profile_export_genai_perf.csv": _genai_perf_csv(metrics),
    }


def _genai_perf_config(result: Result) -> dict[str, Any]:
    """The parts of GenAI-Perf's configuration that a load of ours has too."""
    load = result.load
    stimulus = {"concurrency": load.concurrency} if load.concurrency else {"request_rate": load.request_rate}
    return {
        "model_names": [result.server.model],
        "subcommand": "profile",
        "endpoint": {"type": load.endpoint, "streaming": True},
        "perf_analyzer": {"stimulus": stimulus, "warmup_request_count": load.warmup_requests},
        "input": {
            "batch_size": load.batch_size,
            "num_dataset_entries": load.dataset_entries or load.requests,
            "random_seed": load.seed or 0,
            "output_tokens": _length(load.output_tokens),
            "synthetic_tokens": _length(load.input_tokens),
        },
        "written_by": _WRITER,
    }


def _genai_perf_csv(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Two tables with an empty line between them: of requests, and of the run. Lines end in CRLF, as the tool's do."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Metric", *_CSV_STATS])
    for name, values in metrics.items():
        if "p50" in values:
            writer.writerow([_title(name, values["unit"]), *(f"{values[stat]:,.2f}" for stat in _CSV_STATS)])
    writer.writerows([[], ["Metric", "Value"]])
    for name, values in metrics.items():
        if "p50" not in values:
            unit = "per sec" if name == "request_throughput" else values["unit"]
            writer.writerow([_title(name, unit), f"{values['avg']:,.2f}"])
    return text.getvalue()


def _title(name: str, unit: str) -> str:
    return f"{name.replace('_', ' ').title()} ({unit})"


def aiperf(result: Result) -> Files:
    """`profile_export_aiperf.json`, and `profile_export.jsonl` with a line per request."""
    first, last = result.runs[0], result.runs[-1]
    metrics = _metrics(result, "aiperf")
    for values in metrics.values():
        if "n" in values:
            values |= {"count": values["n"], "sum": values["avg"] * values.pop("n")}
    document = {
        "schema_version": "1.4",
        "aiperf_version": _WRITER,
        **metrics,
        "input_config": _aiperf_config(result),
        "run_info": {"random_seed": result.load.seed or 0, "trial": 0},
        "was_cancelled": False,
        "is_complete": True,
        "start_time": _utc(first.started_ns).replace(tzinfo=None).isoformat(),
        "end_time": _utc(last.ended_ns).replace(tzinfo=None).isoformat(),
        "error_summary": _errors(result.runs),
    }
    lines = [json.dumps(_aiperf_line(run, record)) for run in result.runs for record in run.records]
    return {"profile_export_aiperf.json": _json(document), "profile_export.jsonl": "\n".join(lines) + "\n"}


def _aiperf_config(result: Result) -> dict[str, Any]:
    """The parts of AIPerf's configuration that a load of ours has too."""
    load = result.load
    closed = {"type": "concurrency", "concurrency": load.concurrency}
    phase = closed if load.concurrency else {"type": load.arrival, "rate": load.request_rate}
    return {
        "models": {"items": [{"name": result.server.model}]},
        "endpoint": {"type": load.endpoint, "streaming": True},
        "datasets": [
            {"name": "main", "prompts": {"isl": _length(load.input_tokens), "osl": _length(load.output_tokens)}}
        ],
        "phases": [{"name": "profiling", "kind": "profiling", **phase, "requests": load.requests}],
    }


def _utc(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)


def _errors(runs: Sequence[Run]) -> list[dict[str, Any]]:
    texts = [(record.status, record.error) for run in runs for record in run.records if record.error]
    return [
        {"error_details": {"code": code, "type": "RequestError", "message": text}, "count": texts.count((code, text))}
        for code, text in dict.fromkeys(texts)
    ]


def _aiperf_line(run: Run, record: RequestRecord) -> dict[str, Any]:
    """Metrics of a request that failed are left out."""
    alone = Run(run.index, run.started_ns, run.ended_ns, run.trace_hash, (record,), run.client)
    found = dialect_metrics("aiperf", [alone]) if record.ok and record.chunk_ns else {}
    metrics = {
        name: {"value": v["mean"], "unit": _UNITS.get(v["unit"], v["unit"])} for name, v in found.items() if "mean" in v
    }
    if "inter_chunk_latency" in metrics:
        seen = record.chunk_ns
        metrics["inter_chunk_latency"]["value"] = [(b - a) / 1e6 for a, b in itertools.pairwise(seen)] or None
    # AIPerf counts an answer as failed that streamed nothing, though its tokens were counted.
    why = record.error or ("the answer has no text" if record.ok and "request_latency" not in metrics else None)
    error = {"code": record.status, "type": "RequestError", "message": why} if why else None
    metadata = {
        "session_num": record.index,
        "x_request_id": record.request_id,
        "conversation_id": None if record.conversation is None else str(record.conversation),
        "turn_index": record.turn,
        "request_start_ns": record.sent_ns,
        "request_ack_ns": None,
        "request_end_ns": record.end_ns,
        "worker_id": f"run-{run.index + 1}",
        "record_processor_id": OWN_MARK,
        "benchmark_phase": "profiling",
        "was_cancelled": record.cancelled,
        "cancellation_time_ns": None,
    }
    line = {"metadata": metadata, "metrics": {n: m for n, m in metrics.items() if m["value"] is not None}}
    return {**line, "error": error} if error else line


def vllm(result: Result) -> Files:
    """`vllm.json`: what `vllm bench serve --save-result --save-detailed` writes; times of requests are in seconds."""
    found = dialect_metrics("vllm", result.runs)
    records = [record for run in result.runs for record in run.records]
    numbers = {name: values["value"] for name, values in found.items() if "value" in values}
    load = result.load
    document = {
        "date": _utc(result.runs[0].started_ns).strftime("%Y%m%d-%H%M%S"),
        **dict.fromkeys(("endpoint_type", "backend"), "openai-chat" if load.endpoint == "chat" else "openai"),
        "label": _WRITER,
        "model_id": result.server.model,
        "tokenizer_id": result.server.model,
        "num_prompts": len(records),
        "request_rate": load.request_rate or "inf",
        "burstiness": load.burstiness,
        "max_concurrency": load.concurrency,
        **numbers,
        "completed": sum(record.ok for record in records),
        "failed": sum(not record.ok for record in records),
        "duration": sum(run.ended_ns - run.started_ns for run in result.runs) / 1e9,
        "total_input_tokens": sum(record.input_tokens or 0 for record in records if record.ok),
        "total_output_tokens": sum(record.output_tokens or 0 for record in records if record.ok),
        # vLLM writes 0 where it has no value.
        **{
            f"{theirs}_{name}_ms": found[f"{name}_ms"][ours] or 0.0
            for name in ("ttft", "tpot", "itl", "e2el")
            for theirs, ours in _VLLM_STATS.items()
        },
        **_vllm_details(records),
        "llmperf_runs": [len(run.records) for run in result.runs],
        "llmperf_tokenless": [_tokenless_places(record) for record in records],
    }
    return {"vllm.json": _json(document)}


def _vllm_details(records: Sequence[RequestRecord]) -> dict[str, list[Any]]:
    sent = [(record.sent_ns or record.end_ns, sorted((*record.chunk_ns, *record.tokenless_ns))) for record in records]
    begun = min(begin for begin, _ in sent)
    return {
        "input_lens": [record.input_tokens or 0 for record in records],
        "output_lens": [record.output_tokens or 0 for record in records],
        "ttfts": [(seen[0] - begin) / 1e9 if seen else 0.0 for begin, seen in sent],
        "itls": [[(b - a) / 1e9 for a, b in itertools.pairwise(seen)] for _, seen in sent],
        "latencies": [(seen[-1] - begin) / 1e9 if seen else 0.0 for begin, seen in sent],
        # Seconds from the first request: those since 1970 would leave no digits for nanoseconds.
        "start_times": [(begin - begun) / 1e9 for begin, _ in sent],
        "errors": [record.error or "" for record in records],
    }


def _tokenless_places(record: RequestRecord) -> list[int]:
    """Numbers of the chunks without a token among all that `ttfts` and `itls` count: vLLM's file does not name them."""
    seen = sorted([(moment, False) for moment in record.tokenless_ns] + [(moment, True) for moment in record.chunk_ns])
    return [place for place, (_, has_token) in enumerate(seen) if not has_token]


def requests_csv(result: Result) -> Files:
    """`requests.csv`: a row per request, columns as in `result.to_frame()`; levels of a search in `capacity.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in request_rows(result.runs))
    searched = {"capacity.csv": capacity_csv(result.capacity)} if result.capacity else {}
    return {"requests.csv": text.getvalue(), **searched}


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


EXPORTS: Mapping[str, Callable[[Result], Files]] = {
    "genai-perf": genai_perf,
    "aiperf": aiperf,
    "vllm": vllm,
    "csv": requests_csv,
}
"""Functions by the name that --llmperf-export takes; `parquet` is one more, which is no text."""
NAMES = (*EXPORTS, "parquet")


def capacity_csv(capacity: Capacity) -> str:
    """A row per level."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for trial in capacity.trials for name in trial.figures or {}))
    writer = csv.DictWriter(text, (*_CSV, *names), lineterminator="\n")
    writer.writeheader()
    for place, search in enumerate(capacity.searches, start=1):
        for trial in search.trials:
            facts = {name: value for name, value in asdict(trial).items() if name in _CSV}
            writer.writerow({**facts, "search": place, "unit": capacity.quantity.unit, **(trial.figures or {})})
    return text.getvalue()
