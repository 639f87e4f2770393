"""Statistics in other tools' files: theirs as they stand, and as ours. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_llmperf.definitions import METRICS, PERCENTILES
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError, is_number, optional
from pytest_llmperf.metrics.summary import Distribution, contradiction, distribution

Figures = Mapping[str, Mapping[str, float | str]]
_IN_MS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}


def figures(values: Mapping[str, Any], unit: Any, where: str = "its figures") -> dict[str, float | str]:
    """The statistics of one metric that have a value, and their unit. ImportFileError names NaN, Infinity, and what is
    negative where nothing can be."""
    numbers = {key: v for key, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    for key, value in numbers.items():
        # A larger integer of JSON is no number to calculate with.
        is_finite = -sys.float_info.max <= value <= sys.float_info.max
        is_never_negative = str(unit) in {*_IN_MS, "count"} or str(unit).startswith(("token", "request"))
        if not is_finite or (value < 0 and is_never_negative):
            raise ImportFileError(f"{where}: {key} is {value!r:.60}, no time or count")
    return {"unit": str(unit), **numbers}


def check_statistics(metrics: Figures, where: str) -> None:
    """ImportFileError names the first metric whose statistics no sample has together: one of them was edited."""
    for name, values in metrics.items():
        mean = values.get("avg")
        if problem := contradiction(values, mean if isinstance(mean, float | int) else None):
            raise ImportFileError(f"{where}: {name}: {problem}")


def in_ms(unit: Any, where: str) -> float:
    """Milliseconds in one of a unit of time. Raises ImportFileError, which names an unknown unit."""
    try:
        return _IN_MS[str(unit)]
    except KeyError:
        raise ImportFileError(f"{where}: its unit is {unit!r:.60}, no unit of time that is known") from None


def theirs(document: Mapping[str, Any], name: str) -> dict[str, dict[str, float | str]]:
    """The metrics among the keys of GenAI-Perf's or AIPerf's summary."""
    found = {key: v for key, v in document.items() if isinstance(v, dict) and {"unit", "avg"} <= {*v}}
    return {key: figures(v, v["unit"], f"{name}: {key}") for key, v in found.items()}


def statistics(metrics: Figures, names: Mapping[str, str], n: int, where: str) -> dict[str, Distribution]:
    """Statistics of the metrics that are there, by our names; `names` gives the tool's. Their count of values, else
    `n`.
    """
    return {
        ours: _statistic(metrics[name], ours, n, f"{where}: {name}") for ours, name in names.items() if name in metrics
    }


def _statistic(values: Mapping[str, Any], ours: str, n: int, where: str) -> Distribution:
    found = {key: value for key, value in values.items() if key != "unit"}
    for key, value in found.items():
        if not is_number(value):
            raise ImportFileError(f"{where}: {key} is {value!r:.60}, no time or count")
    if METRICS[ours].unit == "ms":
        factor = in_ms(values.get("unit"), where)
        found = {key: value if key == "count" else value * factor for key, value in found.items()}
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
        metrics = optional(line, "metrics")
        for metric, held in metrics.items() if isinstance(metrics, dict) else ():
            value, unit = optional(held, "value"), str(optional(held, "unit"))
            values = value if isinstance(value, list) else [value]
            first, pool = samples.setdefault(metric, (unit, []))
            factor = 1.0 if unit == first else in_ms(unit, metric) / in_ms(first, metric)
            pool.extend(float(v) * factor for v in values if is_number(v))
    pools = {metric: (unit, distribution(values).as_dict()) for metric, (unit, values) in samples.items() if values}
    return {
        metric: {"unit": unit, "avg": found.pop("mean"), "count": found.pop("n"), **found}
        for metric, (unit, found) in pools.items()
    }
