"""How often the gate is wrong, against the embedded engine in virtual time, and how often the rules of others are.

    python benchmarks/gate/study.py --json benchmarks/gate/results/2026-11-21.json

A trial is one session of two points against a baseline of five sessions x three runs. Prints one table as markdown.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from drift import drift_study
from peers import RULES
from record import Recorder, rounding_errors
from scenarios import CHANGES, HOSTS, POINTS, Change, gated

from pytest_llmperf.gate.rules import DEFAULT
from pytest_llmperf.gate.verdict import PerRun, PointVerdict, Series, judge
from pytest_llmperf.metrics.stats.margins import tolerance

BASELINE_RUNS = 3
_PEER_RUNS = 5
_REQUESTS = 200
_REQUIRED = ("typical", "launch-dominated")
"""Hosts for which the project states what must be reached."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One session: which draws, on which host, with which change."""

    host: str
    change: Change
    seed: int
    sessions: int = 5
    """Of the baseline."""

    def baseline(self, recorder: Recorder, point: str) -> list[list[Any]]:
        return [
            [recorder.values(self.host, Change(), point, self.seed, s, r) for r in range(BASELINE_RUNS)]
            for s in range(self.sessions)
        ]


@dataclass(slots=True)
class Candidate:
    """The runs of one point so far, by launch of the server."""

    trial: Trial
    recorder: Recorder
    point: str
    launches: list[list[Any]] = field(default_factory=lambda: [[]])

    def run(self, relaunch: bool) -> None:
        if relaunch:
            self.launches.append([])
        session, run = self.trial.sessions + len(self.launches) - 1, len(self.launches[-1])
        values = self.recorder.values(self.trial.host, self.trial.change, self.point, self.trial.seed, session, run)
        self.launches[-1].append(values)

    @property
    def runs(self) -> int:
        return sum(map(len, self.launches))


@dataclass(slots=True)
class Tally:
    """Counts over points of one host and change."""

    points: int = 0
    runs: int = 0
    launches: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    peers: Counter[str] = field(default_factory=Counter)
    metrics: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        counters = {"verdicts": self.verdicts, "peers": self.peers, "metrics": self.metrics}
        return {
            "points": self.points,
            "runs": self.runs,
            "launches": self.launches,
            **{name: dict(sorted(counter.items())) for name, counter in counters.items()},
        }


def decide(trial: Trial, recorder: Recorder) -> dict[str, tuple[PointVerdict, int, int]]:
    """Verdict, runs and launches of each point of one session: three runs of all in turn, reruns where asked for."""
    baselines = {point: trial.baseline(recorder, point) for point in POINTS}
    candidates = {point: Candidate(trial, recorder, point) for point in POINTS}
    asked = dict.fromkeys(POINTS, False)
    for _ in range(DEFAULT.first_runs - 1):
        for candidate in candidates.values():
            candidate.run(relaunch=False)
    while asked:
        for point, relaunch in asked.items():
            candidates[point].run(relaunch)
        verdicts = judge({point: series(point, baselines[point], candidates[point].launches) for point in POINTS})
        asked = {point: found.relaunch for point, found in verdicts.items() if found.run_again}
    return {point: (verdicts[point], candidates[point].runs, len(candidates[point].launches)) for point in POINTS}


def series(point: str, baseline: list[list[Any]], launches: list[list[Any]]) -> list[Series]:
    """Every gated metric of a point against one reference."""
    requests = (_REQUESTS,) * sum(map(len, (*baseline, *launches)))
    return [
        Series(quantity, margin, tolerance(quantity).prior, _of(quantity, baseline), _of(quantity, launches), requests)
        for quantity, margin in gated(point).items()
    ]


def _of(quantity: Any, sessions: list[list[Any]]) -> PerRun:
    return tuple(tuple(run[quantity] for run in runs) for runs in sessions)


