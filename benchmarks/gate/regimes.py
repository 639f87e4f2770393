"""What keeps a closed loop's requests from falling into step, and by how much it narrows what runs differ by.

    python benchmarks/gate/regimes.py --json benchmarks/gate/results/regimes-2026-11-27.json
    python benchmarks/gate/regimes.py --plan perf_tests/vllm_cpu.yaml --server seqs8 --load short --runs 8

The first is the embedded engine's scheduler in virtual time: nothing is random but when slots start and how long they
take from an answer to their next request. The second measures a load of a plan on its server, in turns as it is and
with a ramp over the time of one request, which starts its slots one by one. Prints a table as markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from scenarios import INPUT, OUTPUT
from virtual import Point, run_slots

from pytest_llmperf.definitions import OUTPUT_RATE, Quantity
from pytest_llmperf.embedded.engine.scheduler import Request
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.metrics.summary import Summary, summarize
from pytest_llmperf.plan.file import load_plan
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.shapes import Ramp
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.servers.start import start_server

QUANTITIES = (Quantity("itl", "p50"), Quantity("ttft", "p50"), OUTPUT_RATE)
SLOW = EngineSettings(step="modelled", max_num_seqs=32, enable_prefix_caching=False)
FAST = replace(SLOW, decode_ms_per_step=1.0, decode_ms_per_seq=0.05, prefill_ms_per_token=0.005, step_overhead_ms=0.2)
ENGINES = {"steps of 6 ms": (SLOW, 1.5e-3, 10e-3), "steps of 1.2 ms": (FAST, 0.6e-3, 4e-3)}
"""Engine, median pause between requests of a slot and latest start of a slot, both in s."""
LENGTHS = {"equal": (256, 20), "differ": (INPUT, OUTPUT)}
STARTS = ("together", "one by one", "lead-in of all lengths", "four phases")
_PHASES = 4
_REQUESTS = 100


class _Shortened(Point):
    """The point with lead-in answers of one length after the other, so that slots are free one by one."""

    def trace(self) -> list[Request]:
        requests = Point.trace(self)
        for slot in range(self.lead_in):
            tokens = max(1, requests[slot].max_tokens * (slot + 1) // self.lead_in)
            requests[slot] = replace(requests[slot], max_tokens=tokens, min_tokens=tokens)
        return requests


@dataclass(frozen=True, slots=True)
class Setting:
    """One closed loop on one engine."""

    engine: str
    concurrency: int
    lengths: str

    def point(self, requests: int = _REQUESTS, seed: int = 41) -> Point:
        load = LoadPoint(
            name="closed", concurrency=self.concurrency, input_tokens=256, output_tokens=20, requests=requests
        )
        return Point(load, *LENGTHS[self.lengths], seed)

    def runs(self, start: str, seeds: range) -> list[list[float]]:
        """The logs of the quantities of each run."""
        first = self._run(self.point(), random.Random(0), 0.0)
        one_s = (first.distributions["e2e"].mean or 0.0) / 1e3
        return [self._values(start, random.Random(seed), one_s) for seed in seeds]

    def _values(self, start: str, draw: random.Random, one_s: float) -> list[float]:
        if start == "four phases":
            parts = [self.point(_REQUESTS // _PHASES, 41 + number) for number in range(_PHASES)]
            logs = [_logs(self._run(part, draw, 0.0)) for part in parts]
            return [statistics.fmean(of_quantity) for of_quantity in zip(*logs, strict=True)]
        plain = self.point()
        shortened = _Shortened(plain.load, plain.input_tokens, plain.output_tokens, plain.seed)
        point = shortened if start == "lead-in of all lengths" else plain
        return _logs(self._run(point, draw, one_s if start == "one by one" else 0.0))

    def _run(self, point: Point, draw: random.Random, over_s: float) -> Summary:
        engine, pause_s, late_s = ENGINES[self.engine]
        slots = range(self.concurrency)
        starts = [draw.uniform(0, late_s) + over_s * slot / self.concurrency for slot in slots]
        return run_slots(engine, point, starts, _pauses(draw, pause_s))


def _pauses(draw: random.Random, median_s: float) -> Iterator[float]:
    while True:
        yield median_s * draw.lognormvariate(0, 1.2)


def _logs(summary: Summary) -> list[float]:
    return [math.log(summary.value(quantity) or math.nan) for quantity in QUANTITIES]


def row(what: Sequence[str], runs: Sequence[Sequence[float]]) -> dict[str, object]:
    """The typical value of each quantity and the sd of its log between runs."""
    columns = dict(zip(map(str, QUANTITIES), zip(*runs, strict=True), strict=True))
    found = {
        name: {"value": math.exp(statistics.median(logs)), "sd": statistics.stdev(logs)}
        for name, logs in columns.items()
    }
    cells = [f"{one['value']:.4g} ± {one['sd']:.1%}" for one in found.values()]
    print(f"| {' | '.join([*what, *cells])} |", flush=True)
    return {"setting": list(what), "runs": len(runs), **found}


def simulated(count: int) -> list[dict[str, object]]:
    rows = []
    for engine, concurrency, lengths, start in product(ENGINES, (4, 16), LENGTHS, STARTS):
        runs = Setting(engine, concurrency, lengths).runs(start, range(1, count + 1))
        rows.append(row([engine, str(concurrency), lengths, start], runs))
    return rows


def measured(path: Path, server: str, load: str, count: int) -> list[dict[str, object]]:
    """One launch of the plan's server; runs of both starts in turns."""
    plan = load_plan(path)
    config = plan.server(server)
    point = next(one for one in plan.load_points() if one.load == load)
    runs: dict[str, list[Run]] = {"together": [], "one by one": []}
    with tempfile.TemporaryDirectory() as logs, start_server(config, Path(logs), ()) as up:
        together = Measurement(up, point, point.name, runs["together"].append)
        asyncio.run(together.run())
        one_s = (summarize(runs["together"][0], point).distributions["e2e"].mean or 0.0) / 1e3
        ramped = point.model_copy(update={"ramp": Ramp.model_validate({"from": 1, "over": f"{one_s} s"})})
        apart = Measurement(up, ramped, point.name, runs["one by one"].append)
        for _ in range(count):
            asyncio.run(apart.run())
            asyncio.run(together.run())
    del runs["together"][0]
    return [
        row([config.name, str(point.concurrency), load, start], [_logs(summarize(run, point)) for run in of_start])
        for start, of_start in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=16, help="per row")
    parser.add_argument("--plan", type=Path, help="measure a load of this plan, in the place of simulating")
    parser.add_argument("--server", help="of the plan")
    parser.add_argument("--load", help="of the plan, a closed loop")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"| where | slots | lengths | start | {' | '.join(map(str, QUANTITIES))} |")
    print("|---|--:|---|---|--:|--:|--:|")
    rows = measured(args.plan, args.server, args.load, args.runs) if args.plan else simulated(args.runs)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
