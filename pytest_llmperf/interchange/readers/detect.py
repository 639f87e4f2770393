"""The tool that wrote a file, recognised by its text, and its reader: `llmperf import`. Pure: text in, facts out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_llmperf.interchange.readers.aiperf import (
    aiperf_csv,
    aiperf_lines,
    aiperf_summary,
    is_aiperf_line,
    is_aiperf_summary,
)
from pytest_llmperf.interchange.readers.genai_perf import (
    analyze_csv,
    genai_perf_csv,
    genai_perf_summary,
    is_genai_perf_summary,
)
from pytest_llmperf.interchange.readers.guidellm import guidellm_report, is_guidellm_report
from pytest_llmperf.interchange.readers.perf_analyzer import Count, is_profile_export, profile_export
from pytest_llmperf.interchange.readers.rows import requests_csv
from pytest_llmperf.interchange.readers.sglang import is_sglang_result, sglang_result
from pytest_llmperf.interchange.readers.shared.documents import read_documents, read_json
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.readers.shared.imported import EXPECTED, Imported
from pytest_llmperf.interchange.readers.shared.statistics import check_statistics
from pytest_llmperf.interchange.readers.vllm import is_vllm_result, vllm_result

Document = Mapping[str, Any]
_ONCE: Mapping[str, tuple[Callable[[Document], bool], Callable[[Document, str], Imported]]] = {
    "GuideLLM": (is_guidellm_report, guidellm_report),
    "AIPerf": (is_aiperf_summary, aiperf_summary),
    "GenAI-Perf": (is_genai_perf_summary, genai_perf_summary),
}
_APPENDED: Mapping[str, tuple[Callable[[Document], bool], Callable[[Document, str], Imported]]] = {
    "vllm bench serve": (is_vllm_result, vllm_result),
    "SGLang bench_serving": (is_sglang_result, sglang_result),
}
"""Tools that write the result of another run behind those that a file holds."""


def parse_import(text: str, name: str, *, beside: str | None = None, count: Count | None = None) -> Imported:
    """The runs of a file. ImportFileError names the file, the line where there is one, and what was expected.

    `beside`: the text of AIPerf's summary of the same run, for its JSONL, which names neither load nor model. `count`:
    tokens of a text, for files that hold texts and no counts.
    """
    found = _parse(text.removeprefix("\ufeff"), name, beside, count)
    for point in found.points:
        check_statistics(point.metrics, name)
    return found


def _parse(text: str, name: str, beside: str | None, count: Count | None) -> Imported:
    first = text.lstrip().partition("\n")[0].rstrip()
    if first.startswith(("Metric,", "Config Name,", "run,")):
        return _csv(text, name, first)
    try:
        is_line = is_aiperf_line(json.loads(first))  # also where a later line is damaged
    except (ValueError, RecursionError):
        is_line = False
    if is_line:
        return aiperf_lines(text, name, read_json(beside, f"the summary beside {name}") if beside else None)
    return _merged([_document(found, name, line, count) for line, found in read_documents(text, name)], name)


def _csv(text: str, name: str, header: str) -> Imported:
    if header.startswith("Config Name,"):
        return analyze_csv(text, name)
    if header.startswith("run,"):
        return requests_csv(text, name)
    # The columns of percentiles run upward in AIPerf's, and downward in GenAI-Perf's.
    is_aiperf = header.startswith("Metric,avg,min,max,p1,") or "\nError Request Count," in text
    return aiperf_csv(text, name) if is_aiperf else genai_perf_csv(text, name)


def _document(document: Document, name: str, line: int, count: Count | None) -> tuple[int, bool, Imported]:
    """The line that it begins on, whether its tool appends, and what it holds."""
    readers = {**_ONCE, **_APPENDED, "perf_analyzer": (is_profile_export, lambda d, n: profile_export(d, n, count))}
    tools = [tool for tool, (is_its, _) in readers.items() if is_its(document)]
    if not tools:
        keys = ", ".join(map(repr, list(document)[:6])) or "nothing"
        raise ImportFileError(f"{name}: of no tool that is known (it holds {keys:.200}); expected {EXPECTED}")
    if len(tools) > 1:
        raise ImportFileError(f"{name}: {' and '.join(tools)} could both have written it")
    where = name if line == 1 else f"{name}:{line}"
    return line, tools[0] in _APPENDED, readers[tools[0]][1](document, where)


def _merged(found: Sequence[tuple[int, bool, Imported]], name: str) -> Imported:
    """All documents of a file as one; ImportFileError where they are not of one tool that appends, and one model."""
    _, _, whole = found[0]
    for line, appends, one in found[1:]:
        if not appends or one.tool != whole.tool:
            raise ImportFileError(f"{name}:{line}: a second document, of {one.source}, after one of {whole.source}")
        if one.model != whole.model:
            raise ImportFileError(f"{name}:{line}: a run of model {one.model!r} after one of {whole.model!r}")
    return replace(whole, points=tuple(point for _, _, one in found for point in one.points))
