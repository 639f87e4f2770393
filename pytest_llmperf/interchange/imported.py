"""What another tool's file holds, under one form: its own figures, its requests as ours, or its statistics as ours.

What a file cannot tell about one of our metrics is in `ImportedPoint.unknown` with the reason: it is left out then,
never filled with a figure that means something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.metrics import Distribution
from pytest_llmperf.records import RequestRecord

Tool = Literal["genai-perf", "perf_analyzer", "aiperf", "vllm", "guidellm", "llmperf"]
EXPECTED = (
    "GenAI-Perf's profile_export_genai_perf.json or .csv or analyze_export_genai_perf.csv, perf_analyzer's "
    "profile_export.json, AIPerf's profile_export_aiperf.json or profile_export.jsonl, the JSON of vllm bench serve "
    "--save-result, GuideLLM's JSON, or our requests.csv or requests.parquet"
)

RATES = (
    *("output_token_throughput", "input_token_throughput", "total_token_throughput", "request_throughput"),
    *("output_token_throughput_per_gpu", "concurrency_mean"),
)
"""What depends on when requests were sent and answered, and on the window in which that is counted."""
CHUNK_GAPS = ("ttst", "icl", *(rate for rate in RATES if "token" in rate))
"""What needs the time of every chunk, and not only of the first and the last."""


class ImportFileError(LlmPerfError):
    """The file is of none of the tools, or is damaged; the message names it and the line where there is one."""


@dataclass(frozen=True, slots=True)
class ImportedPoint:
    """One load of a file. Either `runs` hold its requests, or `known` holds statistics over them."""

    metrics: Mapping[str, Mapping[str, float | str]]
    """The tool's own figures by its own names, each with `unit` and statistics (`avg` alone for a rate)."""
    concurrency: int | None = None
    request_rate: float | None = None
    runs: tuple[tuple[RequestRecord, ...], ...] = ()
    """All measured, in the order of sending; due_ns is None."""
    known: Mapping[str, Distribution] = field(default_factory=dict)
    """By our names: statistics whose definition is ours."""
    ok: int = 0
    failed: int = 0
    """Of a point without requests."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """By our names: why the metric cannot be told."""
    notes: tuple[str, ...] = ()
    """What a reader must know about the others."""


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


_TITLES: Mapping[Tool, str] = {
    "genai-perf": "GenAI-Perf",
    "perf_analyzer": "perf_analyzer",
    "aiperf": "AIPerf",
    "vllm": "vllm bench serve",
    "guidellm": "GuideLLM",
    "llmperf": "pytest-llmperf",
}


def because(reason: str, *metrics: str) -> dict[str, str]:
    """Entries of ImportedPoint.unknown."""
    return dict.fromkeys(metrics, reason)


def read_json(text: str, name: str, line: int | None = None) -> dict[str, Any]:
    """The one object that the text holds. ImportFileError names the line where it is damaged."""
    if not text.strip():
        raise ImportFileError(f"{name}: the file is empty; expected {EXPECTED}")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{name}:{line or error.lineno}"
        raise ImportFileError(f"{where}: not JSON, or cut off ({error.msg}, column {error.colno})") from error
    if not isinstance(found, dict):
        raise ImportFileError(f"{name}: a JSON {type(found).__name__} and not an object; expected {EXPECTED}")
    return found


def pick(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> Any:
    """What is at a path of JSON data. ImportFileError says where it should be and what, when it is not."""
    found, shown = data, ".".join(map(str, path))
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            raise ImportFileError(f"{where}: no {shown!r}") from None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ImportFileError(f"{where}: {shown} is {found!r:.60}, not of type {wanted}")
    return found


NUMBER = (int, float)


def optional(data: Any, *path: str | int) -> Any:
    """What is at a path of JSON data; None when it is not there."""
    found = data
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def in_order(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """By the time of sending."""
    return sorted(records, key=lambda record: record.sent_ns or record.end_ns)
