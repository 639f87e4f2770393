"""GuideLLM's JSON: a point per benchmark, with its requests. Pure. Checked against a file of GuideLLM 0.8.1.

Of a request it keeps the first and the last token's time, and none between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_llmperf.definitions import PERCENTILES
from pytest_llmperf.interchange.imported import (
    CHUNK_GAPS,
    NUMBER,
    Imported,
    ImportedPoint,
    because,
    in_order,
    optional,
    pick,
)
from pytest_llmperf.records import RequestRecord

_METRICS = {
    "time_to_first_token_ms": "ms",
    "time_per_output_token_ms": "ms",
    "inter_token_latency_ms": "ms",
    "request_latency": "s",
    "prompt_token_count": "tokens",
    "output_token_count": "tokens",
    "requests_per_second": "requests/sec",
    "request_concurrency": "requests",
    "output_tokens_per_second": "tokens/sec",
    "tokens_per_second": "tokens/sec",
}
_TEXT = "GuideLLM's first token is the first chunk with text, reasoning or a tool call"


def guidellm_report(document: Mapping[str, Any], name: str) -> Imported:
    """All benchmarks of the file, in its order."""
    found = pick(document, "benchmarks", kind=list, where=name)
    points = tuple(_point(benchmark, f"{name}: benchmark {place}") for place, benchmark in enumerate(found, start=1))
    version = optional(document, "metadata", "guidellm_version")
    model = optional(found, 0, "config", "backend", "model")
    return Imported("guidellm", version, model, points)


def _point(benchmark: Mapping[str, Any], where: str) -> ImportedPoint:
    requests = pick(benchmark, "requests", kind=dict, where=where)
    records = [
        _record(request, status, f"{where}: {status} request {place}")
        for status in ("successful", "errored", "incomplete")
        for place, request in enumerate(requests.get(status) or (), start=1)
    ]
    return ImportedPoint(
        metrics=_metrics(benchmark),
        **_load(optional(benchmark, "config", "strategy") or {}),
        runs=(tuple(in_order(records)),),
        unknown=because("GuideLLM keeps no times of chunks between the first and the last", *CHUNK_GAPS),
        notes=(_TEXT,),
    )


def _load(strategy: Mapping[str, Any]) -> dict[str, Any]:
    match strategy.get("type_"):
        case "synchronous":
            return {"concurrency": 1}
        case "concurrent" | "throughput":
            return {"concurrency": strategy.get("streams") or strategy.get("max_concurrency")}
        case "constant" | "poisson":
            return {"request_rate": strategy.get("rate")}
        case _:
            return {}


def _record(request: Mapping[str, Any], status: str, where: str) -> RequestRecord:
    timings = pick(request, "info", "timings", kind=dict, where=where)
    sent = pick(timings, "request_start", kind=NUMBER, where=where)
    good = status == "successful"
    moments = ("first_token_iteration", "last_token_iteration") if good else ()
    chunks = tuple(_ns(pick(timings, key, kind=NUMBER, where=where)) for key in moments)
    first_output = optional(timings, "first_output_token_iteration")
    prompt = optional(request, "prompt_tokens")
    return RequestRecord(
        index=0,
        phase="measured",
        request_id=str(optional(request, "request_id")),
        due_ns=None,
        sent_ns=_ns(sent),
        chunk_ns=chunks,
        chunk_tokens=None,
        first_output_ns=_ns(first_output) if good and first_output else None,
        end_ns=_ns(optional(timings, "request_end") or sent),
        input_tokens=prompt,
        output_tokens=pick(request, "output_tokens", kind=int, where=where) if good else None,
        requested_output_tokens=0,
        token_source=None,
        finish_reason=None,
        status=None,
        error=str(optional(request, "info", "error") or "failed") if status == "errored" else None,
        coalesced_chunks=0,
        cancelled=status == "incomplete",
    )


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _metrics(benchmark: Mapping[str, Any]) -> dict[str, dict[str, float | str]]:
    """Of the successful requests, as the tool shows them."""
    found = {name: optional(benchmark, "metrics", name, "successful") for name in _METRICS}
    return {name: _statistics(values, _METRICS[name]) for name, values in found.items() if isinstance(values, dict)}


def _statistics(values: Mapping[str, Any], unit: str) -> dict[str, float | str]:
    percentiles = {f"p{p}": optional(values, "percentiles", f"p{p:02d}") for p in PERCENTILES}
    named = {
        "avg": values.get("mean"),
        "std": values.get("std_dev"),
        "min": values.get("min"),
        "max": values.get("max"),
    }
    return {"unit": unit, **{k: v for k, v in {**named, **percentiles}.items() if isinstance(v, int | float)}}
