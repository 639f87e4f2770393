"""How late an open loop of ours sends, and what it takes of its core: against the token source, rate after rate.

python benchmarks/client/open_loop.py --rates 100,500,1000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import source
from tools import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="100,500,1000", help="requests per second, one after the other")
    parser.add_argument("--seconds", type=float, default=6, help="of each rate")
    parser.add_argument("--tokens", type=int, default=10, help="per request, 10 ms apart")
    arguments = parser.parse_args()
    machine.prepare()
    program = source.build(ROOT / ".engines" / "peers")
    print(
        "| req/s | sent late: p50, p99 (ms) | CPU of the core | rate reached | valid |\n| --: | --: | --: | --: | --- |"
    )
    for rate in [float(text) for text in arguments.rates.split(",")]:
        print(_row(rate, _point(program, rate, round(rate * arguments.seconds), arguments.tokens)), flush=True)


def _point(program: Path, rate: float, requests: int, tokens: int) -> dict[str, Any]:
    """The load point of our report; Poisson arrivals."""
    with tempfile.TemporaryDirectory(prefix="bench-client-") as name:
        folder = Path(name)
        with source.running(program, folder / "truth.bin", ["--real-time"], machine.pinned(0)) as served:
            lengths = ["--input-tokens=64", f"--output-tokens={tokens}"]
            load = [f"--request-rate={rate:g}", f"--requests={requests}", *lengths]
            ours = [str(Path(sys.executable).with_name("llmperf")), "profile", "--url", served.url, "--model", "source"]
            command = [*machine.pinned(1), *ours, *load, "--output", str(folder)]
            machine.run(command, environment=os.environ, folder=folder, timeout_s=600)
        point: dict[str, Any] = json.loads((folder / "report.json").read_text())["points"][0]
        return point


def _row(rate: float, point: dict[str, Any]) -> str:
    client = point["runs"][0]["client"]
    late = f"{client['send_late_p50_us'] / 1e3:.3f}, {client['send_late_p99_us'] / 1e3:.3f}"
    reached = client["achieved_rate"] / client["requested_rate"]
    said = "yes" if point["valid"] else "; ".join(point["invalid_reasons"])
    return f"| {rate:g} | {late} | {client['cpu_share']:.0%} | {reached:.1%} | {said} |"


if __name__ == "__main__":
    main()
