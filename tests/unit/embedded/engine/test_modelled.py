"""The modelled step: its cost formula, its noise, and a clock that gains no error."""

import math
import statistics
import time

import pytest

from pytest_llmperf.embedded.engine.modelled import ModelledStep, StepNoise, step_cost_s, wait_until
from pytest_llmperf.embedded.engine.scheduler import Request, StepPlan, Work
from pytest_llmperf.embedded.settings import EngineSettings

COSTS = {"prefill_ms_per_token": 0.1, "decode_ms_per_step": 4, "decode_ms_per_seq": 0.5, "step_overhead_ms": 1}


def decode(number: int) -> Work:
    return Work(Request(number, (0,), 9), (0,), 3, (0,), prefill=False, samples=True)


def prefill(number: int, tokens: int) -> Work:
    return Work(Request(number, (0,) * tokens, 9), (0,) * tokens, 0, (0,), prefill=True, samples=True)


@pytest.mark.parametrize(
    ("work", "arguments", "milliseconds"),
    [
        ((prefill(0, 100),), {}, 1 + 10),
        ((decode(0), decode(1)), {}, 1 + 4 + 1),
        ((decode(0), prefill(1, 100)), {}, 1 + 10 + 4 + 0.5),
        ((prefill(0, 100),), {"tensor_parallel_size": 4, "tp_efficiency": 0.8}, 1 + 10 / 3.4),
        ((prefill(0, 100),), {"pipeline_parallel_size": 2}, 1 + 10),
        ((prefill(0, 50), prefill(1, 50)), {"pipeline_parallel_size": 2}, 1 + 10 * 3 / 4),
    ],
    ids=["prefill", "decode", "mixed", "tp", "pp-lone-request", "pp-two-requests"],
)
def test_cost(work, arguments, milliseconds):
    settings = EngineSettings(step="modelled", **COSTS, **arguments)
    assert step_cost_s(settings, StepPlan(work)) == pytest.approx(milliseconds / 1e3)


def test_a_wait_never_ends_early():
    for seconds in (-1, 0, 0.0001, 0.002):
        deadline = time.monotonic() + seconds
        wait_until(deadline)
        assert time.monotonic() >= deadline


class Clock:
    """Time that passes only in waits, plus what the engine itself takes between steps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, until_s: float) -> None:
        self.now_s = max(self.now_s, until_s)


def modelled(clock: Clock, **arguments) -> ModelledStep:
    return ModelledStep(EngineSettings(step="modelled", **COSTS, **arguments), clock=clock, wait=clock.wait)


def test_time_between_steps_adds_no_error():
    clock = Clock()
    step = modelled(clock)
    for index in range(100):
        step.execute(StepPlan((decode(0),)), after_idle=index == 0)
        clock.now_s += 0.001
    assert clock.now_s - 0.001 - 100 == pytest.approx(100 * 5.5e-3)


def test_an_idle_engine_starts_when_the_request_comes():
    clock = Clock()
    step = modelled(clock)
    step.execute(StepPlan((decode(0),)), after_idle=True)
    clock.now_s = 200
    step.execute(StepPlan((decode(0),)), after_idle=True)
    assert clock.now_s == pytest.approx(200 + 5.5e-3)


def test_a_machine_that_stood_still_is_not_made_up_for():
    clock = Clock()
    step = modelled(clock)
    step.execute(StepPlan((decode(0),)), after_idle=True)
    clock.now_s = 101
    step.execute(StepPlan((decode(0),)), after_idle=False)
    assert clock.now_s == pytest.approx(101 + 5.5e-3)


def burst_s(step: ModelledStep, clock: Clock, *, idle_s: float = 0) -> float:
    clock.now_s += idle_s
    before = clock.now_s
    step.execute(StepPlan((decode(0),)), after_idle=True)
    return clock.now_s - before


def test_a_run_is_a_burst_after_an_idle_time():
    clock = Clock()
    step = modelled(clock, run_sd=0.1)
    first, soon, later = (burst_s(step, clock, idle_s=idle) for idle in (0, 0.1, 0.3))
    assert soon == pytest.approx(first)
    assert later != pytest.approx(first)


def test_announced_runs_are_reproducible_and_gaps_no_longer_matter():
    clock = Clock()
    step = modelled(clock, run_sd=0.1)
    times = []
    for run in (1, 2, 1):
        step.begin_run(run)
        times.append([burst_s(step, clock, idle_s=1), burst_s(step, clock, idle_s=1)])
    assert times[0] == pytest.approx(times[2])
    assert times[0][0] == pytest.approx(times[0][1])
    assert times[0] != pytest.approx(times[1])


def noise(**arguments) -> StepNoise:
    return StepNoise(EngineSettings(step="modelled", **arguments))


def test_without_noise_the_factor_is_one():
    assert noise().factor(1e4) == 1
    assert noise().stall_s(0, 1e4) == 0


def test_session_factors_are_lognormal_and_seeded():
    def logs(seed: int) -> list[float]:
        return [math.log(noise(noise_seed=seed, noise_session=k, session_sd=0.05).factor(0)) for k in range(2000)]

    sample = logs(1)
    assert statistics.fmean(sample) == pytest.approx(0, abs=4 * 0.05 / 2000**0.5)
    assert statistics.stdev(sample) == pytest.approx(0.05, rel=0.08)
    assert sample == logs(1)
    assert sample != logs(2)


def test_run_and_session_multiply():
    both = noise(session_sd=0.1, run_sd=0.1)
    session, run = noise(session_sd=0.1), noise(run_sd=0.1)
    assert both.factor(0) == pytest.approx(session.factor(0) * run.factor(0))


def test_drift_compounds_per_hour():
    assert noise(drift_per_hour=0.1).factor(7200) == pytest.approx(1.21)


def test_stalls_come_at_their_rate_and_not_while_idle():
    def total(busy: list[tuple[float, float]]) -> float:
        source = noise(stall_rate_per_s=2, stall_ms=10)
        return sum(source.stall_s(start, end) for start, end in busy)

    steps = [(index / 10, (index + 1) / 10) for index in range(10_000)]
    everything = total(steps)
    assert everything / 0.01 == pytest.approx(2000, abs=4 * 2000**0.5)
    assert total(steps) == everything
    first_half, second_half = total(steps[:5000]), total(steps[5000:])
    assert first_half + second_half == pytest.approx(everything)


def test_words_depend_on_seed_and_position():
    clock = Clock()

    def words(**arguments) -> list[int]:
        step = modelled(clock, **arguments)
        return [
            step.execute(StepPlan((Work(Request(0, (0,), 9), (0,), at, (0,), False, True),)), after_idle=False)[0]
            for at in range(20)
        ]

    assert words() == words()
    assert words() != words(seed=1)
    assert len(set(words())) > 10
