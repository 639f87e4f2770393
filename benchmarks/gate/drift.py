"""Boiling frog: every session one per cent slower than the one before. Who notices, and at which session?

The rolling baseline holds the last eight sessions that passed, the anchor the first five for ever.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

from record import Recorder
from scenarios import POINTS, Change, gated

from pytest_llmperf.gate.rules import DEFAULT
from pytest_llmperf.gate.verdict import PerRun, Reference, Series, judge
from pytest_llmperf.metrics.stats.margins import tolerance

_ANCHOR, _ROLLING, _RUNS = 5, 8, 3
_HOST = "typical"


def drift_study(recorder: Recorder, first_seed: int, histories: int = 30, sessions: int = 30) -> dict[str, Any]:
    """By per-session drift: in how many histories each reference failed, and at which session (median) first."""
    found = {}
    for drift in (0.0, 0.01):
        seeds = range(first_seed, first_seed + histories)
        firsts = {
            reference: [_first_failure(recorder, reference, drift, seed, sessions) for seed in seeds]
            for reference in ("rolling", "anchor")
        }
        found[f"{drift:+.0%} per session"] = {name: _summary(first) for name, first in firsts.items()}
    return found


def _summary(first: list[int | None]) -> dict[str, Any]:
    failed = [session for session in first if session is not None]
    return {"histories": len(first), "failed": len(failed), "median_session": median(failed) if failed else None}


def _first_failure(recorder: Recorder, reference: Reference, drift: float, seed: int, sessions: int) -> int | None:
    """The session after the anchor's (from 1) that failed against this reference; None when none of them did."""
    start = [_session(recorder, 1.0, seed, number, _RUNS) for number in range(_ANCHOR)]
    held: deque[dict[str, list[Any]]] = deque(start, maxlen=_ROLLING)
    for number in range(1, sessions + 1):
        verdicts, runs = _judged(recorder, list(held), reference, (1 + drift) ** number, seed, _ANCHOR + number - 1)
        if "FAIL" in verdicts.values():
            return number
        if reference == "rolling" and set(verdicts.values()) <= {"PASS"}:
            held.append({point: taken[:_RUNS] for point, taken in runs.items()})
    return None


def _session(recorder: Recorder, factor: float, seed: int, session: int, runs: int) -> dict[str, list[Any]]:
    change = Change(step=factor)
    return {point: [recorder.values(_HOST, change, point, seed, session, r) for r in range(runs)] for point in POINTS}


def _judged(
    recorder: Recorder, held: list[dict[str, list[Any]]], reference: Reference, factor: float, seed: int, session: int
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Verdicts by point with as many runs as they asked for, and the runs."""
    runs = DEFAULT.first_runs
    while True:
        taken = _session(recorder, factor, seed, session, runs)
        points = {point: _series(point, held, taken[point], reference) for point in POINTS}
        found = judge(points)
        if runs == DEFAULT.most_runs or not any(verdict.run_again for verdict in found.values()):
            return {point: verdict.verdict for point, verdict in found.items()}, taken
        runs += 1


def _series(point: str, held: list[dict[str, list[Any]]], now: list[Any], reference: Reference) -> list[Series]:
    def per_run(quantity: Any) -> PerRun:
        return tuple(tuple(run[quantity] for run in session[point]) for session in held)

    return [
        Series(
            quantity,
            margin,
            tolerance(quantity).prior,
            per_run(quantity),
            (tuple(run[quantity] for run in now),),
            (200,) * (len(held) * _RUNS + len(now)),
            reference,
        )
        for quantity, margin in gated(point).items()
    ]
