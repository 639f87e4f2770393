"""The table: one row per tool and number of streams, medians of the repeats."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

_HEADER = (
    "streams",
    "tool",
    "readings",
    "TTFT error: mean, p50, p99 (ms)",
    "TPOT error: mean, p50, p99 (ms)",
    "chunk gap error: p50, p99 (ms)",
    "share of the rate",
    "tok/s drawn (reported)",
    "CPU µs/token all-in (without start-up)",
    "source late p99 (ms)",
)


def markdown(runs: Sequence[dict[str, Any]]) -> str:
    good = usable(runs)
    startup = {name: startup_of(good, name) for name in {run["tool"] for run in good}}
    keys = dict.fromkeys((run["streams"], run["tool"]) for run in good if run["kind"] == "load")
    ordered = sorted(keys, key=lambda key: (key[0], key[1] != "llmperf", key[1]))
    rows = [_row([run for run in good if _key(run) == key], startup[key[1]]) for key in ordered]
    lines = [" | ".join(row) for row in (_HEADER, ("--:", "---", *["--:"] * 8), *rows)]
    marked = any("*" in row[2] for row in rows)
    notes = (
        ["\\* of them disturbed: other work took more than 5 % of a core, or the host more than 1 %"] if marked else []
    )
    left_out = sum(run["probe"] == "none" for run in runs) - len(good)
    notes += [f"left out, as there was no report or others took a whole core: {left_out}"] if left_out else []
    return "\n\n".join(["\n".join(f"| {line} |" for line in lines), *notes])


def usable(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those that say nothing of the tool: no report, a probe, or other work that took a whole core or more."""
    return [run for run in runs if run["error"] is None and run["probe"] == "none" and run["others"] < 1]


def _key(run: dict[str, Any]) -> tuple[int, str] | None:
    return (run["streams"], run["tool"]) if run["kind"] == "load" else None


def startup_of(runs: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    """CPU seconds and tokens of the short run."""
    short = [run for run in runs if run["kind"] == "startup" and run["tool"] == name]
    if not short:
        return 0.0, 0.0
    return median(run["cpu_s"] for run in short), median(run["tokens"] for run in short)


def _row(runs: Sequence[dict[str, Any]], startup: tuple[float, float]) -> tuple[str, ...]:
    all_in = median(run["cpu_s"] / run["tokens"] * 1e6 for run in runs)
    reported = median(run["reported"]["load"]["tokens_per_s"] for run in runs)
    return (
        str(runs[0]["streams"]),
        runs[0]["tool"],
        _count(runs),
        _error(runs, "ttft", ("mean", "p50", "p99")),
        _error(runs, "tpot", ("mean", "p50", "p99")),
        _error(runs, "gap", ("p50", "p99")),
        f"{median(run['share'] for run in runs):.1%}",
        f"{median(run['tokens_per_s'] for run in runs):,.0f} ({reported:,.0f})",
        f"{all_in:.1f} ({hot_us(runs, startup):.1f})",
        f"{median(run['source_late_us']['p99'] for run in runs) / 1e3:.2f}",
    )


def _count(runs: Sequence[dict[str, Any]]) -> str:
    disturbed = sum(run["disturbed"] for run in runs)
    return f"{len(runs)}, {disturbed}*" if disturbed else str(len(runs))


def hot_us(runs: Sequence[dict[str, Any]], startup: tuple[float, float]) -> float:
    """CPU time per token without start-up; a run that was done over has more tokens."""
    return median((run["cpu_s"] - startup[0]) / (run["tokens"] - startup[1]) * 1e6 for run in runs)


def _error(runs: Sequence[dict[str, Any]], name: str, stats: Sequence[str]) -> str:
    if any(name not in run["errors"] for run in runs):
        return "–"
    return ", ".join(_signed(median(run["errors"][name][stat] for run in runs)) for stat in stats)


def _signed(value: float) -> str:
    """Three digits, and zero without a sign of its own."""
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value + 0.0:+.{digits}f}"


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The readings of measure.py's files."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


if __name__ == "__main__":  # table.py FILE...: the table of several files together
    print(markdown(read([Path(path) for path in sys.argv[1:]])))
