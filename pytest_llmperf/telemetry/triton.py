"""Triton's own account of a run: the gain of its statistics and metrics between two readings. Pure, no I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_llmperf.records import ModelSide, ServerSide

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")
_TYPE = re.compile(r"^# TYPE (\S+) (\S+)")
_GROWING = ("counter", "histogram", "summary")
_TOLD_BY_STATISTICS = "nv_inference_"
_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


class Reading(NamedTuple):
    """Counters since the server's start: per model by name, and of its metrics."""

    models: Mapping[str, Counter[str]]
    metrics: Counter[str]


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
    """Samples that only grow, but for what the statistics tell better, and the buckets of histograms."""
    kinds = {match[1]: match[2] for line in text.splitlines() if (match := _TYPE.match(line))}
    found: Counter[str] = Counter()
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or sample[1].endswith("_bucket") or sample[1].startswith(_TOLD_BY_STATISTICS):
            continue
        family = re.sub(r"_(sum|count|total|created)$", "", sample[1])
        if (kinds.get(sample[1]) or kinds.get(family)) in _GROWING and not sample[1].endswith("_created"):
            found[sample[1] + (sample[2] or "")] += float(sample[3])  # type: ignore[assignment]
    return found


def gained(before: Sequence[Reading], after: Sequence[Reading]) -> ServerSide:
    """The work of all replicas between the readings; models that did nothing are left out."""
    totals: dict[str, Counter[str]] = {}
    metrics: Counter[str] = Counter()
    for old, new in zip(before, after, strict=True):
        for model, counters in new.models.items():
            grown = Counter(counters)
            grown.subtract(old.models.get(model, Counter()))
            totals.setdefault(model, Counter()).update(grown)
        grown = Counter(new.metrics)
        grown.subtract(old.metrics)
        metrics.update(grown)
    sides = (_side(model, counters) for model, counters in totals.items())
    return ServerSide(
        models=tuple(side for side in sides if side.requests or side.failed),
        metrics=tuple(sorted((name, float(value)) for name, value in metrics.items() if value)),
    )


def _side(model: str, gain: Counter[str]) -> ModelSide:
    return ModelSide(
        model=model,
        requests=gain["success.count"],
        failed=gain["fail.count"],
        inferences=gain["inference_count"],
        executions=gain["execution_count"],
        queue_ns=gain["queue.ns"],
        compute_input_ns=gain["compute_input.ns"],
        compute_infer_ns=gain["compute_infer.ns"],
        compute_output_ns=gain["compute_output.ns"],
        batch_sizes=tuple(sorted(_batches(gain.items()))),
    )


def _batches(gain: Iterable[tuple[str, int]]) -> Iterable[tuple[int, int]]:
    for name, count in gain:
        if name.startswith("batch.") and count:
            yield int(name.removeprefix("batch.")), count
