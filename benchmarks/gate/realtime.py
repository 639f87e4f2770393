"""The gate in real time: real servers, sockets and clocks, with the noise of a typical host in the engine's steps.

The study simulates hundreds of trials; this takes a few dozen to show that the same gate on real measurements errs as
rarely. Baselines are drawn from a pool of sessions, every trial's candidate is a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from scenarios import HOSTS, INPUT, OUTPUT

from pytest_llmperf.gate.baselines.growth import recorded, stored_session
from pytest_llmperf.gate.regression import gated_margins, gated_series, launch_sizes
from pytest_llmperf.gate.verdict import PointVerdict, judge
from pytest_llmperf.metrics.result import Result, make_result
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.telemetry.environment import environment

# Lengths differ, as in the study: requests of one length fall into step with one another, and stay in it.
POINT = LoadPoint(
    name="closed", input_tokens=INPUT, output_tokens=OUTPUT, concurrency=16, requests=100, seed=41, warmup_requests=2
)
MARGINS = gated_margins(POINT, {})
_STEP_MS = {"decode-ms-per-step": 5.0, "decode-ms-per-seq": 0.1, "prefill-ms-per-token": 0.02, "step-overhead-ms": 0.5}
_POOL, _SESSIONS, _RUNS = 15, 5, 3


def server(seed: int, session: int, step: float) -> EmbeddedServer:
    """One session's engine; every cost of a step times `step`."""
    host = HOSTS["typical"]
    noise = {
        "noise-seed": seed,
        "noise-session": session,
        "session-sd": host.session_sd,
        "run-sd": host.run_sd,
        "stall-rate-per-s": host.stall_rate_per_s,
        "stall-ms": host.stall_ms,
    }
    costs = {name: cost * step for name, cost in _STEP_MS.items()}
    return EmbeddedServer(
        engine="embedded", name="e", model="embedded", args={"step": "modelled", "max-num-seqs": 32, **costs, **noise}
    )


class Candidate:
    """A session of a server of its own that takes as many runs as the verdict needs."""

    def __init__(self, config: EmbeddedServer, logs: Path) -> None:
        self._config, self._logs = config, logs
        self._runs: list[Run] = []

    def results(self) -> Iterator[Result]:
        """After every run the result so far."""
        with start_server(self._config, self._logs, ()) as up:
            measurement = Measurement(up, POINT, POINT.name, self._runs.append)
            facts = environment(self._config, up.version, ())
            while True:
                asyncio.run(measurement.run())
                # What a change of the engine's arguments would be called is not what is studied here.
                yield make_result("e-closed", replace_args(self._config), POINT, facts, self._runs)


def replace_args(config: EmbeddedServer) -> EmbeddedServer:
    return config.model_copy(update={"args": {}})


def pooled(seed: int, logs: Path) -> list[Result]:
    """Results of the sessions that baselines are drawn from."""
    return [nth(Candidate(server(seed, number, 1.0), logs).results(), _RUNS - 1) for number in range(_POOL)]


def nth(results: Iterator[Result], place: int) -> Result:
    """The result after `place` + 1 runs; the server is stopped."""
    for index, result in enumerate(results):
        if index == place:
            results.close()  # type: ignore[attr-defined]
            return result
    raise AssertionError("results do not end")


def trial(pool: Sequence[Result], config: EmbeddedServer, logs: Path, draw: random.Random) -> tuple[PointVerdict, int]:
    """The verdict on a candidate, and the runs that it took."""
    chosen = draw.sample(list(pool), _SESSIONS)
    sessions = tuple(
        stored_session(result, datetime(2026, 1, 1 + day, tzinfo=UTC), None, launch_sizes(result))
        for day, result in enumerate(chosen)
    )
    baseline = recorded(Path("baseline.json"), "realtime", chosen[0], sessions[0], MARGINS)
    baseline = replace(baseline, rolling=sessions, anchor=sessions)
    results = Candidate(config, logs).results()
    for runs, result in enumerate(results, start=1):
        if not result.valid:
            print("  INVALID:", result.invalid_reasons[0], file=sys.stderr)
        series, _ = gated_series(baseline, result, MARGINS)
        verdict = judge({"closed": series})["closed"]
        if not verdict.run_again:
            results.close()  # type: ignore[attr-defined]
            return verdict, runs
    raise AssertionError("results do not end")


def study(trials: int, seed: int) -> dict[str, object]:
    draw = random.Random(seed)
    found: dict[str, object] = {"seed": seed, "trials": trials, "requests": POINT.requests}
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        pool = pooled(seed, logs)
        for label, step in (("none", 1.0), ("+10 % step", 1.10)):
            outcomes = []
            for number in range(trials):
                verdict, runs = trial(pool, server(seed, 1000 + number + int(step * 1e4), step), logs, draw)
                outcomes.append((verdict.verdict, runs))
                why = [f"{m.series.quantity}: {m.reason}" for m in verdict.metrics if m.verdict == verdict.verdict]
                print(f"{label} {number + 1}/{trials}: {verdict.verdict} after {runs} runs; {why[0]}", file=sys.stderr)
            counts = Counter(name for name, _ in outcomes)
            found[label] = {
                "verdicts": dict(sorted(counts.items())),
                "runs_mean": round(sum(runs for _, runs in outcomes) / trials, 2),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=15, help="per change")
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--json", type=Path, help="write the counts here")
    given = parser.parse_args()
    found = study(given.trials, given.seed)
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if given.json:
        given.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
