"""GenAI-Perf's files: summary as JSON or CSV, and the CSV of `analyze`. Pure.

Checked against files of genai-perf 0.0.16 with perf_analyzer 2.60. In its summaries only chunks with an answer count,
no reasoning, so its time to the first token is our `ttfo`; its tokens are counted by the client's tokenizer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_llmperf.interchange.readers.shared.fields import (
    NUMBER,
    ImportFileError,
    is_number,
    level,
    optional,
    pick_optional,
    text_at,
)
from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint
from pytest_llmperf.interchange.readers.shared.statistics import Figures, statistics, theirs
from pytest_llmperf.interchange.readers.shared.tables import cells, number, read_rows, read_tables, untitled
from pytest_llmperf.interchange.readers.shared.unknown import RATES, because, unless_streamed

_NAMES = {"ttfo": "time_to_first_token", "e2e": "request_latency"}
_REASONING = "GenAI-Perf's first token is the first of the answer: reasoning does not count, so it is our ttfo"
_TOKENIZER = "GenAI-Perf counts tokens with the client's tokenizer, and without reasoning"
_NO_REQUESTS = "the file has no single requests; perf_analyzer's profile_export.json beside it has them"
_ANALYZED = {"p99": "p99", "Avg.": "avg"}
_LATENCY = "GenAI-Perf's request latency ends at the last chunk with text"


def is_genai_perf_summary(document: Mapping[str, Any]) -> bool:
    """True if a document has GenAI-Perf's configuration and statistics."""
    config = document.get("input_config")
    return isinstance(config, dict) and {"model_names", "perf_analyzer"} <= config.keys()


def genai_perf_summary(document: Mapping[str, Any], name: str) -> Imported:
    """`profile_export_genai_perf.json`."""
    config = document["input_config"]
    # In a sweep the tool writes the configuration that it began with into the file of every point.
    swept = config.get("subcommand") == "analyze"
    stimulus = (not swept and optional(config, "perf_analyzer", "stimulus")) or {}
    concurrency = level(stimulus, "concurrency", kind=int, where=name)
    request_rate = level(stimulus, "request_rate", kind=NUMBER, where=name)
    point = _summary(theirs(document, name), name, concurrency, request_rate)
    return Imported("genai-perf", None, text_at(config, "model_names", 0), (point,))


def _summary(metrics: Figures, name: str, concurrency: int | None, request_rate: float | None) -> ImportedPoint:
    if "request_latency" not in metrics:
        raise ImportFileError(f"{name}: no request latency, which every summary of GenAI-Perf has")
    ok = int(pick_optional(metrics, "request_count", "avg", kind=NUMBER, where=name) or 0)
    return ImportedPoint(
        metrics=metrics,
        concurrency=concurrency,
        request_rate=request_rate,
        known=statistics(metrics, _NAMES, ok, name),
        ok=ok,
        unknown={
            **because(_REASONING, "ttft", "ttst", "service_ttft"),
            **because(_TOKENIZER, "itl", "tpot", "output_tokens", "input_tokens"),
            **because(_NO_REQUESTS, "icl", *RATES),
            **because("GenAI-Perf counts failed requests as requests", "error_rate"),
            **unless_streamed("time_to_first_token" in metrics),
        },
        notes=(_LATENCY,),
    )


def genai_perf_csv(text: str, name: str) -> Imported:
    """`profile_export_genai_perf.csv`: the same with two decimals, without load and model."""
    return Imported("genai-perf", None, None, (_summary(read_tables(text, name), name, None, None),))


def analyze_csv(text: str, name: str) -> Imported:
    """`analyze_export_genai_perf.csv`: a point per row of its first table, with one statistic per metric."""
    rows = list(enumerate(read_rows(text, name), start=1))
    header = rows[0][1]
    table = list(itertools.takewhile(lambda numbered: numbered[1], rows[1:]))
    if not table:
        raise ImportFileError(f"{name}: no row below the header of the first table")
    points = tuple(_analyzed(header, row, f"{name}:{line}") for line, row in table)
    return Imported("genai-perf", None, table[0][1][0].rpartition("_run_config_")[0] or None, points)


def _analyzed(header: Sequence[str], row: Sequence[str], where: str) -> ImportedPoint:
    if len(row) != len(header) or len(row) < 3:
        raise ImportFileError(f"{where}: {len(row)} cells, and {len(header)} columns")
    metrics: dict[str, dict[str, float | str]] = {}
    for title, value in cells(header[3:], row[3:], where).items():
        stat, _, rest = title.partition(" ")
        metric, unit = untitled(rest if stat in _ANALYZED else title)
        metrics[metric] = {"unit": unit, _ANALYZED.get(stat, "avg"): value}
    load = number(row[1], where) if row[1] else None
    closed = header[1] == "Concurrency"
    if load is not None and not (is_number(load) and load and (not closed or load == int(load))):
        raise ImportFileError(f"{where}: {header[1]} is {row[1]!r}, which is no load")
    return _summary(metrics, where, int(load) if closed and load else None, None if closed else load)
