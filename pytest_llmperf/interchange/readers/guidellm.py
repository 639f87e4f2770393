"""GuideLLM's JSON: a point per benchmark, with its requests or a sample of them. Pure.

Checked against files of GuideLLM 0.3.1, 0.5.4, 0.7.4 and 0.8.1; before 0.4 a file tells no version. Of a request it
keeps the first and the last token's time, and none between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.definitions import PERCENTILES
from pytest_llmperf.interchange.readers.shared.fields import (
    LARGEST,
    NUMBER,
    ImportFileError,
    check_total,
    level,
    optional,
    pick,
    pick_optional,
    text_at,
)
from pytest_llmperf.interchange.readers.shared.imported import (
    Imported,
    ImportedPoint,
    Totals,
    imported_record,
    in_order,
)
from pytest_llmperf.interchange.readers.shared.statistics import figures
from pytest_llmperf.interchange.readers.shared.unknown import CHUNK_GAPS, because, unless_streamed
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
_STATUSES = ("successful", "errored", "incomplete")
_SAMPLE_SIZES = (("config", "sample_requests"), ("config", "sample_size"), ("request_samples",))
_TEXT = "GuideLLM's first token is the first chunk with text, reasoning or a tool call"


def is_guidellm_report(document: Mapping[str, Any]) -> bool:
    """True if a document is a list of GuideLLM's benchmarks."""
    found = document.get("benchmarks")
    if not isinstance(found, list):
        return False
    marks = {"type_", "metrics", "requests"}
    has_version = optional(document, "metadata", "guidellm_version") is not None
    return has_version or (bool(found) and all(isinstance(one, dict) and marks <= one.keys() for one in found))


def guidellm_report(document: Mapping[str, Any], name: str) -> Imported:
    """All benchmarks of the file, in its order. ImportFileError where one totals other numbers than it holds."""
    found = document["benchmarks"]
    if not found:
        raise ImportFileError(f"{name}: no benchmark in it")
    points = tuple(_point(benchmark, f"{name}: benchmark {place}") for place, benchmark in enumerate(found, start=1))
    model = text_at(found, 0, "config", "backend", "model") or text_at(found, 0, "worker", "backend_model")
    return Imported("guidellm", text_at(document, "metadata", "guidellm_version"), model, points)


@dataclass(frozen=True, slots=True)
class _Request:
    """A request of any version: times in seconds, None where it did not get so far."""

    status: str
    sent: float | None
    first: float | None
    first_output: float | None
    last: float | None
    ended: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    request_id: str
    error: str | None


def _point(benchmark: Any, where: str) -> ImportedPoint:
    listed = pick(benchmark, "requests", kind=dict, where=where)
    stored = [
        _request(request, status, f"{where}: {status} request {place}")
        for status in _STATUSES
        for place, request in enumerate(pick_optional(listed, status, kind=list, where=where) or (), start=1)
    ]
    measured = [request for request in stored if _is_measured(request, benchmark, where)]
    # Measured requests by status: without warm-up and cool-down.
    path = ("metrics", "request_totals") if optional(benchmark, "metrics", "request_totals") else ("request_totals",)
    totals = {status: pick(benchmark, *path, status, kind=int, where=where) for status in _STATUSES}
    sampled = any(optional(benchmark, *path) is not None for path in _SAMPLE_SIZES)
    _check(measured, totals, benchmark, where, sampled=sampled)
    if not measured:
        raise ImportFileError(f"{where}: no request in it")
    good = [request for request in measured if request.status == "successful"]
    many = [request for request in good if (request.output_tokens or 0) > 1]
    streamed = not many or any(request.first != request.last for request in many)
    whole = _of_all(totals, benchmark, where) if sampled else None
    missing = [name for name in CHUNK_GAPS if whole is None or name not in whole.rates]
    metrics = {name: optional(benchmark, "metrics", name, "successful") for name in _METRICS}
    return ImportedPoint(
        metrics={name: _statistics(v, _METRICS[name]) for name, v in metrics.items() if isinstance(v, dict)},
        **_load(benchmark, where),
        runs=(tuple(in_order([_record(request) for request in measured])),),
        totals=whole,
        unknown={
            **because("GuideLLM keeps no times of chunks between the first and the last", *missing),
            **unless_streamed(streamed),
        },
        notes=(_TEXT, *_notes(stored, measured, totals, sampled=sampled)),
    )


def _notes(
    stored: Sequence[_Request], measured: Sequence[_Request], totals: Mapping[str, int], *, sampled: bool
) -> list[str]:
    notes = []
    if len(stored) > len(measured):
        notes.append(f"{len(stored) - len(measured)} requests of warm-up and cool-down were left out")
    if sampled:
        part = sum(request.status == "successful" for request in measured)
        notes.append(
            f"latencies are from a sample of {part} of {totals['successful']} successful requests; counts, error rate "
            "and rates are GuideLLM's over all of them, ramp-up and drain included"
        )
    return notes


def _check(
    measured: Sequence[_Request], totals: Mapping[str, int], benchmark: Any, where: str, *, sampled: bool
) -> None:
    for status, total in totals.items():
        count = sum(request.status == status for request in measured)
        if not sampled or count > total:
            check_total(f"{status} requests", total, count, where)
    if not sampled:
        tokens = sum(request.output_tokens or 0 for request in measured if request.status == "successful")
        stated = optional(benchmark, "metrics", "output_token_count", "successful", "total_sum")
        check_total("output tokens of successful requests", stated, tokens, where)


