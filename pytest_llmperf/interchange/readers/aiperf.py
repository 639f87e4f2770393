"""AIPerf's files: `profile_export_aiperf.json` and `.csv` (statistics), `profile_export.jsonl` (requests). Pure.

Checked against files of AIPerf 0.3.0, 0.6.0 and 0.13.0. Its times are ours as far as chunks with text go; its token
counts are ours where they are the server's (`usage_*`), and else the client's tokenizer's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_llmperf.interchange.readers.shared.documents import read_json
from pytest_llmperf.interchange.readers.shared.fields import (
    NUMBER,
    ImportFileError,
    check_total,
    is_number,
    level,
    optional,
    pick,
    pick_list,
    pick_optional,
    text_at,
)
from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint, imported_record, in_order
from pytest_llmperf.interchange.readers.shared.statistics import Figures, in_ms, pooled, statistics, theirs
from pytest_llmperf.interchange.readers.shared.tables import read_tables
from pytest_llmperf.interchange.readers.shared.unknown import RATES, because, unless_streamed
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
_CLOCKS_MS = 5.0
"""Largest difference between the clock of the start and the end, which is set to the hour, and that of the
latencies.
"""
_NO_REQUESTS = "the file has no single requests, so that they cannot be counted in our window"


def is_aiperf_summary(document: Mapping[str, Any]) -> bool:
    """True if a document is AIPerf's: its version came with 0.6, its error summary and its configuration before."""
    if "error_summary" not in document or "was_cancelled" not in document:
        return False
    config = document.get("input_config")
    return "aiperf_version" in document or (isinstance(config, dict) and {"loadgen", "endpoint"} <= config.keys())


def is_aiperf_line(line: Any) -> bool:
    """True if an object is a line of AIPerf's JSONL."""
    metadata = optional(line, "metadata")
    has_times = isinstance(metadata, dict) and {"request_start_ns", "request_end_ns"} <= metadata.keys()
    return has_times and isinstance(optional(line, "metrics"), dict)


def aiperf_summary(document: Mapping[str, Any], name: str) -> Imported:
    """`profile_export_aiperf.json`."""
    metrics = theirs(document, name)
    used = pick_optional(document, "input_config", "endpoint", "use_server_token_count", kind=bool, where=name)
    version = text_at(document, "aiperf_version")
    own = (version or "").startswith(OWN_MARK)
    point = _summary(metrics, _load(document, name), name, counted_by_server=bool(used or own))
    if not own:
        check_total("failed requests", _listed_errors(document), point.failed, name)
    return Imported("aiperf", version, _model(document), (point,))


def _listed_errors(document: Mapping[str, Any]) -> int | None:
    """Errors that are listed one kind after another; None where none is."""
    listed = document["error_summary"]
    counts = [optional(error, "count") for error in listed] if isinstance(listed, list) else []
    return sum(counts) if counts and all(map(is_number, counts)) else None


def aiperf_csv(text: str, name: str) -> Imported:
    """`profile_export_aiperf.csv`: the same with two decimals, without load and model."""
    return Imported("aiperf", None, None, (_summary(read_tables(text, name), {}, name, counted_by_server=False),))


def _summary(metrics: Figures, load: Mapping[str, Any], name: str, *, counted_by_server: bool) -> ImportedPoint:
    counts = ("request_count", "error_request_count")
    ok, failed = (int(pick_optional(metrics, count, "avg", kind=NUMBER, where=name) or 0) for count in counts)
    if not ok and not failed:
        raise ImportFileError(f"{name}: neither a request that succeeded nor one that failed, of which AIPerf has one")
    if ok and "request_latency" not in metrics:
        raise ImportFileError(f"{name}: no 'request_latency', which every file of AIPerf with a success has")
    # Server and tokenizer counted alike in every request; the CSV has the difference under another name.
    differences = ("usage_completion_tokens_diff_pct", "usage_completion_diff_%")
    agreed = counted_by_server or any(optional(metrics, title, "max") == 0 for title in differences)
    names = {**_TIMES, **_COUNTS, **({"itl": "inter_token_latency", "tpot": "inter_token_latency"} if agreed else {})}
    streamed = "time_to_first_token" in metrics or not ok
    return ImportedPoint(
        metrics=metrics,
        **load,
        known=statistics(metrics, names, ok, name),
        ok=ok,
        failed=failed,
        unknown={
            **because(_NO_REQUESTS, *RATES),
            **({} if agreed else because(_TOKENIZER, "itl", "tpot")),
            **unless_streamed(streamed),
        },
        notes=(_TEXT,),
    )


