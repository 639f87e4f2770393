"""Histograms with log bins 0.4 % wide: how a latency was distributed, small enough to be stored with every run. Pure.

For pictures, and for percentiles that nobody asked for when it was measured. Never the data of a verdict: that are
per-run statistics, which have no bin's width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

Histogram = Mapping[int, int]
"""Count by bin: bin k holds values from 1.004^k up to 1.004^(k + 1)."""
_LOG_WIDTH = math.log(1.004)
_LEAST = 1e-6
"""One nanosecond, in milliseconds: a value that is not above it (a clock's whim) is counted there, so that none is
lost.
"""
_BLOCKS = "▁▂▃▄▅▆▇█"


def histogram(values: Iterable[float]) -> dict[int, int]:
    """Counts of `values`, by bin in rising order; empty without values."""
    bins = Counter(math.floor(math.log(max(value, _LEAST)) / _LOG_WIDTH) for value in values)
    return dict(sorted(bins.items()))


def lower_edge(number: int) -> float:
    """The least value of a bin, in the unit of its values."""
    return math.exp(number * _LOG_WIDTH)


def merged(histograms: Iterable[Histogram]) -> dict[int, int]:
    """All of them in one."""
    total: Counter[int] = Counter()
    for one in histograms:
        total.update(one)
    return dict(sorted(total.items()))


def picture(found: Histogram, columns: int = 40) -> str:
    """One line of blocks, from the smallest value at the left to the largest; the axis is a log one. Empty: no text.

    A column that holds anything is never blank: a rare stall far out is what such a picture is looked at for.
    """
    if not found:
        return ""
    first, last = min(found), max(found)
    per_column = max(1, math.ceil((last - first + 1) / columns))
    heights = [0] * ((last - first) // per_column + 1)
    for number, count in found.items():
        heights[(number - first) // per_column] += count
    highest = max(heights)
    return "".join(_BLOCKS[math.ceil(8 * height / highest) - 1] if height else " " for height in heights)
