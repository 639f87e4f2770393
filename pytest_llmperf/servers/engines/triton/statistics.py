"""Reads Triton's statistics and metrics as counters. Pure, no I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pytest_llmperf.telemetry.counters import Reading

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")
_TYPE = re.compile(r"^# TYPE (\S+) (\S+)")
_GROWING = ("counter", "histogram", "summary")
_IN_STATISTICS = "nv_inference_"
"""Prefix of metrics that the statistics hold too, and by model."""
_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


def read(statistics: Mapping[str, Any], metrics: str) -> Reading:
    """Reads `/v2/models/stats` (its JSON, where gRPC writes numbers as texts) and `/metrics`."""
    models: dict[str, Counter[str]] = {}
    for stats in statistics.get("model_stats", ()):
        models.setdefault(stats["name"], Counter()).update(_counters(stats))  # versions of a model together
    return Reading(models, _growing(metrics))


def _counters(stats: Mapping[str, Any]) -> Counter[str]:
    found = Counter({name: int(stats.get(name, 0)) for name in ("inference_count", "execution_count")})
    durations = stats.get("inference_stats", {})
    for name in ("success", "fail", *_PHASES):
        found[f"{name}.count"] = int(durations.get(name, {}).get("count", 0))
        found[f"{name}.ns"] = int(durations.get(name, {}).get("ns", 0))
    for batch in stats.get("batch_stats", ()):
        found[f"batch.{batch['batch_size']}"] = int(batch["compute_infer"].get("count", 0))
    return found


def _growing(text: str) -> Counter[str]:
    """Samples that only grow, without those that the statistics hold too and without the buckets of histograms."""
    kinds = {match[1]: match[2] for line in text.splitlines() if (match := _TYPE.match(line))}
    found: Counter[str] = Counter()
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or sample[1].endswith("_bucket") or sample[1].startswith(_IN_STATISTICS):
            continue
        family = re.sub(r"_(sum|count|total|created)$", "", sample[1])
        if kinds.get(sample[1]) == "summary" or sample[1].endswith("_created"):  # a quantile
            continue
        if (kinds.get(sample[1]) or kinds.get(family)) in _GROWING:
            found[sample[1] + (sample[2] or "")] += float(sample[3])  # type: ignore[assignment]
    return found