def aiperf_lines(text: str, name: str, beside: Mapping[str, Any] | None) -> Imported:
    """`profile_export.jsonl`; `beside`, the `profile_export_aiperf.json` of the same run, names load and model."""
    lines = [(n, read_json(line, name, n)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    measured = [(n, line) for n, line in lines if optional(line, "metadata", "benchmark_phase") != "warmup"]
    if not measured:
        raise ImportFileError(f"{name}: all of its {len(lines)} requests are of the warm-up")
    runs: dict[str, list[RequestRecord]] = {}
    for number, line in measured:
        run = str(optional(line, "metadata", "worker_id")) if _is_own(line) else ""
        runs.setdefault(run, []).append(_record(line, f"{name}:{number}"))
    records = [record for run in runs.values() for record in run]
    if beside is not None and not any(_is_own(line) for _, line in measured):
        _check_beside(records, beside, name)
    good = [line for (_, line), record in zip(measured, records, strict=True) if record.ok]
    warmup = len(lines) - len(measured)
    point = ImportedPoint(
        metrics=pooled(line for _, line in measured),
        **_load(beside or {}, f"the summary beside {name}"),
        runs=tuple(tuple(in_order(run)) for run in runs.values()),
        unknown=_unknown(good, records),
        notes=(_TEXT, f"{warmup} requests of the warm-up were left out") if warmup else (_TEXT,),
    )
    return Imported("aiperf", text_at(beside, "aiperf_version"), _model(beside or {}), (point,))


def _unknown(good: Sequence[Mapping[str, Any]], records: Sequence[RequestRecord]) -> dict[str, str]:
    templated = any(record.ok and record.input_tokens is None for record in records)
    streamed = all(optional(line, "metrics", "time_to_first_token", "value") is not None for line in good)
    return {
        **(because("AIPerf's prompts are counted without the chat template", "input_tokens") if templated else {}),
        **unless_streamed(streamed),
    }


def _check_beside(records: Sequence[RequestRecord], beside: Mapping[str, Any], name: str) -> None:
    """The summary counts what it calls an error, in which broken-off requests may be, and else successes."""
    ok = sum(record.ok for record in records)
    failed = sum(record.error is not None for record in records)
    stated = optional(beside, "error_request_count", "avg")
    where = f"{name}, by the summary beside it"
    check_total("requests that succeeded", optional(beside, "request_count", "avg"), ok, where)
    if stated != len(records) - ok:
        check_total("requests that failed", stated, failed, where)


def _is_own(line: Mapping[str, Any]) -> bool:
    """True if our own export wrote the line: ours holds all runs of a point, AIPerf's holds one."""
    return bool(optional(line, "metadata", "record_processor_id") == OWN_MARK)


def _record(line: Mapping[str, Any], where: str) -> RequestRecord:
    sent_ns = pick(line, "metadata", "request_start_ns", kind=int, where=where)
    end_ns = pick(line, "metadata", "request_end_ns", kind=int, where=where)
    metrics = pick(line, "metrics", kind=dict, where=where)
    cancelled = bool(optional(line, "metadata", "was_cancelled"))
    found, chunks = None if cancelled else line.get("error"), _chunks(metrics, sent_ns, where)
    error = str(optional(found, "message") or optional(found, "type") or "failed") if found else None
    if error is None and not cancelled:
        _check_end(metrics, chunks, end_ns - sent_ns, sent_ns, where)
        if not chunks:
            raise ImportFileError(f"{where}: a request without 'error' has no 'request_latency'")
    usage = _count(metrics, "usage_completion_tokens", where)
    counted = _count(metrics, "output_sequence_length", where)
    first_output = _time(metrics, "time_to_first_output_token", where)
    prompt = _count(metrics, "usage_prompt_tokens", where)
    code = optional(line, "error", "code")
    return imported_record(
        request_id=str(optional(line, "metadata", "x_request_id")),
        sent_ns=sent_ns,
        chunk_ns=chunks,
        first_output_ns=None if first_output is None else sent_ns + round(first_output * 1e6),
        end_ns=end_ns,
        input_tokens=prompt,
        output_tokens=counted if usage is None else usage,
        token_source="tokenizer" if usage is None else "usage",
        status=code if isinstance(code, int) else None,
        error=error,
        cancelled=cancelled,
        input_tokens_source=None if prompt is None else "usage",
        turn=pick_optional(line, "metadata", "turn_index", kind=int, where=where) or 0,
    )


def _chunks(metrics: Mapping[str, Any], sent_ns: int, where: str) -> tuple[int, ...]:
    """Receive times of the chunks with text; the whole answer as one where it was not streamed."""
    if "request_latency" not in metrics:
        return ()
    pick(metrics, "request_latency", "value", kind=NUMBER, where=where)
    first = _time(metrics, "time_to_first_token", where)
    gaps: list[float] = []
    if optional(metrics, "inter_chunk_latency", "value") is not None:
        gaps = pick_list(metrics["inter_chunk_latency"], "value", kind=NUMBER, where=f"{where}: inter_chunk_latency")
    factor = _factor(metrics, "inter_chunk_latency", where) if gaps else 1.0
    times = [gap * factor for gap in gaps]
    waits = itertools.accumulate(times, initial=_time(metrics, "request_latency", where) if first is None else first)
    return tuple(sent_ns + round(wait * 1e6) for wait in waits)


def _check_end(metrics: Mapping[str, Any], chunks: Sequence[int], took_ns: int, sent_ns: int, where: str) -> None:
    """Raises ImportFileError where a request's latency or first token is later than its end."""
    most_ms = took_ns / 1e6 * 1.01 + _CLOCKS_MS
    if (whole := _time(metrics, "request_latency", where)) is not None and whole > most_ms:
        raise ImportFileError(f"{where}: a latency of {whole:.6g} ms in a request that took {took_ns / 1e6:.6g} ms")
    if chunks and (first := (chunks[0] - sent_ns) / 1e6) > most_ms:
        raise ImportFileError(f"{where}: a first token after {first:.6g} ms in a request of {took_ns / 1e6:.6g} ms")


def _time(metrics: Mapping[str, Any], metric: str, where: str) -> float | None:
    """Value of a metric in ms; None where it is not there."""
    value = pick_optional(metrics, metric, "value", kind=NUMBER, where=where)
    return None if value is None else value * _factor(metrics, metric, where)


def _factor(metrics: Mapping[str, Any], metric: str, where: str) -> float:
    return in_ms(optional(metrics, metric, "unit"), f"{where}: {metric}")


def _count(metrics: Mapping[str, Any], metric: str, where: str) -> int | None:
    value = pick_optional(metrics, metric, "value", kind=NUMBER, where=where)
    return None if value is None else int(value)


def _load(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The load of the last phase, which is the profiled one; before 0.13 of the load generator."""
    phase = optional(document, "input_config", "phases", -1) or optional(document, "input_config", "loadgen")
    if not isinstance(phase, dict):
        return {}
    if shape := _shape(phase) or (optional(document, "input_config", "input", "fixed_schedule") and "fixed schedule"):
        return {"shape": shape}
    keys = [key for key in ("rate", "request_rate") if phase.get(key) is not None]
    if keys:
        return {"request_rate": float(level(phase, keys[0], kind=NUMBER, where=where))}
    return {"concurrency": level(phase, "concurrency", kind=int, where=where)}


_STEADY = ("concurrency", "constant", "poisson", "gamma", None)


def _shape(phase: Mapping[str, Any]) -> str | None:
    """The shape of a load that is neither one concurrency nor one rate; None for those two."""
    ramps = [f"{key} {value}" for key, value in phase.items() if "ramp" in str(key) and value]
    if ramps:
        return f"a ramp ({', '.join(ramps)})"
    if phase.get("type") not in _STEADY:
        return f"{phase['type']}"
    return next((f"{key} {value}" for key, value in phase.items() if key.startswith("user_centric") and value), None)


def _model(document: Mapping[str, Any]) -> str | None:
    config = document.get("input_config")
    return text_at(config, "models", "items", 0, "name") or text_at(config, "endpoint", "model_names", 0)
