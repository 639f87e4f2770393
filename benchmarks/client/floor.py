"""What our client costs beside what the kernel alone asks of any: a C program that does nothing but receive.

    python benchmarks/client/floor.py --streams 256 --rounds 3

Both in turns, from the same token source, on the same core. Machines and hours differ by much more than clients do,
so that the ratio says more than either figure. The C program (floor.c) waits in one epoll and calls recvmsg with the
kernel's stamps; it keeps nothing and understands nothing.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import machine
import source
from reading import Setting, take
from tools import ROOT, TOOLS, Load, Reported, Tool

_CODE = Path(__file__).with_name("floor.c")


class Floor(Tool):
    """The C program. It reports nothing: what it cost is all that is asked."""

    name = "floor"
    report = "none"

    def __init__(self, folder: Path) -> None:
        self.program = folder / "floor"
        subprocess.run(["cc", "-O2", "-o", str(self.program), str(_CODE)], check=True)

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        numbers = (urlsplit(url).port, load.streams, load.requests // load.streams, load.output_tokens)
        return [str(self.program), *map(str, numbers)]

    def read(self, report: Any) -> Reported:
        return {}


def main() -> None:
    arguments = _arguments()
    machine.prepare()
    folder = ROOT / ".engines" / "peers"
    program = source.build(folder)
    floor, ours = Floor(folder), TOOLS["llmperf"]
    start_up = _setting(streams=4, per_slot=1)
    load = _setting(arguments.streams, per_slot=4)
    print("floor µs/token, llmperf µs/token (without start-up), times the floor, the host took (floor; llmperf)")
    ratios: list[float] = []
    for _ in range(arguments.rounds):
        bare, idle, full = take(load, program, floor), take(start_up, program, ours), take(load, program, ours)
        least = bare["cpu_s"] / bare["tokens"] * 1e6
        cost = (full["cpu_s"] - idle["cpu_s"]) / (full["tokens"] - idle["tokens"]) * 1e6
        ratios.append(cost / least)
        print(f"{least:.1f}, {cost:.1f}, {cost / least:.2f}, {bare['steal']:.2%}; {full['steal']:.2%}", flush=True)
    print(f"median: {median(ratios):.2f} times the floor")


def _setting(streams: int, per_slot: int) -> Setting:
    return Setting(streams, per_slot, tokens=200, ttft_ms=50.0, interval_ms=10.0, probe="none", cores=(0, 1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
