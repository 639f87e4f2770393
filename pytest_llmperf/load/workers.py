"""One load spread over several processes, for loads that one core cannot drive.

Process `k` of `n` has slots and requests k, k + n, k + 2n, …; all open their connections, say that they are ready, and
begin at one agreed instant of CLOCK_REALTIME. Each holds a pipe to this process: when that closes, however this process
ended, the worker stops. What is sent through it are our own records (pickled by multiprocessing, between our own
processes).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from pytest_llmperf import clock
from pytest_llmperf.errors import LlmPerfError, LoadError
from pytest_llmperf.load.answers.whole import with_missing_ends_failed
from pytest_llmperf.load.client.health import merged_health
from pytest_llmperf.load.driver import Progress, run_load
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.loops.sender import StartBarrier
from pytest_llmperf.load.loops.slots import WorkerShare
from pytest_llmperf.load.trace.schedule import slot_plan
from pytest_llmperf.load.trace.trace import Trace
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.base import Balance
from pytest_llmperf.records import Run

_READY = "ready"
_ALIVE = "alive"
_START_NS = 50_000_000
"""Time between the message that names the start and the start."""
_LOOK_S, _STOPPED_S = 2.0, 5.0
"""Time between two looks at whether workers are stopped, and how long one may be."""
_SPIN_S = 0.002
_MOST = 64
"""Processes for a load whose number of requests is not in the plan."""
_HAND_OVER_S = 10.0
"""Seconds that a worker which is told to stop may take to hand over its measurements."""
_BEAT_S = 0.5
"""Time between two signs of life of a worker, whatever it does."""
_SILENCE_S, _START_S = 15.0, 40.0
"""A worker that gives none for so long is wedged, or stopped; one that begins has to import first."""


@dataclass(frozen=True, slots=True)
class _Job:
    """The part of a load that one process sends."""

    targets: tuple[Target, ...]
    point: LoadPoint
    trace: Trace
    run_index: int
    salt: str
    share: WorkerShare
    balance: Balance


@dataclass(slots=True)
class _Worker:
    """One process as seen from here, with its progress and, when it is done, its `run`."""

    process: SpawnProcess
    pipe: Connection
    progress: tuple[int, int, int] = (0, 0, 0)
    run: Run | None = None
    silent_after_s: float = math.inf
    """Time at which a silent worker counts as gone, by `clock.monotonic`."""
    is_wedged: bool = False


_Message = tuple[_Worker, Any]
"""A worker and its message: ready, progress, a Run, its error, a sign of life, or None for one that is gone."""


def most_workers(point: LoadPoint) -> int:
    """The most processes that have work, with a core left for everything else."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, _shareable(point)))


def _shareable(point: LoadPoint) -> int:
    """Slots that come and go by time, and a limit of requests in flight, are one process's to keep."""
    if slot_plan(point) or point.max_in_flight:
        return 1
    return point.concurrency or point.requests or _MOST


async def run_workers(
    targets: tuple[Target, ...],
    point: LoadPoint,
    trace: Trace,
    *,
    workers: int,
    run_index: int,
    salt: str = "",
    progress: Progress | None = None,
    on_interrupt: Callable[[Run], None] | None = None,
    balance: Balance = "least-inflight",
) -> Run:
    """`run_load` by `workers` processes: the same requests, merged in trace order.

    They are fewer where there are fewer slots or requests. Raises LoadError when one of them dies, or the error that
    one has met. Then, and when cancelled, `on_interrupt` gets what the others measured.
    """
    count = min(workers, _shareable(point), len({request.unit for request in trace.requests}))
    shares = [WorkerShare(number, count) for number in range(count)]
    jobs = [_Job(targets, point, part_of(trace, share), run_index, salt, share, balance) for share in shares]
    with _started(jobs) as crew:
        try:
            await _follow(crew, progress)
        except (asyncio.CancelledError, LlmPerfError):
            measured = _stopped_runs(crew)
            if measured and on_interrupt is not None:
                on_interrupt(merged_run(measured, count))
            raise
        return merged_run([worker.run for worker in crew if worker.run], count)


