"""How many processes drive a load: as asked for, or more when the client's CPU was the limit."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from samples import HEALTH, point, steady_run

from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure import measurement as module
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.telemetry.counters import Reading


class Server:
    """A server that is always up, and is never asked for anything."""

    targets = instances = ()
    balance = "least-inflight"
    launches = 1
    config = SimpleNamespace(is_started=False)
    cpu_use_is_separate = False

    def check_alive(self) -> None:
        pass

    def check_ours(self) -> tuple[str, ...]:
        return ()

    def reading(self) -> None:
        """It counts nothing itself."""

    def begin_watching(self) -> None:
        pass

    def end_watching(self) -> None:
        """Nothing is sampled."""


@pytest.fixture
def busy_until(monkeypatch):
    """Runs whose client has enough processes from so many on; gives how many each run was made with."""
    made: list[int] = []

    def arrange(enough: int, most: int = 8) -> list[int]:
        async def execute(targets, load, trace, *, run_index, salt, workers=1, **options) -> Run:
            made.append(workers)
            share = 0.99 if workers < enough else 0.5
            return replace(steady_run(run_index, client=replace(HEALTH, cpu_share=share)), workers=workers)

        async def nothing(*args, **options) -> None:
            pass

        monkeypatch.setattr(module, "run_load", execute)
        monkeypatch.setattr(module, "run_workers", execute)
        monkeypatch.setattr(module, "warm_up", nothing)
        monkeypatch.setattr(module, "most_workers", lambda load: most)
        return made

    return arrange


def measured(runs: int, workers: int | None, server: Server | None = None) -> list[Run]:
    kept: list[Run] = []
    measurement = Measurement(server or Server(), point(), "key", kept.append, workers)
    for _ in range(runs):
        asyncio.run(measurement.run())
    return kept


def test_one_process_while_it_is_enough(busy_until):
    made = busy_until(1)
    assert [run.spoiled for run in measured(3, None)] == [(), (), ()]
    assert made == [1, 1, 1]


def test_twice_as_many_when_the_client_was_the_limit_and_they_stay(busy_until):
    made = busy_until(4)
    runs = measured(2, None)
    assert made == [1, 2, 4, 4]
    assert [(run.workers, len(run.spoiled)) for run in runs] == [(4, 2), (4, 0)]
    assert invalid_reasons(runs, point()) == ()


def test_no_more_than_the_cores_allow(busy_until):
    made = busy_until(100, most=3)
    runs = measured(2, None)
    assert made == [1, 2, 3, 3]
    assert all("--llmperf-workers 6" in reason for reason in invalid_reasons(runs, point()))


def test_counters_that_went_back_are_told(busy_until):
    class Restarted(Server):
        counts = iter([34, 4, 4, 9])

        def reading(self) -> list[Reading]:
            return [Reading({"m": Counter(success_count=next(self.counts))}, Counter())]

    busy_until(1)
    first, second = measured(2, None, Restarted())
    assert first.server_side is None
    assert first.notes[0].startswith("the server's own account is left out: its counters went back during the run")
    assert second.server_side is not None
    assert second.notes == ()


def test_as_many_as_asked_for(busy_until):
    made = busy_until(4)
    assert len(invalid_reasons(measured(2, 2), point())) == 2
    assert made == [2, 2]


def test_cancelling_while_the_trace_is_made_is_prompt(busy_until, monkeypatch):
    busy_until(1)
    begun, go_on = threading.Event(), threading.Event()
    make_trace = module.make_trace

    def slow(*given):
        begun.set()
        assert go_on.wait(60)
        return make_trace(*given)

    monkeypatch.setattr(module, "make_trace", slow)

    async def main() -> None:
        kept: list[Run] = []
        running = asyncio.ensure_future(Measurement(Server(), point(), "key", kept.append).run())
        try:
            while not begun.is_set():  # noqa: ASYNC110 - a thread sets it
                await asyncio.sleep(0.001)
            running.cancel()
            await asyncio.wait([running], timeout=30)
            assert running.cancelled()
            assert kept == []
        finally:
            go_on.set()

    asyncio.run(main())


salts: list[str] = []
"""Of the executions of `clock_is_set`, in order."""


@pytest.fixture
def clock_is_set(monkeypatch):
    """Runs of which the first so many are spoiled by a step of the clock; with `error` a request failed too."""

    def arrange(spoiled: int, error: str | None = None) -> list[int]:
        made: list[int] = []
        salts.clear()

        async def execute(targets, load, trace, *, run_index, salt, workers=1, **options) -> Run:
            made.append(run_index)
            salts.append(salt)
            step = 10**9 if len(made) <= spoiled else 0
            run = steady_run(run_index, client=replace(HEALTH, clock_step_ns=step))
            return replace(run, records=tuple(replace(record, error=error) for record in run.records))

        async def nothing(*args, **options) -> None:
            pass

        monkeypatch.setattr(module, "run_load", execute)
        monkeypatch.setattr(module, "run_workers", execute)
        monkeypatch.setattr(module, "warm_up", nothing)
        return made

    return arrange


def test_a_run_that_the_client_spoiled_is_done_over(clock_is_set):
    made = clock_is_set(2)
    runs = measured(2, None)
    assert made == [0, 0, 0, 1]
    assert [len(run.spoiled) for run in runs] == [2, 0]
    assert "the system clock was set" in runs[0].spoiled[0]
    assert len(set(salts)) == 3, "the server's cache must not know the prompts of a run that is done over"
    assert invalid_reasons(runs, point()) == ()


def test_a_client_that_stays_bad_is_told_as_it_is(clock_is_set):
    made = clock_is_set(99)
    runs = measured(2, 1)
    assert made == [0, 0, 0, 1, 1, 1]
    assert len(invalid_reasons(runs, point())) == 2


@pytest.mark.parametrize("busy", [None, "other processes took 2.0 of the machine's 2 cores"], ids=["quiet", "busy"])
def test_a_run_with_failed_requests_is_never_thrown_away(clock_is_set, monkeypatch, busy):
    monkeypatch.setattr(module, "busy_host", lambda run: busy)
    made = clock_is_set(99, error="HTTP 500")
    assert len(measured(1, None)) == 1
    assert made == [0]


@pytest.mark.parametrize(("given", "workers"), [("auto", None), (None, None), (3, 3), ("3", 3)])
def test_workers_of_a_load(given, workers):
    load = LoadSpec(input_tokens=1, concurrency=1, requests=1, workers=given)
    assert load.points("a")[0].workers == workers


@pytest.mark.parametrize("given", [0, True, "many", 1.5])
def test_workers_that_are_none(given):
    with pytest.raises(ValueError, match="neither 'auto' nor a whole number of at least 1"):
        LoadSpec(input_tokens=1, concurrency=1, requests=1, workers=given)
