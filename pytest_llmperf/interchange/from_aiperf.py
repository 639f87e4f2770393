"""AIPerf's files: `profile_export_aiperf.json` (statistics) and `profile_export.jsonl` (a line per request). Pure.

Checked against files of AIPerf 0.13.0. Its times are ours as far as chunks with text go; its token counts are ours
where they are the server's (`usage_*`), and else the client's tokenizer's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from pytest_llmperf.interchange.imported import (
    NUMBER,
    RATES,
    Imported,
    ImportedPoint,
    ImportFileError,
    because,
    in_order,
    optional,
    pick,
    read_json,
)
from pytest_llmperf.interchange.statistics import pooled, statistics, theirs
from pytest_llmperf.records import RequestRecord

OWN_MARK = "pytest-llmperf"
_TIMES = {
    "ttft": "time_to_first_token",
    "ttfo": "time_to_first_output_token",
    "ttst": "time_to_second_token",
    "icl": "inter_chunk_latency",
    "e2e": "request_latency",
}
_COUNTS = {"input_tokens": "usage_prompt_tokens", "output_tokens": "usage_completion_tokens"}
_TEXT = (
    "AIPerf's first token is the first chunk with text: where a server streams tokens without text, its times to the "
    "first and from the last token are other than ours"
)
_TOKENIZER = "AIPerf counted tokens with its own tokenizer, and the file does not say that the server agrees"


def aiperf_summary(document: Mapping[str, Any], name: str) -> Imported:
    """`profile_export_aiperf.json`."""
    metrics = theirs(document)
    if "request_latency" not in metrics:
        raise ImportFileError(f"{name}: no 'request_latency', which every profile_export_aiperf.json has")
    agreed = optional(document, "usage_discrepancy_count", "avg") == 0
    names = {**_TIMES, **_COUNTS, **({"itl": "inter_token_latency", "tpot": "inter_token_latency"} if agreed else {})}
    ok = int(optional(document, "request_count", "avg") or 0)
    point = ImportedPoint(
        metrics=metrics,
        **_load(document),
        known=statistics(metrics, names, ok, name),
        ok=ok,
        failed=int(optional(document, "error_request_count", "avg") or 0),
        unknown={
            **because("the file has no single requests, so that they cannot be counted in our window", *RATES),
            **({} if agreed else because(_TOKENIZER, "itl", "tpot")),
        },
        notes=(_TEXT,),
    )
    return Imported("aiperf", _version(document), _model(document), (point,))


def aiperf_lines(text: str, name: str, beside: Mapping[str, Any] | None) -> Imported:
    """`profile_export.jsonl`; `beside`, the `profile_export_aiperf.json` of the same run, names load and model."""
    lines = [(n, read_json(line, name, n)) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    measured = [(n, line) for n, line in lines if optional(line, "metadata", "benchmark_phase") != "warmup"]
    runs: dict[str, list[RequestRecord]] = {}
    for number, line in measured:
        runs.setdefault(_run_of(line), []).append(_record(line, f"{name}:{number}"))
    point = ImportedPoint(
        metrics=pooled(line for _, line in measured),
        **_load(beside or {}),
        runs=tuple(tuple(in_order(records)) for records in runs.values()),
        unknown=because("AIPerf's prompts are counted without the chat template", "input_tokens")
        if any(record.ok and record.input_tokens is None for records in runs.values() for record in records)
        else {},
        notes=(_TEXT,),
    )
    return Imported("aiperf", _version(beside or {}), _model(beside or {}), (point,))


def _run_of(line: Mapping[str, Any]) -> str:
    """Our own exports hold all runs of a point; AIPerf's hold one."""
    own = optional(line, "metadata", "record_processor_id") == OWN_MARK
    return str(optional(line, "metadata", "worker_id")) if own else ""


def _record(line: Mapping[str, Any], where: str) -> RequestRecord:
    sent_ns = pick(line, "metadata", "request_start_ns", kind=int, where=where)
    end_ns = pick(line, "metadata", "request_end_ns", kind=int, where=where)
    metrics = pick(line, "metrics", kind=dict, where=where)
    cancelled = bool(optional(line, "metadata", "was_cancelled"))
    error, chunks = None if cancelled else _error(line), _chunks(metrics, sent_ns, where)
    if error is None and not cancelled and not chunks:
        raise ImportFileError(f"{where}: a request without 'error' has no 'request_latency'")
    usage, counted = _count(metrics, "usage_completion_tokens"), _count(metrics, "output_sequence_length")
    first_output = optional(metrics, "time_to_first_output_token", "value")
    prompt = _count(metrics, "usage_prompt_tokens")
    return RequestRecord(
        index=0,
        phase="measured",
        request_id=str(optional(line, "metadata", "x_request_id")),
        due_ns=None,
        sent_ns=sent_ns,
        chunk_ns=chunks,
        chunk_tokens=None,
        first_output_ns=None if first_output is None else sent_ns + round(first_output * 1e6),
        end_ns=end_ns,
        input_tokens=prompt,
        output_tokens=counted if usage is None else usage,
        requested_output_tokens=0,
        token_source="tokenizer" if usage is None else "usage",
        finish_reason=None,
        status=optional(line, "error", "code"),
        error=error,
        coalesced_chunks=0,
        cancelled=cancelled,
        input_tokens_source=None if prompt is None else "usage",
        turn=optional(line, "metadata", "turn_index") or 0,
    )


def _chunks(metrics: Mapping[str, Any], sent_ns: int, where: str) -> tuple[int, ...]:
    """Receive times of the chunks with text; the whole answer as one where it was not streamed."""
    if "request_latency" not in metrics:
        return ()
    whole = pick(metrics, "request_latency", "value", kind=NUMBER, where=where)
    first = optional(metrics, "time_to_first_token", "value")
    gaps = optional(metrics, "inter_chunk_latency", "value") or []
    if not isinstance(gaps, list):
        raise ImportFileError(f"{where}: metrics.inter_chunk_latency.value is {gaps!r:.60}, not of type list")
    waits = itertools.accumulate(gaps, initial=whole if first is None else first)
    return tuple(sent_ns + round(wait * 1e6) for wait in waits)


def _count(metrics: Mapping[str, Any], metric: str) -> int | None:
    value = optional(metrics, metric, "value")
    return None if value is None else int(value)


def _error(line: Mapping[str, Any]) -> str | None:
    found = line.get("error")
    if not found:
        return None
    return str(optional(found, "message") or optional(found, "type") or "failed")


def _load(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of the last phase, which is the profiled one."""
    phase = optional(document, "input_config", "phases", -1)
    rate = optional(phase, "rate")
    return {"concurrency": None if rate else optional(phase, "concurrency"), "request_rate": rate}


def _model(document: Mapping[str, Any]) -> str | None:
    name: str | None = optional(document, "input_config", "models", "items", 0, "name")
    return name


def _version(document: Mapping[str, Any]) -> str | None:
    version: str | None = optional(document, "aiperf_version")
    return version
