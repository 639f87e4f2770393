"""The content of another tool's file, under one form: its own figures, its requests as ours, or its statistics as ours.

What a file does not hold for one of our metrics is in `ImportedPoint.unknown` with the reason: it is left out then,
never filled with a figure that means something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_llmperf.metrics.summary import Distribution
from pytest_llmperf.records import RequestRecord

Tool = Literal["genai-perf", "perf_analyzer", "aiperf", "vllm", "sglang", "guidellm", "llmperf"]
EXPECTED = (
    "GenAI-Perf's profile_export_genai_perf.json or .csv or analyze_export_genai_perf.csv, perf_analyzer's "
    "profile_export.json, AIPerf's profile_export_aiperf.json or .csv or profile_export.jsonl, the JSON of vllm bench "
    "serve --save-result, the JSONL of sglang.bench_serving, GuideLLM's JSON, or our requests.csv or requests.parquet"
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts and rates of a whole run of which the file holds only a sample of the requests."""

    ok: int
    failed: int
    cancelled: int
    rates: Mapping[str, float]
    """Rates by our names of the metrics."""


@dataclass(frozen=True, slots=True)
class ImportedPoint:
    """One load of a file. Either `runs` hold its requests, or `known` holds statistics over them."""

    metrics: Mapping[str, Mapping[str, float | str]]
    """The tool's own figures by its own names, each with `unit` and statistics (`avg` alone for a rate)."""
    concurrency: int | None = None
    request_rate: float | None = None
    max_in_flight: int | None = None
    """The most requests in flight, of a load with a rate."""
    shape: str | None = None
    """The load where it is neither one concurrency nor one rate, as `ramp from 2 to 50 req/s`; else None."""
    runs: tuple[tuple[RequestRecord, ...], ...] = ()
    """All measured, in the order of sending; due_ns is None."""
    totals: Totals | None = None
    """Counts and rates over all requests where `runs` are a sample; None where they are all."""
    known: Mapping[str, Distribution] = field(default_factory=dict)
    """Statistics whose definition is ours, by our names."""
    ok: int = 0
    failed: int = 0
    """Counts of a point without requests."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Reasons why the file does not give a metric, by our names."""
    notes: tuple[str, ...] = ()
    """Facts that a reader must know about the figures."""

    @property
    def names_load(self) -> bool:
        """True if the file says which load was sent."""
        return any(fact is not None for fact in (self.concurrency, self.request_rate, self.shape))


@dataclass(frozen=True, slots=True)
class Imported:
    """A file that was read."""

    tool: Tool
    version: str | None
    model: str | None
    points: tuple[ImportedPoint, ...]

    @property
    def source(self) -> str:
        """`AIPerf 0.13.0`."""
        return f"{_TITLES[self.tool]} {self.version}" if self.version else _TITLES[self.tool]

    @property
    def version_note(self) -> str | None:
        """A note on a version that is newer than those that reading was tested with; None of others."""
        newest = NEWEST_TESTED.get(self.tool)
        if newest is None or self.version is None or _numbers(self.version) <= _numbers(newest):
            return None
        return (
            f"written by {self.source}, which is newer than what was tested ({newest}): read as far as its marks hold"
        )


_TITLES: Mapping[Tool, str] = {
    "genai-perf": "GenAI-Perf",
    "perf_analyzer": "perf_analyzer",
    "aiperf": "AIPerf",
    "vllm": "vllm bench serve",
    "sglang": "SGLang bench_serving",
    "guidellm": "GuideLLM",
    "llmperf": "pytest-llmperf",
}
NEWEST_TESTED: Mapping[Tool, str] = {"aiperf": "0.13.0", "guidellm": "0.8.1"}
"""Newest tested version of each tool that writes its own."""


def _numbers(version: str) -> tuple[int, ...]:
    """`0.13.0` as numbers that compare; empty for a version that begins with none."""
    numbers = []
    for part in version.split("."):
        if not (part.isascii() and part.isdigit()):
            break
        numbers.append(int(part[:9]))
    return tuple(numbers)


def imported_record(*, sent_ns: int | None, end_ns: int, **known: Any) -> RequestRecord:
    """A measured request of which another tool's file holds these facts, and no others."""
    unknown: dict[str, Any] = {
        **dict.fromkeys(("due_ns", "chunk_tokens", "first_output_ns", "input_tokens", "output_tokens"), None),
        **dict.fromkeys(("token_source", "finish_reason", "status", "error"), None),
        "index": 0,
        "phase": "measured",
        "request_id": "",
        "requested_output_tokens": 0,
        "coalesced_chunks": 0,
    }
    return RequestRecord(**unknown | known, sent_ns=sent_ns, end_ns=end_ns)


def in_order(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """The records in the order of sending."""
    return sorted(records, key=lambda record: record.sent_ns or record.end_ns)
