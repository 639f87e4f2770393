"""Files of other tools read as one summary: what `llmperf import` shows. Pure: text in, numbers out.

Their numbers are under their definitions (docs/metrics.md), which the summary says by naming the tool; a summary has no
single runs, so it is no baseline: the gate needs to know how much runs differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.metrics import distribution

Tool = Literal["genai-perf", "aiperf", "vllm"]


class ImportFileError(LlmPerfError):
    """The file is of none of the tools, or is damaged; the message names it."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What a tool reported: `metrics` by the tool's name, each with `unit` and statistics (`avg` alone for a rate)."""

    tool: Tool
    model: str | None
    metrics: Mapping[str, Mapping[str, float | str]]


def parse_import(text: str, name: str) -> Imported:
    """Of GenAI-Perf's and AIPerf's summaries, AIPerf's JSONL or vLLM's result; ImportFileError says what is allowed."""
    document = _document(text)
    if document is None:
        return _aiperf_lines(text, name)
    if "mean_ttft_ms" in document:
        return _vllm(document)
    metrics = {key: value for key, value in document.items() if isinstance(value, dict) and {"unit", "avg"} <= {*value}}
    if not metrics:
        raise _unknown(name)
    tool: Tool = "aiperf" if "aiperf_version" in document or "schema_version" in document else "genai-perf"
    return Imported(tool, _model(document.get("input_config")), metrics)


def _unknown(name: str) -> ImportFileError:
    return ImportFileError(
        f"{name} is neither profile_export_genai_perf.json nor profile_export_aiperf.json, profile_export.jsonl or "
        "vLLM's --save-result JSON"
    )


def _document(text: str) -> dict[str, Any] | None:
    """None when it is not one JSON object; a JSONL of a single line is none either."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and "metadata" not in found else None


def _model(config: Any) -> str | None:
    """The first model that a configuration names, wherever this version of the tool puts it."""
    if not isinstance(config, dict):
        return None
    names = config.get("model_names") or config.get("endpoint", {}).get("model_names")
    return str(names[0]) if isinstance(names, list) and names else None


def _aiperf_lines(text: str, name: str) -> Imported:
    samples: dict[str, tuple[str, list[float]]] = {}
    try:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        for line in lines:
            for metric, held in line["metrics"].items():
                if isinstance(held["value"], int | float):
                    samples.setdefault(metric, (held["unit"], []))[1].append(float(held["value"]))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _unknown(name) from error
    if not samples:
        raise _unknown(name)
    return Imported("aiperf", None, {metric: _pooled(unit, values) for metric, (unit, values) in samples.items()})


def _pooled(unit: str, values: list[float]) -> dict[str, float | str]:
    found = distribution(values).as_dict()
    return {"unit": unit, "avg": found.pop("mean"), **found}


_RATES = {
    "request_throughput": "requests/sec",
    "output_throughput": "tokens/sec",
    "total_token_throughput": "tokens/sec",
    "duration": "sec",
    "completed": "count",
    "failed": "count",
}


def _vllm(document: Mapping[str, Any]) -> Imported:
    latencies = {f"{name}_ms": _vllm_latency(document, name) for name in ("ttft", "tpot", "itl", "e2el")}
    rates = {name: {"unit": unit, "avg": document[name]} for name, unit in _RATES.items() if name in document}
    return Imported("vllm", document.get("model_id"), {n: v for n, v in latencies.items() if len(v) > 1} | rates)


def _vllm_latency(document: Mapping[str, Any], name: str) -> dict[str, float | str]:
    stats = {key.removesuffix(f"_{name}_ms"): value for key, value in document.items() if key.endswith(f"_{name}_ms")}
    renamed = {"mean": "avg", "median": "p50"}
    return {"unit": "ms", **{renamed.get(stat, stat): value for stat, value in stats.items()}}
