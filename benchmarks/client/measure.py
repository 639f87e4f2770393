"""How exact the load tools are, and what they cost: each against a token source whose true write times are known.

    python benchmarks/client/measure.py --streams 16,64,256,512,1000 --tools llmperf,vllm,aiperf,guidellm

The source has one core, the tool another. Every reading is appended to results/<time>.jsonl, or to the file that --json
names, as soon as it is there: readings may be taken one by one. Prints the table of all that the file has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import source
from probes import PROBES
from reading import Setting, badness, take
from table import markdown, read
from tools import ROOT, TOOLS, Tool

_HERE = Path(__file__).parent
_STARTUP, _LOAD = "startup", "load"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, from the command line."""

    tools: tuple[Tool, ...]
    settings: tuple[Setting, ...]
    kinds: tuple[str, ...]
    repeats: int
    tries: int
    quiet_s: float
    lock: Path | None


def main() -> None:
    arguments = _arguments()
    plan = _plan(arguments)
    machine.prepare()
    program = source.build(ROOT / ".engines" / "peers")
    path = arguments.json or _HERE / "results" / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {tool.name: tool.version() for tool in plan.tools}
    for reading in _readings(plan, program):
        facts = {"version": versions[reading["tool"]], "machine": machine.description()}
        with path.open("a") as file:
            file.write(json.dumps(reading | facts) + "\n")
    print(markdown(read([path])))
    print(f"\nraw: {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="16,64,256,512,1000", help="requests in flight, one level after the other")
    parser.add_argument("--tools", default="llmperf,vllm,aiperf,guidellm", help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--probes", default="none", help=f"of {', '.join(PROBES)} (probes.py prints their table)")
    parser.add_argument(
        "--kinds", default=f"{_STARTUP},{_LOAD}", help="of startup (8 requests, for its CPU time), load"
    )
    parser.add_argument("--per-slot", type=int, default=4, help="requests per stream")
    parser.add_argument("--tokens", type=int, default=200, help="per request")
    parser.add_argument("--ttft-ms", type=float, default=50)
    parser.add_argument("--interval-ms", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved; the table shows medians")
    parser.add_argument("--tries", type=int, default=3, help="of a reading that something else disturbed")
    parser.add_argument("--cores", default="0,1", help="of the source, of the tool")
    parser.add_argument("--quiet-s", type=float, default=180, help="wait at most so long for a quiet machine")
    parser.add_argument("--lock", type=Path, help="hold this file's lock during each reading")
    parser.add_argument("--json", type=Path, help="append to this file; default: results/<time>.jsonl")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    cores = [int(core) for core in arguments.cores.split(",")]
    settings = tuple(
        Setting(
            streams=int(streams),
            per_slot=arguments.per_slot,
            tokens=arguments.tokens,
            ttft_ms=arguments.ttft_ms,
            interval_ms=arguments.interval_ms,
            probe=probe,
            cores=(cores[0], cores[-1]),
        )
        for probe in arguments.probes.split(",")
        for streams in arguments.streams.split(",")
    )
    return Plan(
        tuple(_installed(arguments.tools.split(","))),
        settings,
        tuple(arguments.kinds.split(",")),
        arguments.repeats,
        arguments.tries,
        arguments.quiet_s,
        arguments.lock,
    )


def _installed(names: Sequence[str]) -> Iterator[Tool]:
    for name in names:
        if TOOLS[name].installed():
            yield TOOLS[name]
        else:
            print(f"{name} is not installed (make bench-peers, make engine-vllm): left out")


def _readings(plan: Plan, program: Path) -> Iterator[dict[str, Any]]:
    """Every level with every tool, then all again: a drift of the machine meets all of them."""
    for _ in range(plan.repeats):
        if _STARTUP in plan.kinds:
            once = replace(plan, tries=1, quiet_s=0)  # only its CPU time counts
            short = replace(plan.settings[0], streams=4, per_slot=2, probe="none")
            for tool in plan.tools:
                yield _undisturbed(once, program, tool, short) | {"kind": _STARTUP}
        for setting in plan.settings if _LOAD in plan.kinds else ():
            for tool in plan.tools:
                yield _undisturbed(plan, program, tool, setting) | {"kind": _LOAD}


def _undisturbed(plan: Plan, program: Path, tool: Tool, setting: Setting) -> dict[str, Any]:
    """The first reading that nothing disturbed, else the one with the least of it."""
    tried: list[dict[str, Any]] = []
    for _ in range(plan.tries):
        machine.wait_until_quiet(plan.quiet_s)
        with machine.locked(plan.lock):
            tried.append(take(setting, program, tool))
        _say(tried[-1])
        if not tried[-1]["disturbed"]:
            break
    return min(tried, key=badness) | {"setting": asdict(setting), "tries": len(tried)}


def _say(reading: dict[str, Any]) -> None:
    what = reading["error"]
    if what is None:
        what = f"{reading['share']:.1%} of the rate, TTFT {reading['errors']['ttft']['mean']:+.3f} ms"
    marks = f"others {reading['others']:.1%}, steal {reading['steal']:.1%}{' DISTURBED' * reading['disturbed']}"
    print(f"{reading['tool']} x {reading['streams']}: {what}; {reading['cpu_s']:.1f} s CPU; {marks}", flush=True)


if __name__ == "__main__":
    main()
