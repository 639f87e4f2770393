"""A server's own account of a run: the gain of its counters between two readings. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_llmperf.records import ModelSide, ServerSide


class Reading(NamedTuple):
    """Counters since the server's start, named as `_side` reads them: per model by name, and of its metrics."""

    models: Mapping[str, Counter[str]]
    metrics: Counter[str]


def gained(before: Sequence[Reading], after: Sequence[Reading]) -> ServerSide | None:
    """The work of all replicas between the readings; models that did nothing are left out.

    None where a counter went back: a server, or a model, was started anew in between.
    """
    if any(map(_went_back, before, after)):
        return None
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


def _went_back(old: Reading, new: Reading) -> bool:
    pairs = [(old.models[model], new.models[model]) for model in old.models.keys() & new.models.keys()]
    pairs.append((old.metrics, new.metrics))
    return any(now[name] < then[name] for then, now in pairs for name in then.keys() & now.keys())


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
