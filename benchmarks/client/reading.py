"""One reading: a tool draws a closed loop from the source, and what it reports is held against what was sent."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import source
import truth
from probes import PROBES
from tools import ROOT, Load, Tool

_MAX_OTHERS, _MAX_STEAL = 0.05, 0.01
"""Cores' worth of other work, and of time that the host took, from which a reading counts as disturbed."""
_WARNING = re.compile(r"\bwarn(ing)?\b|⚠|\binvalid\b|bottleneck|too long", re.IGNORECASE)
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Setting:
    """What the source serves and what is asked of it."""

    streams: int
    per_slot: int
    tokens: int
    ttft_ms: float
    interval_ms: float
    probe: str
    """A name of PROBES."""
    cores: tuple[int, int]
    """Of the source, of the tool."""

    @property
    def load(self) -> Load:
        return Load(self.streams, self.streams * self.per_slot, input_tokens=64, output_tokens=self.tokens)

    @property
    def rate(self) -> float:
        """Tokens per second that the source gives to a client that takes no time (without a probe)."""
        return self.streams * self.tokens / (self.ttft_ms + (self.tokens - 1) * self.interval_ms) * 1e3

    @property
    def source_options(self) -> list[str]:
        times = ["--ttft-ms", str(self.ttft_ms), "--interval-ms", str(self.interval_ms)]
        return ["--real-time", *times, *PROBES[self.probe]]


def take(setting: Setting, program: Path, tool: Tool) -> dict[str, Any]:
    """The reading as a flat record; `error` says why there is none."""
    with tempfile.TemporaryDirectory(prefix="bench-client-") as name:
        folder = Path(name)
        core_of_source, core_of_tool = (machine.pinned(core) for core in setting.cores)
        with source.running(program, folder / "truth.bin", setting.source_options, core_of_source) as served:
            command = tool.command(served.url, setting.load, folder)
            before = machine.sample()
            whole = [*machine.preferred(), *core_of_tool, *command]
            finished = machine.run(whole, environment=tool.environment(), folder=folder, timeout_s=_TIMEOUT_S)
            after = machine.sample()
        shown = " ".join(command).replace(str(folder), "OUT").replace(served.url, "URL").replace(f"{ROOT}/", "")
        about = {"tool": tool.name, "streams": setting.streams, "probe": setting.probe, "command": shown}
        return (
            about
            | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
            | _surroundings(before, after, finished, served)
            | _outcome(setting, tool, folder, served, finished)
        )


def _surroundings(
    before: machine.Machine, after: machine.Machine, finished: machine.Finished, served: source.Source
) -> dict[str, Any]:
    wall = after.at_s - before.at_s
    others = (after.busy_s - before.busy_s - finished.cpu_s - served.stats["cpu_s"]) / wall
    steal = (after.steal_s - before.steal_s) / wall
    disturbed = others > _MAX_OTHERS or steal > _MAX_STEAL
    costs = {"cpu_s": finished.cpu_s, "wall_s": finished.wall_s, "source_cpu_s": served.stats["cpu_s"]}
    return costs | {"others": others, "steal": steal, "disturbed": disturbed}


def _outcome(
    setting: Setting, tool: Tool, folder: Path, served: source.Source, finished: machine.Finished
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "exit_code": finished.exit_code,
        "tokens": sum(request.tokens for request in served.sent),
        "requests": len(served.sent),
        "said": said(finished.output),
    }
    try:
        reported, health = tool.reported(folder), tool.health(folder)
        stamps = truth.stamp_errors_us(tool.asked(served.sent, setting.load), tool.stamps(folder))
        found = {"error": None, "health": health, "stamp_errors_us": stamps}
        return facts | found | _against_truth(setting, tool, served, reported)
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        tail = finished.output[-2000:]
        return facts | {"error": f"no report ({type(error).__name__}: {error})", "output": tail}


def _against_truth(setting: Setting, tool: Tool, served: source.Source, reported: dict[str, Any]) -> dict[str, Any]:
    asked = tool.asked(served.sent, setting.load)
    measured = [request for request in asked if request.whole]
    loaded = [request for request in tool.loaded(served.sent, setting.load) if request.whole]
    rate = truth.tokens_per_s(loaded)
    true = truth.metrics(measured) | {"load": truth.totals(asked)}
    return {
        "reported": reported,
        "true": true,
        "errors": _errors(reported, true),
        "tokens_per_s": rate,
        "share": rate / setting.rate,
        "source_late_us": truth.lateness_us(loaded),
        "source_blocked": sum(request.blocked for request in loaded),
    }


def _errors(reported: dict[str, Any], true: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Reported minus true, where something is reported."""
    return {
        name: {stat: value - true[name][stat] for stat, value in values.items() if value is not None}
        for name, values in reported.items()
    }


def said(output: str) -> list[tuple[int, str]]:
    """The warnings of a tool's output: how often, and the first; those that differ in their numbers only are one."""
    found: dict[str, tuple[int, str]] = {}
    for line in output.splitlines():
        if _WARNING.search(line):
            kind = re.sub(r"\d+", "", line)
            count, first = found.get(kind, (0, line.strip()[:300]))
            found[kind] = (count + 1, first)
    return list(found.values())


def badness(reading: dict[str, Any]) -> Sequence[float]:
    """How much one would rather have another reading."""
    return (reading["error"] is not None, reading["others"] + reading["steal"])
