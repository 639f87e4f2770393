"""Runs one load point: keeps the requests of a trace in flight and turns what came back into a Run.

All tasks live in TaskGroups of `_Load.run`, but for the reading of a gRPC stream, which ends with its connection.
What needs a loop is created in there, so that any loop will do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from pytest_llmperf import clock
from pytest_llmperf.errors import LlmPerfError, ServerError
from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.answers.whole import with_missing_ends_failed
from pytest_llmperf.load.client.health import RunPeriod, client_health, no_collection, stamps_of
from pytest_llmperf.load.client.lateness import Lateness
from pytest_llmperf.load.endpoints.table import ENDPOINTS, asked_by
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.load.loops.balancer import Balancer
from pytest_llmperf.load.loops.closed_loop import ClosedLoop
from pytest_llmperf.load.loops.open_loop import OpenLoop
from pytest_llmperf.load.loops.requests import RequestBytes
from pytest_llmperf.load.loops.sender import Sender, StartBarrier
from pytest_llmperf.load.loops.slots import WorkerShare
from pytest_llmperf.load.trace.schedule import SlotPlan
from pytest_llmperf.load.trace.tokenizer import load_tokenizer
from pytest_llmperf.load.trace.trace import PlannedRequest, Trace
from pytest_llmperf.load.transport.capture import Capture
from pytest_llmperf.load.transport.tape import KEPT_BYTES, Store
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.base import Balance
from pytest_llmperf.records import RequestRecord, Run, Stamps

Progress = Callable[[int, int, int], None]
"""A function that is called with (done, total, failed) requests, a few times a second."""

_PROGRESS_S = 0.3
_WHOLE = WorkerShare(0, 1)


async def _no_barrier() -> None:
    """The barrier of a single process, which waits for no other."""


def run_load(
    targets: tuple[Target, ...],
    point: LoadPoint,
    trace: Trace,
    *,
    run_index: int,
    salt: str = "",
    progress: Progress | None = None,
    on_interrupt: Callable[[Run], None] | None = None,
    share: WorkerShare = _WHOLE,
    barrier: StartBarrier = _no_barrier,
    balance: Balance = "least-inflight",
) -> Coroutine[Any, Any, Run]:
    """Sends the trace once, spread over the `targets`. A request that fails is a record with an error, never an
    exception.

    `run_index` and `salt` change the first words of every prompt, against prefix caches that outlive a run. When the
    run is cancelled (as Ctrl-C does), `on_interrupt` gets what was measured so far, then the cancellation goes on.
    Of a shared load, `trace` holds the requests of this `share` only.
    """
    load = _Load(targets, point, trace, trace.requests, f"{salt}r{run_index}", share, barrier, trace.slots, balance)
    return load.run(run_index, progress, on_interrupt)


async def warm_up(targets: tuple[Target, ...], point: LoadPoint, trace: Trace, *, salt: str = "") -> None:
    """Sends the warm-up requests to each target, at most `concurrency` at once (of an open loop a few).

    Raises ServerError when every one of a target fails.
    """
    for target in targets if trace.warmup else ():
        _answered(await _Load((target,), point, trace, trace.warmup, f"{salt}warmup").run(0))


async def warm_batch(
    targets: tuple[Target, ...], point: LoadPoint, trace: Trace, *, count: int, salt: str
) -> tuple[RequestRecord, ...]:
    """Sends the first `count` requests of the trace with prompts marked by `salt`, and returns what came of them.

    None of them is cancelled. Raises ServerError when every one fails.
    """
    requests = tuple(replace(request, cancel_after_s=None) for request in trace.requests[:count])
    return _answered(await _Load(targets, point, trace, requests, salt).run(0))


def _answered(run: Run) -> tuple[RequestRecord, ...]:
    """Returns the records of a warm-up. Raises ServerError when every request failed."""
    if not any(record.ok for record in run.records):
        raise ServerError(f"every warm-up request failed; the first: {run.records[0].error}")
    return run.records


class _Load:
    """One execution while it happens."""

    def __init__(
        self,
        targets: tuple[Target, ...],
        point: LoadPoint,
        trace: Trace,
        requests: tuple[PlannedRequest, ...],
        mark: str,
        share: WorkerShare = _WHOLE,
        barrier: StartBarrier = _no_barrier,
        slot_plan: SlotPlan | None = None,
        balance: Balance = "least-inflight",
    ) -> None:
        self.point = point
        self.trace = trace
        self.store = Store(KEPT_BYTES)
        endpoint = ENDPOINTS[point.endpoint]
        count = load_tokenizer(point.tokenizer).count if point.tokenizer else None
        self.reader = AnswerReader(endpoint, asked=asked_by(point), count=count, keep_texts=point.answers is not None)
        self.period = RunPeriod(every_thread=endpoint.framing == "messages")
        self.request_bytes = RequestBytes(targets, point, trace, mark)
        self.request_bytes.prepare(requests)
        balancer = Balancer(len(targets), balance, share.number)
        self.sender = Sender(targets, point, requests, self.request_bytes, self.store, self.period, balancer)
        is_closed = requests[0].due_ns is None
        closed = ClosedLoop(self.sender, slot_plan, share, barrier, self.reader)
        self.loop = closed if is_closed else OpenLoop(self.sender, barrier)

    async def run(
        self, index: int, progress: Progress | None = None, on_interrupt: Callable[[Run], None] | None = None
    ) -> Run:
        """Sends everything and waits for the last answer; every socket is closed afterwards, whatever happens."""
        clock.settle()
        with self.store:
            try:
                with self.sender:
                    async with asyncio.TaskGroup() as group:
                        watch = group.create_task(self._watch(progress))
                        await self.loop.run()
                        watch.cancel()
            except BaseExceptionGroup as group:
                raise _cause(group) from None
            except asyncio.CancelledError:
                if on_interrupt is not None:
                    on_interrupt(self._result(index))
                raise
            if progress is not None:
                self._report(progress)
            return self._result(index)

    def _report(self, progress: Progress) -> None:
        progress(self.sender.done, len(self.sender.requests), self.sender.failed)

    async def _watch(self, progress: Progress | None) -> None:
        """Looks after time limits and progress, beside the requests."""
        point = self.point
        pause = min(0.1, point.no_data_timeout / 10, point.read_timeout / 10)
        reported_s = 0.0
        while True:
            wanted = asyncio.get_running_loop().time() + pause
            await asyncio.sleep(pause)
            now = asyncio.get_running_loop().time()
            if self.period.is_open:
                self.period.loop_lags_s.append(now - wanted)
            for connection in self.sender.connections:
                connection.check(now, point)
            await self.store.relieve()
            if progress is not None and now - reported_s > _PROGRESS_S:
                reported_s = now
                self._report(progress)

    def _result(self, run_index: int) -> Run:
        """Everything that was sent, as records in trace order; requests that had not ended are failed ones."""
        sent = [(self.sender.requests[index], self.sender.exchanges[index]) for index in sorted(self.sender.exchanges)]
        # The kernel starts to stamp a moment after the first socket asks for it: a lead-in request may miss that.
        stamps = stamps_of([exchange.tape for request, exchange in sent if request.phase == "measured"])
        records: list[RequestRecord] = []
        lateness = Lateness()
        with no_collection():  # which would find nothing, in millions of objects
            for request, exchange in sent:
                capture = exchange.capture()
                records.append(self._record(request, capture, stamps))
                lateness.add(capture, records[-1])
        return Run(
            index=run_index,
            started_ns=self.period.started_ns,
            ended_ns=self.period.ended_ns,
            trace_hash=self.trace.hash,
            records=with_missing_ends_failed(tuple(lateness.added_to(records))),
            client=client_health(
                self.period,
                stamps,
                lateness.lags_us(),
                records,
                self.sender.connect_s,
                [connection.losses for connection in self.sender.connections],
                resent=self.sender.resent,
            ),
            notes=self.trace.notes,
        )

    def _record(self, request: PlannedRequest, capture: Capture, stamps: Stamps) -> RequestRecord:
        due_ns = None if request.due_ns is None else self.period.started_ns + request.due_ns
        request_id = self.request_bytes.request_id(request)
        record = self.reader.record(capture, request, stamps, request_id=request_id, due_ns=due_ns)
        replica = self.sender.replicas.get(request.index)
        return record if replica is None else replace(record, replica=replica)


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Our own error among those that ended the load, or a time limit of the test's; else all of them."""
    own: BaseException | None = group.subgroup(lambda error: isinstance(error, LlmPerfError)) or group.subgroup(
        lambda error: not isinstance(error, Exception | BaseExceptionGroup)
    )
    while isinstance(own, BaseExceptionGroup):
        own = own.exceptions[0]
    return own or group
