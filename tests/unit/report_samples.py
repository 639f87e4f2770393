"""A session's outcomes with everything that the reports tell: a sweep on two servers, failures, names that bite."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from samples import failed, point, record, result, run, server

from pytest_llmperf.gate.baselines.growth import recorded, stored_session
from pytest_llmperf.gate.regression import Regression, gated_margins, gated_series
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.gate.verdict import judge
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.histogram import merged
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import RequestRecord, Run
from pytest_llmperf.runner.outcomes import Outcome

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = "</script><script>document.title='evil'</script><img src=http://evil.example/x onerror=alert(1)>"
RUNS = 5


def noisy_run(index: int, slowness: float, load: LoadPoint, seed: int = 1) -> Run:
    """Closed loop whose latencies grow with its concurrency; every 50th request fails."""
    chance = random.Random(f"{seed}-{index}-{load.name}")
    return run(list(_requests(chance, slowness, load)), index)


def _requests(chance: random.Random, slowness: float, load: LoadPoint) -> Iterator[RequestRecord]:
    slots = [0.0] * (load.concurrency or 1)
    for number in range(load.requests or 0):
        slot = slots.index(min(slots))
        begin, many = slots[slot], len(slots)
        first = begin + slowness * (15 + 3 * many) * chance.lognormvariate(0, 0.25)
        chunks = [first]
        for _ in range(15):
            chunks.append(chunks[-1] + slowness * (5 + 0.4 * many) * chance.lognormvariate(0, 0.1))
        slots[slot] = chunks[-1]
        bad = number % 50 == 49
        yield failed(begin, first, error=f"HTTP 500 {EVIL}") if bad else record(begin, chunks, end_ms=chunks[-1])


def measured(name: str, load: LoadPoint, slowness: float, seed: int = 1) -> Result:
    config = server("{engine: embedded}").model_copy(update={"name": name})
    found = result([noisy_run(n, slowness, load, seed) for n in range(RUNS)], config, load)
    return replace(found, point_id=f"{name}-{load.name}")


@functools.cache
def outcomes() -> tuple[list[Outcome], dict[str, dict[str, dict[int, int]]]]:
    """Points, and the baselines' histograms by test."""
    held, baselines = [], {}
    for name, slowness in (("tp8pp1", 1.3), ("tp4pp2", 1.0)):
        for count in (1, 4, 16):
            sla = {"ttft_p99": "<= 110 ms", "error_rate": "<= 0.1"}
            load = point(name=f"chat-c{count}", concurrency=count, requests=150, sla=sla)
            outcome, histograms = _checked(measured(name, load, slowness), measured(name, load, 1.0, 2))
            held.append(outcome)
            baselines[outcome.test] = histograms
    skipped = Outcome("t[tp2]", "tp2-chat", None, error="skipped: needs 8 GPUs, this machine has 0")
    dead = Outcome("t[dead]", f"dead-{EVIL}", None, error=f"Failed: exited with 1: {EVIL}\nlog", passed=False)
    return [*held, skipped, dead], baselines


def _checked(found: Result, then: Result) -> tuple[Outcome, dict[str, dict[int, int]]]:
    margins = gated_margins(found.load, {})
    stored = recorded(Path("b.json"), "t", then, stored_session(then, STARTED, None), margins)
    series, _ = gated_series(stored, found, margins)
    regression = Regression(judge({"a": series})["a"], ("driver was 1, is 2",))
    sla = check_sla(found.load.sla, found, 8)
    passed = regression.verdict != "FAIL" and all(check.ok for check in sla)
    error = None if passed else "AssertionError: it is worse"
    test = f"perf_tests/test_a.py::test_serving[{found.point_id}]"
    outcome = Outcome(test, found.point_id, found, sla, regression, error, passed=passed)
    histograms = {name: merged(r.histograms[name] for s in stored.rolling for r in s.runs) for name in ("ttft", "e2e")}
    return outcome, histograms