def merged_run(parts: Sequence[Run], workers: int) -> Run:
    """The run that these processes, of `workers`, made together."""
    records = with_missing_ends_failed(
        sorted((record for part in parts for record in part.records), key=lambda record: record.index)
    )
    return replace(
        parts[0],
        started_ns=min(part.started_ns for part in parts),
        ended_ns=max(part.ended_ns for part in parts),
        records=records,
        client=merged_health([part.client for part in parts], records),
        workers=workers,
    )


def part_of(trace: Trace, share: WorkerShare) -> Trace:
    requests = tuple(request for request in trace.requests if request.unit % share.of == share.number)
    return replace(trace, warmup=(), requests=requests)


@contextlib.contextmanager
def _started(jobs: Sequence[_Job]) -> Iterator[list[_Worker]]:
    """The processes, none of which is left on leaving."""
    context = multiprocessing.get_context("spawn")
    crew: list[_Worker] = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe()
            with theirs:
                process = context.Process(target=work, args=(theirs, job), daemon=True)
                crew.append(_Worker(process, ours))
                process.start()
        yield crew
    finally:
        for worker in crew:
            worker.pipe.close()
        for worker in crew:
            if worker.process.pid is not None:
                worker.process.join(_HAND_OVER_S)
                worker.process.kill()
                worker.process.join()


async def _follow(crew: Sequence[_Worker], progress: Progress | None) -> None:
    """Starts them together and returns when all are done. Raises LoadError when one dies, or the error of one."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[_Message] = asyncio.Queue()
    for worker in crew:
        worker.silent_after_s = clock.monotonic() + _START_S
        loop.add_reader(worker.pipe.fileno(), _enqueue, worker, inbox)
    try:
        for _ in crew:
            while (await _next(inbox, crew))[1] != _READY:
                pass
        start_ns = clock.now_ns() + _START_NS
        for worker in crew:
            _send(worker, start_ns)
        left = len(crew)
        while left:
            worker, message = await _next(inbox, crew)
            if isinstance(message, Run):
                left -= 1
            elif message != _ALIVE:
                worker.progress = message
                _show(progress, crew)
    finally:
        for worker in crew:
            loop.remove_reader(worker.pipe.fileno())


def _enqueue(worker: _Worker, inbox: asyncio.Queue[_Message]) -> None:
    message = _received(worker)
    worker.silent_after_s = clock.monotonic() + _SILENCE_S
    if isinstance(message, Run):
        # The end of the pipe comes next, maybe before anybody has looked at the run: it says nothing of a death.
        asyncio.get_running_loop().remove_reader(worker.pipe.fileno())
        worker.run, worker.silent_after_s = message, math.inf
    inbox.put_nowait((worker, message))


def _received(worker: _Worker) -> Any:
    """Receives a worker's message; None when the worker is gone."""
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        return None


async def _next(inbox: asyncio.Queue[_Message], crew: Sequence[_Worker]) -> _Message:
    worker, message = await _message_or_silence(inbox, crew)
    if isinstance(message, LlmPerfError):
        raise message
    if message is None:
        if not worker.is_wedged:
            worker.process.join(_HAND_OVER_S)
        what = "gives no sign of life (stopped, or wedged)" if worker.is_wedged else "died"
        code = "" if worker.is_wedged else f" (exit code {worker.process.exitcode})"
        raise LoadError(
            f"worker process {crew.index(worker) + 1} of {len(crew)} of the load driver {what}{code}, so the load was "
            "not what the point asks for"
        )
    return worker, message


async def _message_or_silence(inbox: asyncio.Queue[_Message], crew: Sequence[_Worker]) -> _Message:
    """Waits for the next message; None as that of a worker without a sign of life, which is killed."""
    while True:
        for worker in crew:
            if worker.run is None and _is_stopped(worker.process.pid):
                worker.silent_after_s = min(worker.silent_after_s, clock.monotonic() + _STOPPED_S)
        first = min(crew, key=lambda worker: worker.silent_after_s)
        try:
            left_s = min(_LOOK_S, first.silent_after_s - clock.monotonic())
            return await asyncio.wait_for(inbox.get(), max(0.0, left_s))
        except TimeoutError:
            # Its message waits in the pipe while another's long message is read.
            if clock.monotonic() >= first.silent_after_s and not first.pipe.poll():
                first.is_wedged = True
                first.process.kill()
                return first, None


