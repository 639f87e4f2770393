"""One load by several processes: the same requests as one process sends, and none of them left behind."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_engine import embedded_engine, small_load

from pytest_llmperf.embedded.truth import read_emission_log
from pytest_llmperf.errors import LoadError, PlanError
from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.load.workers import run_workers
from pytest_llmperf.metrics.summary import run_window
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run


async def _shared(url: str, point: LoadPoint, **options: Any) -> Run:
    trace = make_trace(point, "key")
    return await run_workers((Target(url, "embedded", continuous_usage=True),), point, trace, run_index=0, **options)


@pytest.mark.parametrize("load", [{}, {"concurrency": None, "request_rate": 100.0}], ids=["closed", "open"])
def test_two_workers_send_what_one_would_and_every_request_reaches_the_server(load: dict[str, Any], tmp_path: Path):
    point = small_load(**load)
    log = tmp_path / "truth.jsonl"
    with embedded_engine("--emission-log", str(log)) as url:
        run = asyncio.run(_shared(url, point, workers=2))
        shared = {emission.request_id: emission.prompt_tokens for emission in read_emission_log(log)}
        log.write_text("")
        alone = asyncio.run(run_load((Target(url, "embedded"),), point, make_trace(point, "key"), run_index=0))
    assert all(record.ok for record in run.records)
    assert run.workers == 2
    assert [record.index for record in run.records] == list(range(len(alone.records)))
    assert [record.request_id for record in run.records] == [record.request_id for record in alone.records]
    assert [record.phase for record in run.records] == [record.phase for record in alone.records]
    assert shared == {record.request_id: record.input_tokens for record in alone.records}
    assert run.trace_hash == alone.trace_hash
    assert run_window(run, point) is not None
    assert run.client.stamps == "kernel"
    if not load:
        in_flight = [sum(r.sent_ns <= record.sent_ns < r.end_ns for r in run.records) for record in run.records]
        assert max(in_flight) <= 4


def test_no_more_workers_than_slots() -> None:
    with embedded_engine() as url:
        run = asyncio.run(_shared(url, small_load(concurrency=1, requests=3), workers=4))
    assert (run.workers, len(run.records)) == (1, 4)


def test_no_more_workers_than_requests() -> None:
    with embedded_engine() as url:
        point = small_load(concurrency=None, requests=None, request_rate=100.0, duration="30 ms")
        run = asyncio.run(_shared(url, point, workers=4))
    assert (run.workers, len(run.records)) == (3, 3)


def test_a_workers_own_error_is_that_of_the_run() -> None:
    with pytest.raises(PlanError, match="endpoints infer and grpc need engine: triton"):
        asyncio.run(_shared("http://127.0.0.1:9", small_load(endpoint="infer"), workers=2))


@contextlib.contextmanager
def _once(action: Callable[[], object]) -> Iterator[Callable[[int, int, int], None]]:
    """A progress that acts once when so many requests have been answered that each worker has had its share."""
    done: list[bool] = []

    def progress(answered: int, total: int, failed: int) -> None:
        if answered >= 60 and not done:
            done.append(True)
            action()

    yield progress
    assert done


def _long() -> LoadPoint:
    return small_load(requests=4000)


def test_a_worker_that_dies_fails_the_run_and_what_the_other_measured_is_kept() -> None:
    kept: list[Run] = []

    def kill_one() -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    died = pytest.raises(LoadError, match=r"worker process \d of 2 of the load driver died \(exit code -9\)")
    with embedded_engine() as url, _once(kill_one) as progress, died:
        asyncio.run(_shared(url, _long(), workers=2, progress=progress, on_interrupt=kept.append))
    assert sum(record.ok for record in kept[0].records) > 0
    assert len({record.index % 2 for record in kept[0].records}) == 1
    assert multiprocessing.active_children() == []


def test_a_cancelled_run_ends_its_workers_and_keeps_what_they_measured() -> None:
    kept: list[Run] = []

    async def main(url: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        with _once(task.cancel) as progress:
            await _shared(url, _long(), workers=2, progress=progress, on_interrupt=kept.append)

    with embedded_engine() as url, pytest.raises(asyncio.CancelledError):
        asyncio.run(main(url))
    assert {record.index % 2 for record in kept[0].records} == {0, 1}
    assert {record.error for record in kept[0].records} == {None, "interrupted"}
    assert multiprocessing.active_children() == []