def peer_verdicts(trial: Trial, recorder: Recorder, point: str) -> Iterator[str]:
    """Names of the tools' rules that call this point worse."""
    baseline = [run for runs in trial.baseline(recorder, point) for run in runs]
    candidate = Candidate(trial, recorder, point)
    for _ in range(_PEER_RUNS):
        candidate.run(relaunch=False)
    then, now = (_worse_is_more(point, runs) for runs in (baseline, candidate.launches[0]))
    return (name for name, rule in RULES.items() if rule(then, now))


def _worse_is_more(point: str, runs: list[Any]) -> Any:
    sign = np.array([-1.0 if quantity.better == "higher" else 1.0 for quantity in gated(point)])
    return np.array([[run[quantity] for quantity in gated(point)] for run in runs]) ** sign


def tally(host: str, change: Change, seeds: range, recorder: Recorder, sessions: int) -> Tally:
    found = Tally()
    for seed in seeds:
        trial = Trial(host, change, seed, sessions)
        for point, (verdict, runs, launches) in decide(trial, recorder).items():
            found.points += 1
            found.runs += runs
            found.launches += launches
            found.verdicts[verdict.verdict] += 1
            found.metrics.update(f"{m.series.quantity} {m.verdict}" for m in verdict.metrics if m.verdict != "PASS")
            found.peers.update(peer_verdicts(trial, recorder, point))
    return found


def markdown(rows: dict[tuple[str, str], Tally]) -> str:
    header = ["host", "change", "points", "FAIL", "INCONCLUSIVE", "IMPROVED", "runs", "launches", *RULES]
    lines = [header, ["---", "---", *["--:"] * (len(header) - 2)]]
    for (host, change), found in rows.items():
        shares = [found.verdicts[name] / found.points for name in ("FAIL", "INCONCLUSIVE", "IMPROVED")]
        others = [found.peers[name] / found.points for name in RULES]
        cells = [
            *(f"{share:.1%}" for share in shares),
            f"{found.runs / found.points:.2f}",
            f"{found.launches / found.points:.2f}",
            *(f"{s:.1%}" for s in others),
        ]
        lines.append([host, change, str(found.points), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    args = _arguments()
    recorder = Recorder()
    rows: dict[tuple[str, str], Tally] = {}
    for host in args.hosts.split(","):
        for change in args.changes.split(","):
            few = CHANGES[change].stall_rate_per_s or host not in _REQUIRED
            seeds = range(args.first_seed, args.first_seed + (args.few_trials if few else args.trials))
            rows[host, change] = tally(host, CHANGES[change], seeds, recorder, args.sessions)
            print(markdown({(host, change): rows[host, change]}).splitlines()[-1], flush=True)
            write(args, rows, None)
    drift = None if args.no_drift else drift_study(recorder, args.first_seed)
    print("\n" + markdown(rows) + "\n\n" + json.dumps(drift, indent=1))
    write(args, rows, drift)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=250, help="Trials where the project states what must be reached")
    parser.add_argument("--few-trials", type=int, default=40, help="Trials elsewhere, and where stalls are frequent")
    parser.add_argument("--first-seed", type=int, default=5000)
    parser.add_argument("--hosts", default=",".join(HOSTS), help="Separated by commas")
    parser.add_argument("--changes", default=",".join(CHANGES), help="Separated by commas")
    parser.add_argument("--sessions", type=int, default=5, help="Of the baseline, three runs each")
    parser.add_argument("--no-drift", action="store_true", help="Leave out the histories that drift")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def write(args: argparse.Namespace, rows: dict[tuple[str, str], Tally], drift: Any) -> None:
    """The results so far; the drift's are None until all rows are there."""
    if not args.json:
        return
    document = {
        "first_seed": args.first_seed,
        "baseline": {"sessions": args.sessions, "runs": BASELINE_RUNS},
        "rules": asdict(DEFAULT),
        "hosts": {name: asdict(host) for name, host in HOSTS.items()},
        "changes": {name: asdict(change) for name, change in CHANGES.items()},
        "rounding_errors": rounding_errors(HOSTS["typical"], range(5)) if drift else None,
        "table": [{"host": host, "change": change, **found.as_dict()} for (host, change), found in rows.items()],
        "drift": drift,
    }
    args.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