def _is_stopped(pid: int | None) -> bool:
    """True if a signal has stopped the process; False where /proc does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def _show(progress: Progress | None, crew: Sequence[_Worker]) -> None:
    if progress is not None:
        done, total, failed = (sum(counts) for counts in zip(*(worker.progress for worker in crew), strict=True))
        progress(done, total, failed)


def _send(worker: _Worker, message: object) -> None:
    with contextlib.suppress(OSError):  # one that is gone is noticed by its silence
        worker.pipe.send(message)


def _stopped_runs(crew: Sequence[_Worker]) -> list[Run]:
    """Stops the workers, and returns the runs of those that could still hand theirs over."""
    waiting = [worker for worker in crew if worker.run is None and not worker.is_wedged]
    for worker in waiting:
        _send(worker, None)
    deadline = clock.monotonic() + _HAND_OVER_S
    for worker in waiting:
        while worker.run is None and worker.pipe.poll(max(0.0, deadline - clock.monotonic())):
            message = _received(worker)
            if message is None:
                break
            worker.run = message if isinstance(message, Run) else None
    return [worker.run for worker in crew if worker.run is not None]


def work(pipe: Connection, job: _Job) -> None:
    """The whole life of a worker process. A Ctrl-C is for the process that holds the other end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender = _Sender(pipe)
    with contextlib.suppress(OSError), sender:  # nobody is there to be told
        outcome = _outcome(pipe, sender.send, job)
        if outcome is not None:
            sender.send(outcome)


def _outcome(pipe: Connection, send: Callable[[object], None], job: _Job) -> Run | LlmPerfError | None:
    """The run, or why there is none: the process that asked for it is to tell."""
    try:
        return asyncio.run(_do(pipe, send, job))
    except LlmPerfError as error:
        return error
    except OSError as error:
        return LoadError(f"a worker process of the load driver: {error}")


class _Sender:
    """Sends a worker's messages, and signs of life between them, from a thread: a stopped process gives none."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock, self._over = pipe, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def send(self, message: object) -> None:
        """Raises OSError when nobody is there."""
        with self._lock:
            self._pipe.send(message)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.wait(_BEAT_S):
                self.send(_ALIVE)


async def _do(pipe: Connection, send: Callable[[object], None], job: _Job) -> Run | None:
    """The run; of a stopped one what there was, None when there was nothing."""
    loop = asyncio.get_running_loop()
    start: asyncio.Future[int] = loop.create_future()
    partial: list[Run] = []
    load = loop.create_task(
        run_load(
            job.targets,
            job.point,
            job.trace,
            run_index=job.run_index,
            salt=job.salt,
            progress=lambda *counts: send(counts),
            on_interrupt=partial.append,
            share=job.share,
            balance=job.balance,
            barrier=_barrier(send, start),
        )
    )
    loop.add_reader(pipe.fileno(), _obey, pipe, start, load)
    try:
        return await load
    except asyncio.CancelledError:
        return partial[0] if partial else None
    finally:
        loop.remove_reader(pipe.fileno())


def _obey(pipe: Connection, start: asyncio.Future[int], load: asyncio.Task[Run]) -> None:
    """A number is the instant of the start; None, or the end of the pipe, says to stop."""
    try:
        message: int | None = pipe.recv()
    except (EOFError, OSError):
        message = None
    if message is not None:
        start.set_result(message)
        return
    asyncio.get_running_loop().remove_reader(pipe.fileno())
    load.cancel()


def _barrier(send: Callable[[object], None], start: asyncio.Future[int]) -> StartBarrier:
    async def wait() -> None:
        # Collected now, so that it takes no time in the window, and the processes begin together.
        gc.collect()
        gc.freeze()
        send(_READY)
        start_ns = await start
        await asyncio.sleep(max(0.0, (start_ns - clock.now_ns()) / 1e9 - _SPIN_S))
        while clock.now_ns() < start_ns:
            pass

    return wait
