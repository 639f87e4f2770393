"""What another tool's file holds, under one form: its own figures, its requests as ours, or its statistics as ours.

What a file cannot tell about one of our metrics is in `ImportedPoint.unknown` with the reason: it is left out then,
never filled with a figure that means something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_llmperf.definitions import METRICS
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.metrics.summary import Distribution
from pytest_llmperf.records import RequestRecord

Tool = Literal["genai-perf", "perf_analyzer", "aiperf", "vllm", "sglang", "guidellm", "llmperf"]
EXPECTED = (
    "GenAI-Perf's profile_export_genai_perf.json or .csv or analyze_export_genai_perf.csv, perf_analyzer's "
    "profile_export.json, AIPerf's profile_export_aiperf.json or .csv or profile_export.jsonl, the JSON of vllm bench "
    "serve --save-result, the JSONL of sglang.bench_serving, GuideLLM's JSON, or our requests.csv or requests.parquet"
)

# goodput has limits, which no file brings.
RATES = tuple(name for name, metric in METRICS.items() if metric.rate and name != "goodput")
"""What depends on when requests were sent and answered, and on the window in which that is counted."""
CHUNK_GAPS = tuple(name for name, metric in METRICS.items() if "chunks" in metric.needs)
"""What needs the time of every chunk, and not only of the first and the last."""
WITHIN_ANSWER = tuple(
    name for name, metric in METRICS.items() if not metric.rate and {"first token", "chunks"} & {*metric.needs}
)
"""What needs a time before the answer's end."""
UNSTREAMED = "answers were not streamed: the file holds the time of the whole answer only"
LARGEST = 2**63
"""Above any time in ns and any count that a file can mean."""


class ImportFileError(LlmPerfError):
    """The file is of none of the tools, or is damaged; the message names it and the line where there is one."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts and rates of a whole run of which the file holds only a sample of the requests."""

    ok: int
    failed: int
    cancelled: int
    rates: Mapping[str, float]
    """By our names."""


@dataclass(frozen=True, slots=True)
class ImportedPoint:
    """One load of a file. Either `runs` hold its requests, or `known` holds statistics over them."""

    metrics: Mapping[str, Mapping[str, float | str]]
    """The tool's own figures by its own names, each with `unit` and statistics (`avg` alone for a rate)."""
    concurrency: int | None = None
    request_rate: float | None = None
    max_in_flight: int | None = None
    """Of a rate: no more requests than these were in flight."""
    shape: str | None = None
    """The load where it is neither one concurrency nor one rate, as `ramp from 2 to 50 req/s`; else None."""
    runs: tuple[tuple[RequestRecord, ...], ...] = ()
    """All measured, in the order of sending; due_ns is None."""
    totals: Totals | None = None
    """Of a point whose `runs` are a sample; None where they are all requests."""
    known: Mapping[str, Distribution] = field(default_factory=dict)
    """By our names: statistics whose definition is ours."""
    ok: int = 0
    failed: int = 0
    """Of a point without requests."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """By our names: why the metric cannot be told."""
    notes: tuple[str, ...] = ()
    """What a reader must know about the others."""

    @property
    def names_load(self) -> bool:
        """Whether the file says what was sent."""
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
        """What to tell of a version that is newer than those that reading was tested with; None of others."""
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
"""Of the tools that write their version."""


def _numbers(version: str) -> tuple[int, ...]:
    """`0.13.0` as numbers that compare; empty for a version that begins with none."""
    numbers = []
    for part in version.split("."):
        if not (part.isascii() and part.isdigit()):
            break
        numbers.append(int(part[:9]))
    return tuple(numbers)


def because(reason: str, *metrics: str) -> dict[str, str]:
    """Entries of ImportedPoint.unknown."""
    return dict.fromkeys(metrics, reason)


NUMBER = (int, float)
"""Finite and not negative, as every time and count of these files is."""


def pick(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> Any:
    """The value at a path of JSON data. ImportFileError says where it should be and what, when it is not; numbers are
    finite and not negative."""
    found, shown = data, ".".join(map(str, path))
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            raise ImportFileError(f"{where}: no {shown!r}") from None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ImportFileError(f"{where}: {shown} is {found!r:.60}, not of type {wanted}")
    if isinstance(found, int | float) and kind is not bool and not is_number(found):
        raise ImportFileError(f"{where}: {shown} is {found!r:.60}, no time or count")
    return found


def pick_optional(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> Any:
    """`pick`, or None where there is nothing, or null."""
    return None if optional(data, *path) is None else pick(data, *path, kind=kind, where=where)


def is_number(value: Any) -> bool:
    """Whether a value can be a time or a count."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LARGEST


def optional(data: Any, *path: str | int) -> Any:
    """The value at a path of JSON data; None when it is not there."""
    found = data
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def text_at(data: Any, *path: str | int) -> str | None:
    """A name at a path of JSON data; None when it is not there or no text."""
    found = optional(data, *path)
    return found if isinstance(found, str) and found else None


def level(data: Any, *path: str | int, kind: type | tuple[type, ...], where: str) -> Any:
    """A concurrency or a rate: above 0, or None where it is not there, or null."""
    found = pick_optional(data, *path, kind=kind, where=where)
    if found == 0:
        raise ImportFileError(f"{where}: {path[-1]} is 0, which is no load")
    return found


def in_order(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """By the time of sending."""
    return sorted(records, key=lambda record: record.sent_ns or record.end_ns)


def check_total(what: str, told: Any, read: float, where: str, *, rounding: float = 0.0) -> None:
    """Raises ImportFileError where the file's own total (nothing is checked of None) is not what was read; `rounding`
    is the relative difference that writing the numbers can make."""
    if told is None:
        return
    if not is_number(told):
        raise ImportFileError(f"{where}: the total of {what} is {told!r:.60}, no number")
    if not math.isclose(told, read, rel_tol=max(rounding, 1e-6), abs_tol=1e-9):
        raise ImportFileError(f"{where}: it totals {told:.10g} {what}, and {read:.10g} were read")
