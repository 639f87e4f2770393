"""Statistics in other tools' files: theirs as they stand, and as ours. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_llmperf.definitions import PERCENTILES
from pytest_llmperf.interchange.imported import ImportFileError, optional
from pytest_llmperf.metrics import Distribution, distribution

Figures = Mapping[str, Mapping[str, float | str]]
_STATS = ("min", "max", "std")


def theirs(document: Mapping[str, Any]) -> dict[str, dict[str, float | str]]:
    """The metrics among the keys of GenAI-Perf's or AIPerf's summary."""
    return {key: value for key, value in document.items() if isinstance(value, dict) and {"unit", "avg"} <= {*value}}


def statistics(metrics: Figures, names: Mapping[str, str], n: int, where: str) -> dict[str, Distribution]:
    """By our names the statistics of those that are there; `names` gives theirs. Their count of values, else n."""
    return {ours: _statistic(metrics[name], n, f"{where}: {name}") for ours, name in names.items() if name in metrics}


def _statistic(values: Mapping[str, Any], n: int, where: str) -> Distribution:
    try:
        found = {key: float(value) for key, value in values.items() if key != "unit" and value is not None}
    except (TypeError, ValueError) as error:
        raise ImportFileError(f"{where} holds what is no number ({error})") from error
    return Distribution(
        n=int(found.get("count", n)),
        mean=found.get("avg"),
        std=found.get("std"),
        min=found.get("min"),
        max=found.get("max"),
        percentiles=tuple(found.get(f"p{p}") for p in PERCENTILES),
    )


def pooled(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | str]]:
    """Statistics of AIPerf's metrics over its lines; of a list, over all of its values."""
    samples: dict[str, tuple[str, list[float]]] = {}
    for line in lines:
        for metric, held in (optional(line, "metrics") or {}).items():
            value, unit = optional(held, "value"), str(optional(held, "unit"))
            values = value if isinstance(value, list) else [value]
            samples.setdefault(metric, (unit, []))[1].extend(v for v in values if isinstance(v, int | float))
    return {metric: _pool(unit, values) for metric, (unit, values) in samples.items() if values}


def _pool(unit: str, values: list[float]) -> dict[str, float | str]:
    found = distribution(values).as_dict()
    return {"unit": unit, "avg": found.pop("mean"), "count": found.pop("n"), **found}
