"""What the source does to see what a tool makes of it, and the tables of that.

    python benchmarks/client/measure.py --streams 64 --per-slot 2 --kinds load --repeats 1 \\
      --probes role-early,chunks-of-4,fail-10th,queue,queue-role-early
    python benchmarks/client/probes.py FILE...
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from table import read

PROBES: dict[str, tuple[str, ...]] = {
    "none": (),
    "role-early": ("--role", "early"),
    "chunks-of-4": ("--tokens-per-chunk", "4"),
    "fail-10th": ("--fail-every", "10"),
    "queue": ("--max-running", "8"),
    "queue-role-early": ("--max-running", "8", "--role", "early"),
}
"""Options of the source; `none` is the plain benchmark."""

Readings = Sequence[dict[str, Any]]


def markdown(readings: Readings) -> str:
    """One row per tool: what it reported, and the truth of its own requests in parentheses."""
    taken = [reading for reading in readings if reading["probe"] in _COLUMNS and reading["error"] is None]
    tools = dict.fromkeys(reading["tool"] for reading in taken)
    header = ("tool", *(title for title, _ in _COLUMNS.values()))
    rows = [(tool, *(_cell(taken, tool, probe) for probe in _COLUMNS)) for tool in tools]
    return _table(header, rows)


def warnings(readings: Readings, streams: Sequence[int] = (512, 1000)) -> str:
    """What the tools said about themselves in the plain benchmark, where they had too much to do."""
    header = ("streams", "tool", "TTFT p50 error (ms)", "share of the rate", "exit code", "its warnings")
    plain = [reading for reading in readings if reading["probe"] == "none" and reading["kind"] == "load"]
    last = {(reading["streams"], reading["tool"]): reading for reading in plain if reading["streams"] in streams}
    return _table(header, [_warned(last[key]) for key in sorted(last, key=lambda key: key[0])])


def _warned(reading: dict[str, Any]) -> tuple[str, ...]:
    said = "; ".join(f"{count} × {_short(line)}" for count, line in reading["said"]) or "none"
    found = ("–", "–")
    if reading["error"] is None:
        found = (f"{reading['errors']['ttft']['p50']:+.3g}", f"{reading['share']:.1%}")
    return (str(reading["streams"]), reading["tool"], *found, str(reading["exit_code"]), said.replace("|", "\\|"))


def _short(line: str) -> str:
    """A warning without what the logger puts before it."""
    text = re.sub(r"^.*?(WARNING|⚠):?\s*", "", line)
    return text if len(text) < 120 else f"{text[:117]}…"


def _cell(readings: Readings, tool: str, probe: str) -> str:
    mine = [reading for reading in readings if reading["tool"] == tool and reading["probe"] == probe]
    return _COLUMNS[probe][1](mine) if mine else "not measured"


def _role_early(readings: Readings) -> str:
    return f"{_both(readings, 'ttft', 'mean')}; {_both(readings, 'tpot', 'mean')}"


def _chunks(readings: Readings) -> str:
    right = all(reported == true for reported, true in (_load(reading, "tokens") for reading in readings))
    tokens = "ok" if right else _loads(readings, "tokens")
    return f"{tokens}; {_both(readings, 'tpot', 'mean')}; {_both(readings, 'gap', 'mean')}"


def _failures(readings: Readings) -> str:
    codes = dict.fromkeys(reading["exit_code"] for reading in readings)
    return f"{_loads(readings, 'failed')}; exit {', '.join(map(str, codes))}"


def _queue(readings: Readings) -> str:
    return _both(readings, "ttft", "mean")


_COLUMNS: dict[str, tuple[str, Callable[[Readings], str]]] = {
    "role-early": ("role-only chunk at once: TTFT mean (truth); TPOT mean (truth)", _role_early),
    "chunks-of-4": ("4 tokens per chunk: tokens; TPOT mean (truth); chunk gap mean (truth)", _chunks),
    "fail-10th": ("every 10th answer a 503: failed (truth); exit code", _failures),
    "queue": ("8 running of 64: TTFT mean (truth)", _queue),
    "queue-role-early": ("the same, role-only chunk at once: TTFT mean (truth)", _queue),
}


def _both(readings: Readings, name: str, stat: str) -> str:
    if any(name not in reading["reported"] for reading in readings):
        return "–"
    reported, true = (median(reading[kind][name][stat] for reading in readings) for kind in ("reported", "true"))
    return f"{_digits(reported)} ({_digits(true)})"


def _load(reading: dict[str, Any], name: str) -> tuple[float, float]:
    return reading["reported"]["load"][name], reading["true"]["load"][name]


def _loads(readings: Readings, name: str) -> str:
    return ", ".join("{:g} ({:g})".format(*_load(reading, name)) for reading in readings)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(paths: Sequence[Path]) -> None:
    readings = read(paths)
    print(markdown(readings), warnings(readings), sep="\n\n")


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]])
