"""What a verdict in doubt says about the runs that it was made from."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from samples import record, result, run, steady_run

from pytest_llmperf.gate.judge import Judge


def measured(*sds, requests=60, slower=1.0):
    """Runs of one slot whose requests differ by these sds of their log, beside what their lengths make."""
    runs = []
    for index, sd in enumerate(sds):
        draw, now_ms, records = random.Random(index), 0.0, []
        for _ in range(requests):
            gap_ms = 10.0 * slower * draw.lognormvariate(0, sd)
            records.append(record(now_ms, [now_ms + gap_ms * number for number in (1, 2, 3, 4)]))
            now_ms += 4 * gap_ms
        made = run(records, index)
        runs.append(replace(made, ended_ns=made.started_ns + round(now_ms * 1e6)))
    return result(runs)


def notes(new, old):
    found = Judge(Path("none"), margins={"itl_mean": 0.05}).regression("t", replace(new, reference=old))
    return found.verdict, [note for note in found.notes if "short" in note or "drifted" in note]


def test_doubt_tells_that_the_runs_are_too_short():
    verdict, told = notes(measured(*[0.6] * 8, slower=1.06), measured(*[0.6] * 8))
    assert verdict == "INCONCLUSIVE"
    assert len(told) == 1
    assert told[0].startswith("runs of ")
    assert "of its own" in told[0]


@pytest.mark.parametrize("slower", [0.5, 1.0])
def test_what_is_decided_needs_no_longer_runs(slower):
    verdict, told = notes(measured(*[0.01] * 5, slower=slower), measured(*[0.01] * 5))
    assert verdict in ("PASS", "IMPROVED")
    assert not told


def test_doubt_says_what_its_width_comes_from():
    new, old = measured(*[0.6] * 8, slower=1.06), measured(*[0.6] * 8)
    found = Judge(Path("none"), margins={"itl_mean": 0.05}).regression("t", replace(new, reference=old))
    of_mean = next(m for m in found.metrics if str(m.series.quantity) == "itl_mean")
    assert of_mean.noise.within_runs > 0.4
    assert of_mean.noise.launches == of_mean.noise.sessions == 0  # of a duet: both servers were in one session


def test_a_verdict_without_doubt_is_not_taken_apart():
    new, old = measured(*[0.01] * 5), measured(*[0.01] * 5)
    found = Judge(Path("none")).regression("t", replace(new, reference=old))
    assert all(metric.noise is None for metric in found.metrics)


@pytest.mark.parametrize("why", ["ended", "recorded", "nothing to compare with"])
def test_a_test_without_a_comparison_makes_no_other_one_doubtful(why, tmp_path):
    new, old = (result([steady_run(number, slowness) for number in range(5)]) for slowness in (1.03, 1.0))
    judge = Judge(tmp_path, margins={"itl_p50": 0.01}, recording="missing" if why == "recorded" else "nothing")
    others = [f"t[{number}]" for number in range(200)]

    def verdict():
        found = judge.regression("t", replace(new, reference=old))
        return next(m.verdict for m in found.metrics if str(m.series.quantity) == "itl_p50")

    for other in others:
        judge.expect(other, new.load, {}, frozenset({"baseline"}))
    assert verdict() == "INCONCLUSIVE"
    for other in others:
        if why == "ended":
            judge.settle(other)
        else:
            assert not judge.doubt(other, new, frozenset({"baseline"})).reasons
    assert verdict() == "FAIL"
