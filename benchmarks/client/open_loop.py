"""How late an open loop of ours sends, and what it takes of its core: against the token source, rate after rate.

    python benchmarks/client/open_loop.py --rates 100,500,1000

Every reading is appended to the file that --json names, as soon as it is there; the table is of all that the file has.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import machine
import source
from table import read
from tools import ROOT, TOOLS

_RESULTS = Path(__file__).parent / "results"
_HEADER = """\
| req/s | readings | sent late p50 (ms) | sent late p99: median, worst (ms) | CPU of the core | rate reached | valid |
| --: | --: | --: | --: | --: | --: | --- |"""


def main() -> None:
    arguments = _arguments()
    machine.prepare()
    program = source.build(ROOT / ".engines" / "peers")
    path = arguments.json or _RESULTS / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}_open.jsonl"
    version = TOOLS["llmperf"].version()
    for _ in range(arguments.repeats):
        for rate in [float(text) for text in arguments.rates.split(",")]:
            reading = _reading(program, rate, round(rate * arguments.seconds), arguments.tokens)
            with path.open("a") as file:
                file.write(json.dumps(reading | {"version": version, "machine": machine.description()}) + "\n")
    print(markdown(read([path])))
    print(f"\nraw: {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="100,500,1000", help="requests per second, one after the other")
    parser.add_argument("--repeats", type=int, default=1, help="interleaved")
    parser.add_argument("--seconds", type=float, default=6, help="of each rate")
    parser.add_argument("--tokens", type=int, default=10, help="per request, 10 ms apart")
    parser.add_argument("--json", type=Path, help="append to this file; default: results/<time>_open.jsonl")
    return parser.parse_args()


def _reading(program: Path, rate: float, requests: int, tokens: int) -> dict[str, Any]:
    """Poisson arrivals; what our report says of its run, and whether it was valid."""
    with tempfile.TemporaryDirectory(prefix="bench-client-") as name:
        folder = Path(name)
        with source.running(program, folder / "truth.bin", ["--real-time"], machine.pinned(0)) as served:
            command = [*machine.pinned(1), *_command(served.url, rate, requests, tokens), "--output", str(folder)]
            machine.run(command, environment=os.environ, folder=folder, timeout_s=600)
        point: dict[str, Any] = json.loads((folder / "report.json").read_text())["points"][0]
    run = point["runs"][0]
    said = {key: point[key] for key in ("valid", "invalid_reasons")} | {"repeats": run["repeats"]}
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "rate": rate} | said | {"client": run["client"]}


def _command(url: str, rate: float, requests: int, tokens: int) -> list[str]:
    load = [f"--request-rate={rate:g}", "--arrival=poisson", f"--requests={requests}"]
    lengths = ["--input-tokens=64", f"--output-tokens={tokens}"]
    ours = Path(sys.executable).with_name("llmperf")
    return [str(ours), "profile", "--url", url, "--model", "source", *load, *lengths]


def markdown(readings: Sequence[dict[str, Any]]) -> str:
    rates = sorted({reading["rate"] for reading in readings})
    return "\n".join([_HEADER, *(_row(rate, [r for r in readings if r["rate"] == rate]) for rate in rates)])


def _row(rate: float, readings: Sequence[dict[str, Any]]) -> str:
    clients = [reading["client"] for reading in readings]
    early, late = ([client[f"send_late_{p}_us"] / 1e3 for client in clients] for p in ("p50", "p99"))
    share = median(client["cpu_share"] for client in clients)
    reached = median(client["achieved_rate"] / client["requested_rate"] for client in clients)
    reasons = dict.fromkeys(reason for reading in readings for reason in reading["invalid_reasons"])
    valid = "; ".join([f"{sum(reading['valid'] for reading in readings)} of {len(readings)}", *reasons])
    lateness = f"{median(early):.3f} | {median(late):.3f}, {max(late):.3f}"
    return f"| {rate:g} | {len(readings)} | {lateness} | {share:.0%} | {reached:.1%} | {valid} |"


if __name__ == "__main__":
    main()
