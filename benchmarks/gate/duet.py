"""A duet (A B B A …) beside the stored baseline, on the same hosts: how often each is wrong, and what it takes.

    python benchmarks/gate/duet.py --json benchmarks/gate/results/duet-2026-11-27.json

The baseline is five sessions x three runs, and the session of the candidate one more. What a duet's servers have in
common is not known before, so that there are three: `duet`, in which the session's factor is the machine's and meets
both servers; `duet, launches differ`, in which each server has a factor of its own, as where what differs is what a
launch happens to get (memory layout, compiled kernels); and `duet, relaunched`, the same with a launch for every run.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from record import Recorder
from scenarios import CHANGES, HOSTS, POINTS, Change, gated
from study import Trial, decide

from pytest_llmperf.gate.regression import duet_rules
from pytest_llmperf.gate.verdict import PointVerdict, Series, judge
from pytest_llmperf.metrics.stats.margins import duet, tolerance

_RULES = duet_rules("default")
_REQUESTS = 200
_CHANGES = ("none", "+3 % step", "+5 % step", "+10 % step")
Place = Callable[[int, int], tuple[int, int]]
"""Side (0: old) and number of the pair to the session and the run whose noise the run has."""
DUETS: Mapping[str, Place] = {
    "duet": lambda side, pair: (0, 2 * pair + side),
    "duet, launches differ": lambda side, pair: (side, pair),
    "duet, relaunched": lambda side, pair: (2 * pair + side, 0),
}


def decide_duet(trial: Trial, recorder: Recorder, place: Place) -> dict[str, tuple[PointVerdict, int]]:
    """One session of pairs: three of every point, then more where they are asked for. Runs count both servers."""
    pairs = dict.fromkeys(POINTS, _RULES.first_runs)
    while True:
        verdicts = judge({point: _series(trial, recorder, place, point, pairs[point]) for point in POINTS}, _RULES)
        again = [point for point, found in verdicts.items() if found.run_again]
        if not again:
            return {point: (verdicts[point], 2 * pairs[point]) for point in POINTS}
        for point in again:
            pairs[point] += 1


def _series(trial: Trial, recorder: Recorder, place: Place, point: str, pairs: int) -> list[Series]:
    old, new = (
        [recorder.values(trial.host, change, point, trial.seed, *place(side, pair)) for pair in range(pairs)]
        for side, change in enumerate((Change(), trial.change))
    )
    return [
        Series(
            quantity,
            margin,
            duet(tolerance(quantity).prior),
            (tuple(run.get(quantity) for run in old),),
            (tuple(run.get(quantity) for run in new),),
            (_REQUESTS,) * 2 * pairs,
            "duet",
        )
        for quantity, margin in gated(point).items()
    ]


def row(host: str, change: str, design: str, seeds: range, recorder: Recorder) -> dict[str, Any]:
    """Counts of verdicts over all points of these trials, with the runs and their seconds per point."""
    verdicts, runs, seconds = Counter[str](), 0, 0.0
    for seed in seeds:
        trial = Trial(host, CHANGES[change], seed)
        found = decide_duet(trial, recorder, DUETS[design]) if design in DUETS else decide(trial, recorder)
        for point, (verdict, taken, *_) in found.items():
            verdicts[verdict.verdict] += 1
            runs += taken
            seconds += taken * recorder.seconds(point)
    points = verdicts.total()
    head = {"host": host, "change": change, "design": design, "points": points}
    return head | {"verdicts": dict(verdicts), "runs": runs / points, "seconds": seconds / points}


def markdown(found: Mapping[str, Any]) -> str:
    shares = (found["verdicts"].get(name, 0) / found["points"] for name in ("FAIL", "INCONCLUSIVE", "IMPROVED"))
    cells = [found["host"], found["change"], found["design"], str(found["points"]), *(f"{s:.1%}" for s in shares)]
    return f"| {' | '.join(cells)} | {found['runs']:.1f} | {found['seconds']:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="Sessions of two points, per row")
    parser.add_argument("--first-seed", type=int, default=9000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seeds, recorder, rows = range(args.first_seed, args.first_seed + args.trials), Recorder(), []
    print("| host | change | design | points | FAIL | INCONCLUSIVE | IMPROVED | runs | seconds |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    for host in HOSTS:
        for change in _CHANGES:
            for design in ("stored baseline", *DUETS):
                rows.append(row(host, change, design, seeds, recorder))
                print(markdown(rows[-1]), flush=True)
    if args.json:
        facts = {"first_seed": args.first_seed, "trials": args.trials, "rules": asdict(_RULES), "table": rows}
        args.json.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
