"""GenAI-Perf's files: summary as JSON or CSV, the CSV of `analyze`, and the requests that perf_analyzer wrote. Pure.

Checked against files of genai-perf 0.0.16 with perf_analyzer 2.60. In its summaries only chunks with an answer count,
no reasoning, so its time to the first token is our `ttfo`; its tokens are counted by the client's tokenizer.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
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
)
from pytest_llmperf.interchange.statistics import Figures, statistics, theirs
from pytest_llmperf.load.capture import Capture
from pytest_llmperf.load.endpoints import ENDPOINTS
from pytest_llmperf.load.interpret import interpret
from pytest_llmperf.load.prompts import PlannedRequest
from pytest_llmperf.records import RequestRecord

_NAMES = {"ttfo": "time_to_first_token", "e2e": "request_latency"}
_REASONING = "GenAI-Perf's first token is the first of the answer: reasoning does not count, so it is our ttfo"
_TOKENIZER = "GenAI-Perf counts tokens with the client's tokenizer, and without reasoning"
_NO_REQUESTS = "the file has no single requests; perf_analyzer's profile_export.json beside it has them"
_LATENCY = "GenAI-Perf's request latency ends at the last chunk with text"
Count = Callable[[str], int]


def genai_perf_summary(document: Mapping[str, Any], name: str) -> Imported:
    """`profile_export_genai_perf.json`."""
    config = document.get("input_config") or {}
    # In a sweep the tool writes the configuration that it began with into the file of every point.
    swept = config.get("subcommand") == "analyze"
    stimulus = (not swept and optional(config, "perf_analyzer", "stimulus")) or {}
    point = _summary(theirs(document), name, stimulus.get("concurrency"), stimulus.get("request_rate"))
    return Imported("genai-perf", None, optional(config, "model_names", 0), (point,))


def _summary(metrics: Figures, name: str, concurrency: int | None, request_rate: float | None) -> ImportedPoint:
    if "request_latency" not in metrics:
        raise ImportFileError(f"{name}: no request latency, which every summary of GenAI-Perf has")
    ok = int(float(metrics.get("request_count", {}).get("avg", 0)))
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
        },
        notes=(_LATENCY,),
    )


# CSV


def genai_perf_csv(text: str, name: str) -> Imported:
    """`profile_export_genai_perf.csv`: the same with two decimals, without load and model."""
    metrics: dict[str, dict[str, float | str]] = {}
    header: Sequence[str] = ()
    for line, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        if row and row[0] in ("Metric", ""):
            header = row
        elif row and "GPU" not in header:
            metric, unit = _untitled(row[0])
            metrics[metric] = {"unit": unit, **_cells(header, row, f"{name}:{line}")}
    return Imported("genai-perf", None, None, (_summary(metrics, name, None, None),))


def _untitled(title: str) -> tuple[str, str]:
    """`Time To First Token (ms)` -> `time_to_first_token`, `ms`."""
    words, _, unit = title.rpartition(" (")
    return words.lower().replace(" ", "_"), unit.rstrip(")")


def _cells(header: Sequence[str], row: Sequence[str], where: str) -> dict[str, float | str]:
    if len(header) != len(row):
        raise ImportFileError(f"{where}: {len(row)} cells, and {len(header)} columns")
    named = zip(header[1:], row[1:], strict=True)
    return {"avg" if key == "Value" else key: _number(cell, where) for key, cell in named if cell not in ("", "N/A")}


def _number(cell: str, where: str) -> float:
    try:
        return float(cell.replace(",", ""))
    except ValueError as error:
        raise ImportFileError(f"{where}: {cell!r} is no number") from error


def analyze_csv(text: str, name: str) -> Imported:
    """`analyze_export_genai_perf.csv`: a point per row of its first table, with one statistic per metric."""
    rows = [(line, row) for line, row in enumerate(csv.reader(io.StringIO(text)), start=1)]
    header = rows[0][1]
    table = list(itertools.takewhile(lambda numbered: numbered[1], rows[1:]))
    if not table:
        raise ImportFileError(f"{name}: no row below the header of the first table")
    points = tuple(_analyzed(header, row, f"{name}:{line}") for line, row in table)
    return Imported("genai-perf", None, table[0][1][0].rpartition("_run_config_")[0] or None, points)


def _analyzed(header: Sequence[str], row: Sequence[str], where: str) -> ImportedPoint:
    level, cells = row[1], _cells(header[3:], row[3:], where)
    metrics: dict[str, dict[str, float | str]] = {}
    for title, value in cells.items():
        stat, _, rest = title.partition(" ")
        metric, unit = _untitled(rest if stat in _ANALYZED else title)
        metrics[metric] = {"unit": unit, _ANALYZED.get(stat, "avg"): value}
    load = None if level == "" else _number(level, where)
    closed = header[1] == "Concurrency"
    return _summary(metrics, where, int(load) if closed and load else None, None if closed else load)


_ANALYZED = {"p99": "p99", "Avg.": "avg"}


# perf_analyzer


def profile_export(document: Mapping[str, Any], name: str, count: Count | None = None) -> Imported:
    """perf_analyzer's `profile_export.json`: experiments at the same load are runs of one point.

    Where the server told no usage, tokens are counted by `count`, else in chunks.
    """
    found = pick(document, "experiments", kind=list, where=name)
    loads: dict[tuple[str, float], list[tuple[RequestRecord, ...]]] = {}
    for place, experiment in enumerate(found, start=1):
        where = f"{name}: experiment {place}"
        mode = pick(experiment, "experiment", "mode", kind=str, where=where)
        value = pick(experiment, "experiment", "value", kind=NUMBER, where=where)
        loads.setdefault((mode, value), []).append(_run(experiment, document, where, count))
    points = tuple(_requests_point(mode, value, runs) for (mode, value), runs in loads.items())
    model = next((model for e in found for r in e["requests"] if (model := optional(_payload(r), "model"))), None)
    return Imported("perf_analyzer", None, model, points)


def _requests_point(mode: str, value: float, runs: Sequence[tuple[RequestRecord, ...]]) -> ImportedPoint:
    return ImportedPoint(
        metrics={},
        concurrency=int(value) if mode == "concurrency" else None,
        request_rate=value if mode == "request_rate" else None,
        runs=tuple(runs),
    )


def _run(
    experiment: Mapping[str, Any], document: Mapping[str, Any], where: str, count: Count | None
) -> tuple[RequestRecord, ...]:
    requests = pick(experiment, "requests", kind=list, where=where)
    endpoint = "completions" if str(document.get("endpoint")).endswith("v1/completions") else "chat"
    named = ((request, f"{where}: request {place}") for place, request in enumerate(requests, start=1))
    return tuple(in_order([_record(request, endpoint, where, count) for request, where in named]))


def _payload(request: Mapping[str, Any]) -> Any:
    text = optional(request, "request_inputs", "payload")
    try:
        return json.loads(text) if isinstance(text, str) else None
    except json.JSONDecodeError:
        return None


def _record(request: Mapping[str, Any], endpoint: str, where: str, count: Count | None) -> RequestRecord:
    """Read as our own captures are, so that what is a token follows the same rules."""
    sent_ns = pick(request, "timestamp", kind=int, where=where)
    stamps = pick(request, "response_timestamps", kind=list, where=where)
    outputs = request.get("response_outputs")
    if outputs is not None and len(outputs) != len(stamps):
        raise ImportFileError(f"{where}: {len(stamps)} response_timestamps, and {len(outputs)} response_outputs")
    failed = not stamps or request.get("success") is False
    pieces = _pieces(outputs, len(stamps))
    capture = Capture(
        sent_ns=sent_ns,
        ended_ns=stamps[-1] if stamps else sent_ns,
        kernel_ns=(0,) * len(stamps),
        user_ns=tuple(stamps),
        ends=tuple(itertools.accumulate(map(len, pieces))),
        body=b"".join(pieces),
        status=None if failed else 200,
        content_type="text/event-stream",
        error="no response" if failed else None,
    )
    asked = optional(_payload(request), "max_tokens") or 0
    planned = PlannedRequest(index=0, phase="measured", due_ns=None, prompt="", output_tokens=asked)
    made = ENDPOINTS[endpoint]
    return interpret(capture, planned, "user", request_id="", due_ns=None, endpoint=made, count=count)


_END = b"data: [DONE]\n\n"


def _pieces(outputs: Sequence[Mapping[str, Any]] | None, count: int) -> tuple[bytes, ...]:
    """The answers as reads of a stream: OpenAI's events as they came, Triton's `text_output` as one each.

    Our own exports have none, because they hold only the times of chunks that carried tokens.
    """
    texts = [output.get("response", output.get("text_output")) for output in outputs] if outputs else ["x"] * count
    if any(isinstance(text, str) and text.startswith("data:") for text in texts):
        return tuple(str(text or "").encode() for text in texts)
    events = [{"choices": [{"delta": {"content": text if isinstance(text, str) else ""}}]} for text in texts]
    pieces = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return (*pieces[:-1], pieces[-1] + _END) if pieces else ()
