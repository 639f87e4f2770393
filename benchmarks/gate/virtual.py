"""The embedded engine in virtual time: its scheduler and its modelled steps, without sockets, threads and waiting.

A run of three seconds takes some twenty milliseconds, and every time in it is a function of the settings: the clock
moves by what a step costs and by nothing else. The records are those of the load driver, the summaries those of
`metrics`, so that what is judged here is what is judged after a real run (less the client's own noise).
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_llmperf.embedded.engine.modelled import ModelledStep
from pytest_llmperf.embedded.engine.scheduler import Output, Request, Scheduler
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.load.trace.arrivals import due_offsets_ns
from pytest_llmperf.load.trace.trace import lengths
from pytest_llmperf.metrics.summary import Summary, summarize
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.prompts import Lengths
from pytest_llmperf.records import ClientHealth, RequestRecord, Run

RUN_PERIOD_S = 30.0
"""From the start of one run of a session to the next; longer than any run, so that runs do not meet."""
_NEVER_EOS = -1
_HEALTH = ClientHealth("user", None, None, None, None, None, None, None, 0, None)


@dataclass(frozen=True, slots=True)
class Point:
    """A load point, and the trace that every run of it sends."""

    load: LoadPoint
    input_tokens: Lengths
    output_tokens: Lengths
    seed: int

    @property
    def lead_in(self) -> int:
        """Requests of a closed loop that are sent before the measured ones."""
        return self.load.concurrency or 0

    def trace(self) -> list[Request]:
        inputs, outputs = lengths(self.input_tokens, (self.seed, 0)), lengths(self.output_tokens, (self.seed, 1))
        count = self.lead_in + self.load.requests
        return [
            Request(number, (7,) * size, max_tokens=wanted, min_tokens=wanted, ignore_eos=True)
            for number, size, wanted in zip(range(count), inputs, outputs, strict=False)
        ]


@dataclass(slots=True)
class _Clock:
    """What stands in for the machine's clock; waiting sets it."""

    now_s: float = 0.0

    def read(self) -> float:
        return self.now_s

    def set(self, moment_s: float) -> None:
        self.now_s = moment_s


@dataclass(slots=True)
class _Sent:
    """One request on its way. Times are seconds since the engine started."""

    request: Request
    due_s: float | None
    sent_s: float
    chunks_s: list[float] = field(default_factory=list)


def run_point(settings: EngineSettings, point: Point, run_index: int) -> Summary:
    """The summary of run `run_index` (over all points of its session) on the engine that `settings` describes."""
    clock = _Clock()
    step = ModelledStep(settings, clock=clock.read, wait=clock.set)
    step.begin_run(run_index)
    # Stalls and drift are functions of the time since the engine started, so a run must begin where it would have.
    clock.set(run_index * RUN_PERIOD_S)
    sent = _closed(settings, point, step, clock) if point.load.concurrency else _open(settings, point, step, clock)
    return summarize(_run(sent, point), point.load)


def run_slots(settings: EngineSettings, point: Point, starts_s: Sequence[float], pauses_s: Iterator[float]) -> Summary:
    """The summary of a closed loop whose slots start so late, and take so long from an answer to the next request."""
    clock = _Clock()
    step = ModelledStep(settings, clock=clock.read, wait=clock.set)
    return summarize(_run(_closed(settings, point, step, clock, starts_s, pauses_s), point), point.load)


def _closed(
    settings: EngineSettings,
    point: Point,
    step: ModelledStep,
    clock: _Clock,
    starts_s: Sequence[float] = (),
    pauses_s: Iterator[float] | None = None,
) -> list[_Sent]:
    """Every slot sends its next request the moment its last one has ended, or after a pause."""
    scheduler, waiting = Scheduler(settings, _NEVER_EOS), deque(point.trace())
    assert point.load.concurrency
    pauses_s = pauses_s or itertools.repeat(0.0)
    ready_s = [clock.now_s + late for late in starts_s] or [clock.now_s] * point.load.concurrency
    sent: list[_Sent] = []
    heapq.heapify(ready_s)
    while scheduler.has_work or (ready_s and waiting):
        idle = not scheduler.has_work
        if idle:
            clock.set(max(clock.now_s, ready_s[0]))
        while ready_s and waiting and ready_s[0] <= clock.now_s:
            sent.append(_send(scheduler, waiting.popleft(), heapq.heappop(ready_s)))
        for output in _one_step(scheduler, step, idle):
            sent[output.request_id].chunks_s.append(clock.now_s)
            if output.finish_reason:
                heapq.heappush(ready_s, clock.now_s + next(pauses_s))
    return sent


def _open(settings: EngineSettings, point: Point, step: ModelledStep, clock: _Clock) -> list[_Sent]:
    """Requests are sent when they are due; the engine sees them when its present step is over."""
    scheduler, start_s = Scheduler(settings, _NEVER_EOS), clock.now_s
    assert point.load.request_rate
    offsets = due_offsets_ns(point.load.arrival, point.load.request_rate, point.load.requests, point.seed)
    waiting = deque((start_s + ns / 1e9, request) for ns, request in zip(offsets, point.trace(), strict=True))
    sent: list[_Sent] = []
    while waiting or scheduler.has_work:
        idle = not scheduler.has_work
        if idle:
            clock.set(max(clock.now_s, waiting[0][0]))
        while waiting and waiting[0][0] <= clock.now_s:
            due_s, request = waiting.popleft()
            sent.append(_send(scheduler, request, due_s, due_s))
        for output in _one_step(scheduler, step, idle):
            sent[output.request_id].chunks_s.append(clock.now_s)
    return sent


def _send(scheduler: Scheduler, request: Request, moment_s: float, due_s: float | None = None) -> _Sent:
    scheduler.add(request)
    return _Sent(request, due_s, moment_s)


def _one_step(scheduler: Scheduler, step: ModelledStep, after_idle: bool) -> list[Output]:
    plan = scheduler.schedule()
    return scheduler.commit(plan, step.execute(plan, after_idle=after_idle))


def _run(sent: list[_Sent], point: Point) -> Run:
    records = tuple(itertools.starmap(_record, _numbered(sent, point.lead_in)))
    return Run(0, records[0].sent_ns or 0, max(r.end_ns for r in records), "", records, _HEALTH)


def _numbered(sent: list[_Sent], lead_in: int) -> Iterator[tuple[int, _Sent, bool]]:
    return ((number, request, number >= lead_in) for number, request in enumerate(sent))


def _record(number: int, sent: _Sent, measured: bool) -> RequestRecord:
    chunks = tuple(round(moment * 1e9) for moment in sent.chunks_s)
    return RequestRecord(
        index=number,
        phase="measured" if measured else "lead-in",
        request_id=str(number),
        due_ns=None if sent.due_s is None else round(sent.due_s * 1e9),
        sent_ns=round(sent.sent_s * 1e9),
        chunk_ns=chunks,
        chunk_tokens=(1,) * len(chunks),
        first_output_ns=chunks[0],
        end_ns=chunks[-1],
        input_tokens=len(sent.request.prompt),
        output_tokens=len(chunks),
        requested_output_tokens=sent.request.max_tokens,
        token_source="usage",
        finish_reason="length",
        status=200,
        error=None,
        coalesced_chunks=0,
    )
