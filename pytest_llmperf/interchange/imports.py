"""Another tool's file told from its text, and read: `llmperf import`. Pure: text in, facts out."""

from __future__ import annotations

from typing import Any

from pytest_llmperf.interchange.from_aiperf import aiperf_lines, aiperf_summary
from pytest_llmperf.interchange.from_genai_perf import (
    Count,
    analyze_csv,
    genai_perf_csv,
    genai_perf_summary,
    profile_export,
)
from pytest_llmperf.interchange.from_guidellm import guidellm_report
from pytest_llmperf.interchange.from_rows import requests_csv
from pytest_llmperf.interchange.from_vllm import vllm_result
from pytest_llmperf.interchange.imported import EXPECTED, Imported, ImportFileError, read_json
from pytest_llmperf.interchange.statistics import theirs


def parse_import(text: str, name: str, *, beside: str | None = None, count: Count | None = None) -> Imported:
    """What a file says. ImportFileError names the file, the line where there is one, and what was expected.

    `beside`: the text of AIPerf's summary of the same run, for its JSONL, which names neither load nor model. `count`:
    tokens of a text, for files that hold texts and no counts.
    """
    first = text.lstrip().partition("\n")[0].rstrip()
    if first.startswith(("Metric,", "Config Name,", "run,")):
        return _csv(text, name, first)
    if _is_aiperf_line(first):
        return aiperf_lines(text, name, read_json(beside, f"the summary beside {name}") if beside else None)
    return _document(read_json(text, name), name, count)


def _csv(text: str, name: str, header: str) -> Imported:
    if header.startswith("Config Name,"):
        return analyze_csv(text, name)
    return genai_perf_csv(text, name) if header.startswith("Metric,") else requests_csv(text, name)


def _is_aiperf_line(first: str) -> bool:
    """A line of JSONL is an object by itself, also where a later one is damaged."""
    return first.startswith('{"metadata"') and '"request_start_ns"' in first


def _document(document: dict[str, Any], name: str, count: Count | None) -> Imported:
    if "experiments" in document:
        return profile_export(document, name, count)
    if "benchmarks" in document and "guidellm_version" in document.get("metadata", {}):
        return guidellm_report(document, name)
    if "mean_ttft_ms" in document:
        return vllm_result(document, name)
    if "aiperf_version" in document:
        return aiperf_summary(document, name)
    if theirs(document) and "input_config" in document:
        return genai_perf_summary(document, name)
    raise ImportFileError(f"{name}: of no tool that is known; expected {EXPECTED}")
