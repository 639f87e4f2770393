"""Windows until three in a row agree."""

import asyncio
from types import SimpleNamespace

import pytest
from samples import failed, point, result, run, steady_run

from pytest_llmperf.metrics.summary import summarize
from pytest_llmperf.metrics.trust.stability import steadiness
from pytest_llmperf.plan.load.point import Stability
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.runner.describe import describe_load
from pytest_llmperf.runner.measure import measurement as module
from pytest_llmperf.runner.measure.measurement import Measurement

ASKED = Stability(within="10 %", max_windows=5)


def steady(*slowness: float):
    return steadiness([summarize(steady_run(slowness=s), point()) for s in slowness], ASKED)


@pytest.mark.parametrize(
    ("slowness", "reached"),
    [
        ((1.0,), False),
        ((1.0, 1.0), False),
        ((1.0, 1.0, 1.0), True),
        ((1.0, 1.05, 1.09), True),
        ((1.0, 1.05, 1.12), False),
        ((3.0, 2.0, 1.0, 1.05, 1.05), True),
        ((1.0, 1.0, 1.0, 1.2), False),
    ],
)
def test_the_last_three_must_agree(slowness, reached):
    assert steady(*slowness).reached is reached


def test_how_far_they_differ():
    found = steady(1.0, 1.05, 1.12)
    assert (found.throughput_spread, found.latency_spread) == (pytest.approx(0.12, abs=1e-6), pytest.approx(0.12))
    assert "throughput differs by 12.0% and mean latency by 12.0%, 10% allowed" in found.describe()


def test_windows_without_a_success_are_not_stable():
    empty = [summarize(run([failed()]), point())] * 3
    assert not steadiness(empty, ASKED).reached
    assert "what cannot be told" in steadiness(empty, ASKED).describe()


class Server:
    targets = instances = ()
    balance = "least-inflight"
    launches = 1
    config = SimpleNamespace(is_started=False)
    cpu_use_is_separate = False

    def check_alive(self):
        pass

    def check_ours(self):
        return ()

    def reading(self):
        """It counts nothing itself."""

    def begin_watching(self):
        pass

    def end_watching(self):
        """Nothing is sampled."""


@pytest.mark.parametrize(
    ("slowness", "windows", "valid"),
    [
        ((3.0, 2.0, 1.0, 1.0, 1.0), 5, True),
        ((1.0, 1.0, 1.0, 9.0, 9.0), 3, True),
        ((1.0, 2.0, 4.0, 8.0, 16.0), 5, False),
    ],
)
def test_windows_are_measured_until_they_agree_and_the_last_three_are_the_result(slowness, windows, valid, monkeypatch):
    load = point(stability=ASKED)
    measured = []

    async def execute(targets, load, trace, *, run_index, salt, workers=1, **options):
        return steady_run(run_index, slowness[run_index])

    async def nothing(*args, **options):
        pass

    monkeypatch.setattr(module, "run_load", execute)
    monkeypatch.setattr(module, "run_workers", execute)
    monkeypatch.setattr(module, "warm_up", nothing)
    measurement = Measurement(Server(), load, "key", measured.append)
    while not measurement.steady and len(measured) < ASKED.max_windows:
        asyncio.run(measurement.run())
    assert len(measured) == windows
    found = result(measured, load=load)
    assert [r.index for r in found.runs] == list(range(windows))[-3:]
    assert found.steadiness.windows == windows
    assert found.valid is valid
    assert any("stable: over the last 3" in text for text in (found.remarks if valid else found.invalid_reasons))


def test_windows_that_a_gate_adds_later_count_too():
    load = point(stability=ASKED)
    runs = [steady_run(index, slowness) for index, slowness in enumerate((3.0, 1.0, 1.0, 1.0, 1.5))]
    found = result(runs, load=load)
    assert [r.index for r in found.runs] == [1, 2, 3, 4]
    assert (found.steadiness.windows, found.valid) == (4, True)


def spec(**fields):
    return LoadSpec(**({"input_tokens": 8, "concurrency": 2} | fields)).points("a")[0]


def test_a_window_is_the_loads_requests():
    load = spec(stability={"window": 50, "within": "5 %", "max_windows": 7})
    assert (load.requests, load.stability.within, load.stability.max_windows) == (50, 0.05, 7)
    assert spec(requests=20, stability={}).requests == 20
    assert "until stable, at most 7 windows x 50 requests" in describe_load(load, 7)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"requests": 20, "stability": {"window": 50}}, "requests: 20 and stability.window: 50 differ"),
        ({"stability": {"within": "5 %"}}, "requests"),
        ({"requests": 20, "stability": {"max_windows": 2}}, "greater than or equal to 3"),
        ({"requests": 20, "stability": {"within": 5}}, "write '5 %'"),
    ],
)
def test_mistakes(fields, problem):
    with pytest.raises(ValueError, match=problem):
        spec(**fields)
