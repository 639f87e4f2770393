"""How many times better ours is than the best peer, figure by figure, where both were measured.

python benchmarks/client/ratios.py FILE...
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from table import hot_us, read, startup_of, usable

_OURS = "llmperf"
_GOAL = 5
_MIN_TOKENS = 50_000
Readings = Sequence[dict[str, Any]]


def _error(name: str, stat: str) -> Callable[[Readings], float | None]:
    def of(readings: Readings) -> float | None:
        if any(name not in reading["errors"] for reading in readings):
            return None
        return abs(median(reading["errors"][name][stat] for reading in readings))

    return of


def _missing_share(readings: Readings) -> float:
    return 1 - median(reading["share"] for reading in readings)


def _all_in_us(readings: Readings) -> float:
    return median(reading["cpu_s"] / reading["tokens"] * 1e6 for reading in readings)


_FIGURES: dict[str, Callable[[Readings], float | None]] = {
    "TTFT error mean (ms)": _error("ttft", "mean"),
    "TTFT error p50 (ms)": _error("ttft", "p50"),
    "TTFT error p99 (ms)": _error("ttft", "p99"),
    "TPOT error mean (ms)": _error("tpot", "mean"),
    "TPOT error p99 (ms)": _error("tpot", "p99"),
    "chunk gap error p99 (ms)": _error("gap", "p99"),
    "rate that was missed (of 1)": _missing_share,
    "CPU all-in (µs/token)": _all_in_us,
}


def markdown(readings: Readings) -> str:
    """One row per figure and number of streams: ours, the best peer's, the ratio; ** where it is below 5."""
    good = usable(readings)
    lines = ["| figure | streams | ours | best peer | times better |", "| --- | --: | --: | --- | --: |"]
    for title, figure in (_FIGURES | {"CPU without start-up (µs/token)": _without_startup(good)}).items():
        for streams in sorted({reading["streams"] for reading in good if reading["kind"] == "load"}):
            at = [reading for reading in good if reading["kind"] == "load" and reading["streams"] == streams]
            row = _row({tool: figure([r for r in at if r["tool"] == tool]) for tool in {r["tool"] for r in at}})
            lines += [f"| {title} | {streams} | {row} |"] if row else []
    return "\n".join(lines)


def _without_startup(good: Readings) -> Callable[[Readings], float | None]:
    """None where a second of start-up more or less would change it by 20 µs or more."""

    def of(readings: Readings) -> float | None:
        if median(reading["tokens"] for reading in readings) < _MIN_TOKENS:
            return None
        return hot_us(readings, startup_of(good, readings[0]["tool"]))

    return of


def _row(values: dict[str, float | None]) -> str | None:
    peers = [(value, tool) for tool, value in values.items() if value is not None and tool != _OURS]
    ours = values.get(_OURS)
    if ours is None or not peers:
        return None
    best, tool = min(peers)
    ratio = best / ours if ours else float("inf")
    shown = "> 1000" if ratio > 1000 else f"{ratio:.3g}"
    return f"{ours:.3g} | {best:.3g} ({tool}) | {shown if ratio >= _GOAL else f'**{shown}**'}"


if __name__ == "__main__":
    print(markdown(read([Path(path) for path in sys.argv[1:]])))