def _of_all(totals: Mapping[str, int], benchmark: Any, where: str) -> Totals:
    """Counts of all requests, and rates over the tool's window."""
    seconds = pick(benchmark, "duration", kind=NUMBER, where=where)
    sums = {"request_throughput": totals["successful"]}
    counts = {"output_token_throughput": "output_token_count", "input_token_throughput": "prompt_token_count"}
    for ours, name in counts.items():
        stated = pick_optional(benchmark, "metrics", name, "successful", "total_sum", kind=NUMBER, where=where)
        sums |= {} if stated is None else {ours: stated}
    if {"output_token_throughput", "input_token_throughput"} <= sums.keys():
        sums["total_token_throughput"] = sums["output_token_throughput"] + sums["input_token_throughput"]
    rates = {name: value / seconds for name, value in sums.items()} if seconds else {}
    return Totals(totals["successful"], totals["errored"], totals["incomplete"], rates)


def _is_measured(request: _Request, benchmark: Any, where: str) -> bool:
    """True if the tool counts the request: it was in flight at some time between warm-up and cool-down."""
    if not any(optional(benchmark, f"{part}_duration") for part in ("warmup", "cooldown")):
        return True
    begin = pick(benchmark, "scheduler_metrics", "measure_start_time", kind=NUMBER, where=where)
    end = pick(benchmark, "scheduler_metrics", "measure_end_time", kind=NUMBER, where=where)
    ended = request.ended or 0.0
    return bool(ended >= begin and (ended if request.sent is None else request.sent) <= end)


def _load(benchmark: Any, where: str) -> dict[str, Any]:
    strategy = optional(benchmark, "config", "strategy") or optional(benchmark, "args", "strategy") or {}
    kind = text_at(strategy, "type_") or "unknown"
    if ramp := optional(strategy, "rampup_duration"):
        return {"shape": f"{kind}, with a ramp-up of {ramp} s"}
    match kind:
        case "synchronous":
            return {"concurrency": 1}
        case "concurrent":
            return {"concurrency": level(strategy, "streams", kind=int, where=where)}
        case "throughput" if limit := level(strategy, "max_concurrency", kind=int, where=where):
            return {"concurrency": limit}
        case "constant" | "poisson":
            rate = level(strategy, "rate", kind=NUMBER, where=where)
            return {"request_rate": None if rate is None else float(rate)}
        case "throughput":
            return {"shape": "all requests at once"}
        case "unknown":
            return {}
        case _:
            return {"shape": kind}


def _request(request: Any, status: str, where: str) -> _Request:
    old = optional(request, "scheduler_info") is not None
    times = request if old else pick(request, "info", "timings", kind=dict, where=where)
    names = ("request_start", "first_token_iteration", "last_token_iteration")
    names = ("start_time", "first_token_time", "last_token_time") if old else names
    sent, first, last = (_time(times, name, where) for name in names)
    ends = ("end_time",) if old else ("request_end", "resolve_end")
    ended = next((moment for end in ends if (moment := _time(times, end, where)) is not None), sent)
    good = status == "successful"
    if good and sent is None:
        raise ImportFileError(f"{where}: no {names[0]!r}")
    if good and last is None:
        first = last = ended
    error = optional(request, "error") if old else optional(request, "info", "error")
    return _Request(
        status=status,
        sent=sent,
        first=last if first is None else first,
        first_output=_time(times, "first_output_token_iteration", where),
        last=last,
        ended=ended,
        prompt_tokens=pick_optional(request, "prompt_tokens", kind=int, where=where),
        output_tokens=pick_optional(request, "output_tokens", kind=int, where=where) if good else None,
        request_id=str(optional(request, "request_id")),
        error=str(error or "failed") if status == "errored" else None,
    )


def _time(times: Any, name: str, where: str) -> float | None:
    found = pick_optional(times, name, kind=NUMBER, where=where)
    if found is not None and found * 1e9 >= LARGEST:
        raise ImportFileError(f"{where}: {name} is {found!r}, which is no time in seconds")
    return found if found is None else float(found)


def _record(request: _Request) -> RequestRecord:
    good = request.status == "successful"
    seen = (request.first, request.last) if request.first != request.last else (request.last,)
    return imported_record(
        request_id=request.request_id,
        sent_ns=_ns(request.sent),
        chunk_ns=tuple(moment for time in seen if (moment := _ns(time)) is not None) if good else (),
        first_output_ns=_ns(request.first_output) if good else None,
        end_ns=_ns(request.ended) or 0,
        input_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        error=request.error,
        cancelled=request.status == "incomplete",
    )


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)


def _statistics(values: Mapping[str, Any], unit: str) -> dict[str, float | str]:
    percentiles = {f"p{p}": optional(values, "percentiles", f"p{p:02d}") for p in PERCENTILES}
    named = {"avg": "mean", "std": "std_dev", "min": "min", "max": "max"}
    return figures({**{ours: values.get(theirs) for ours, theirs in named.items()}, **percentiles}, unit)
