"""Runs one load point: keeps the requests of a trace in flight and turns what came back into a Run.

All tasks live in TaskGroups of `_Load.run`. Everything is created inside the running loop, so that any loop will do.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pytest_llmperf import __version__
from pytest_llmperf.errors import LlmPerfError, PlanError, ServerError
from pytest_llmperf.load import triton_grpc
from pytest_llmperf.load.capture import Capture
from pytest_llmperf.load.endpoints import ENDPOINTS
from pytest_llmperf.load.health import Window, client_health, stamps_of
from pytest_llmperf.load.interpret import answer_text, interpret
from pytest_llmperf.load.limits import raise_file_limit
from pytest_llmperf.load.openai import Message, request_body
from pytest_llmperf.load.prompts import PlannedRequest, Trace, marked_prompt
from pytest_llmperf.load.reception import Reception
from pytest_llmperf.load.schedule import Level, SlotPlan, busiest
from pytest_llmperf.load.slots import Slots
from pytest_llmperf.load.tape import KEPT_BYTES, Store
from pytest_llmperf.load.template import Templates
from pytest_llmperf.load.texts import Content
from pytest_llmperf.load.tokenizer import load_tokenizer
from pytest_llmperf.load.transport import Connection, Exchange, Origin, describe
from pytest_llmperf.load.triton_grpc import GrpcConnection
from pytest_llmperf.load.triton_tensors import TensorSpec
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import RequestRecord, Run, Stamps

Progress = Callable[[int, int, int], None]
"""Called with (done, total, failed) requests, a few times a second."""

Link = Connection | GrpcConnection
_Kind = tuple[str, bool, tuple[TensorSpec, ...]]
"""What of a target a body depends on: the model's name, whether every chunk tells usage, the model's inputs."""
_PROGRESS_S = 0.3
_SPIN_S = 0.001
"""asyncio's timers round up to whole milliseconds, so the last one before a due time is spent looking at the clock."""
_NAP_S = 0.0001
"""Of the last millisecond only twice this is spent so, the rest in naps, between which other I/O is served."""
_SPARE_S = 0.25
"""An open loop keeps as many idle connections as it would need for this long."""
_REST_S = 0.1
"""A slot that goes by time rests after a request without any answer: a server that is gone would be asked thousands of
times a second until the time is up."""


Gate = Callable[[], Awaitable[None]]
"""Awaited when everything is ready to send: where several processes wait for one another."""


class Share(NamedTuple):
    """Which part of a load is this process's: slots and requests `number`, `number + of`, …"""

    number: int
    of: int


_WHOLE = Share(0, 1)


@dataclass(frozen=True, slots=True)
class Target:
    """One server (or replica) to send to. `headers` may carry secrets, so they are never shown."""

    url: str
    model: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    continuous_usage: bool = False
    """The engine is known to tell token counts in every chunk when asked to."""
    inputs: tuple[TensorSpec, ...] = ()
    """Inputs of the model, where they were asked for: Triton's."""
    grpc: str = ""
    """host:port of its gRPC service; empty where it has none."""
    metrics: str = ""
    """URL of its metrics, where that is another one."""

    @property
    def is_secure(self) -> bool:
        return self.url.startswith(("https://", "grpcs://"))

    def __post_init__(self) -> None:
        if not (self.url.isascii() and self.url.startswith(("http://", "https://", "grpc://", "grpcs://"))):
            raise ValueError(f"{self.url!r} is not an http:// or https:// URL")
        for name, value in self.headers:
            if not (name + value).isascii() or not (name + value).isprintable():
                raise ValueError(f"header {name!r} holds characters that a header cannot carry")


async def run_load(
    targets: tuple[Target, ...],
    point: LoadPoint,
    trace: Trace,
    *,
    run_index: int,
    salt: str = "",
    progress: Progress | None = None,
    on_interrupt: Callable[[Run], None] | None = None,
    share: Share = _WHOLE,
    gate: Gate | None = None,
) -> Run:
    """Sends the trace once. A request that fails is a record with an error, never an exception.

    `run_index` and `salt` change the first words of every prompt, against prefix caches that outlive a run. When the
    run is cancelled (as Ctrl-C does), `on_interrupt` gets what was measured so far, then the cancellation goes on.
    Of a shared load, `trace` holds the requests of this `share` only.
    """
    with Store(KEPT_BYTES) as store:
        load = _Load(targets, point, trace, trace.requests, f"{salt}r{run_index}", store, share, gate, trace.slots)
        try:
            await load.run(progress)
        except asyncio.CancelledError:
            if on_interrupt is not None:
                on_interrupt(load.result(run_index))
            raise
        return load.result(run_index)


async def warm_up(targets: tuple[Target, ...], point: LoadPoint, trace: Trace, *, salt: str = "") -> None:
    """Sends the warm-up requests, at most `concurrency` at once. Raises ServerError when every one fails."""
    if not trace.warmup:
        return
    with Store(KEPT_BYTES) as store:
        load = _Load(targets, point, trace, trace.warmup, f"{salt}warmup", store)
        await load.run(None)
        records = load.result(0).records
    if not any(record.ok for record in records):
        raise ServerError(f"every warm-up request failed; the first: {records[0].error}")


class _Load:
    """One execution while it happens: what its tasks share."""

    def __init__(
        self,
        targets: tuple[Target, ...],
        point: LoadPoint,
        trace: Trace,
        requests: tuple[PlannedRequest, ...],
        mark: str,
        store: Store,
        share: Share = _WHOLE,
        gate: Gate | None = None,
        slot_plan: SlotPlan | None = None,
    ) -> None:
        self.targets = targets
        self.point = point
        self.requests = {request.index: request for request in requests}
        self.slot_plan = slot_plan
        self.trace_hash = trace.hash
        self.mark = mark
        self.store = store
        self.share = share
        self.gate = gate
        self.pieces = trace.pieces
        self.endpoint = ENDPOINTS[point.endpoint]
        self.templates = Templates(self.endpoint.read)
        self.count = load_tokenizer(point.tokenizer).count if point.tokenizer else None
        self.think_s = (point.conversation.think_time if point.conversation else None) or 0.0
        self.prompts = {request.index: self._marked(request) for request in requests}
        self.window = Window(every_thread=self.endpoint.framing == "messages")
        self.origins = [Origin(target.url) for target in targets]
        self.bodies = self._encode_bodies()
        self.connections: list[Link] = []
        self.connect_s: list[float] = []
        self.exchanges: dict[int, Exchange] = {}
        self.room: _Room | None = None
        self.done = 0
        self.failed = 0

    def _encode_bodies(self) -> dict[_Kind, dict[int, bytes]]:
        """The body of every request by its index, per kind of target: encoded before the window, not in it.

        Later turns of a conversation have theirs when the answers before them are known.
        """
        return {
            kind: {request.index: self._body(request, kind) for request in self.requests.values() if not request.turn}
            for kind in {self._kind(target) for target in self.targets}
        }

    def _marked(self, request: PlannedRequest) -> Content | list[Content]:
        mark = "warm" if self.point.prefix_cache == "warm" else self.mark
        return marked_prompt(request, f"{self.trace_hash}/{mark}", self.pieces)

    def _again(self, unit: Sequence[PlannedRequest]) -> tuple[PlannedRequest, ...]:
        """Requests of a loop that goes by time once more: new ones of the run, with marks of their own."""
        begin = len(self.requests)
        renewed = tuple(replace(request, index=begin + at, phase="measured") for at, request in enumerate(unit))
        if unit[0].conversation is not None:
            renewed = tuple(replace(request, conversation=begin) for request in renewed)
        for request in renewed:
            self.requests[request.index] = request
            self.prompts[request.index] = self._marked(request)
            for kind, bodies in self.bodies.items():
                if not request.turn:
                    bodies[request.index] = self._body(request, kind)
        return renewed

    def _body(self, request: PlannedRequest, kind: _Kind, history: Sequence[Message] = ()) -> bytes:
        point, content, tokens = self.point, self.prompts[request.index], request.output_tokens
        model, every_chunk_usage, inputs = kind
        if history:
            body = request_body(
                point, content, tokens, model=model, every_chunk_usage=every_chunk_usage, history=history
            )
        else:
            body = self.endpoint.body(point, content, tokens, model=model, every_chunk_usage=every_chunk_usage)
        return self.endpoint.encode(body, model, inputs)

    def _kind(self, target: Target) -> _Kind:
        asked = self.point.stream_usage
        return target.model, target.continuous_usage if asked is None else asked == "every-chunk", target.inputs

    def _wire(self, number: int, request: PlannedRequest, history: Sequence[Message] = ()) -> bytes:
        """The bytes of a request for target `number`."""
        target, origin = self.targets[number], self.origins[number]
        kind = self._kind(target)
        body = self._body(request, kind, history) if history else self.bodies[kind][request.index]
        if self.endpoint.framing == "messages":
            return body + triton_grpc.request_id(self._request_id(request))
        headers = {
            "Host": origin.netloc,
            "User-Agent": f"pytest-llmperf/{__version__}",
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "X-Request-Id": self._request_id(request),
            **{name.title(): value for name, value in target.headers},
            "Content-Length": str(len(body)),
        }
        lines = [f"POST {origin.prefix}{self.endpoint.path(target.model)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body

    def _request_id(self, request: PlannedRequest) -> str:
        return f"llmperf-{self.trace_hash[:8]}-{self.mark}-{request.index}"

    async def run(self, progress: Progress | None) -> None:
        """Sends everything and waits for the last answer; every socket is closed afterwards, whatever happens."""
        self.reception = Reception()
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(progress))
                await (self._closed_loop() if self._is_closed() else self._open_loop())
                watch.cancel()
        except ExceptionGroup as group:
            raise _told(group) from None
        finally:
            for connection in self.connections:
                connection.close()
            self.reception.close()
            for exchange in self.exchanges.values():
                if not exchange.has_ended:
                    exchange.end("interrupted")
        if progress is not None:
            progress(self.done, len(self.requests), self.failed)

    def _is_closed(self) -> bool:
        return next(iter(self.requests.values())).due_ns is None

    async def _watch(self, progress: Progress | None) -> None:
        """Looks after time limits and progress, beside the requests."""
        point = self.point
        pause = min(0.1, point.no_data_timeout / 10, point.read_timeout / 10)
        told = 0.0
        while True:
            wanted = asyncio.get_running_loop().time() + pause
            await asyncio.sleep(pause)
            now = asyncio.get_running_loop().time()
            await self.store.relieve()
            if self.window.is_open:
                self.window.loop_lags_s.append(now - wanted)
            for connection in self.connections:
                connection.check(now, no_data_s=point.no_data_timeout, whole_s=point.read_timeout)
            if progress is not None and now - told > _PROGRESS_S:
                told = now
                progress(self.done, len(self.requests), self.failed)

    async def _closed_loop(self) -> None:
        queue = deque(_units(self.requests.values()))
        plan = self.slot_plan or SlotPlan((Level(0.0, self.point.concurrency or len(queue)),), 0.0, None)
        numbers = range(plan.most)[self.share.number :: self.share.of][: len(queue)]
        raise_file_limit(len(numbers), required=len(numbers))
        connections = [(number, self.new_connection(number)) for number in numbers]
        await self._open_all(connection for _, connection in connections)
        await self._pass_gate()
        with self.window.open():
            slots = Slots(plan)
            async with asyncio.TaskGroup() as group:
                for number, connection in connections:
                    group.create_task(self._slot(number, connection, queue, slots))
                if self.slot_plan is not None:
                    group.create_task(slots.conduct())

    async def _pass_gate(self) -> None:
        if self.gate is not None:
            await self.gate()

    async def _slot(
        self, number: int, connection: Link, queue: deque[tuple[PlannedRequest, ...]], slots: Slots
    ) -> None:
        """Takes the next request of the trace as soon as its last one has ended; turns of a conversation in order."""
        user = _User(number, connection, slots)
        while await slots.turn(number) and queue:
            unit = queue.popleft()
            if self.slot_plan is not None:
                queue.append(self._again(unit))
            exchange = await self._exchange(user, unit[0])
            if len(unit) > 1:
                await self._later_turns(user, unit[0], exchange, unit[1:])

    async def _exchange(self, user: _User, request: PlannedRequest, history: Sequence[Message] = ()) -> Exchange:
        if self.slot_plan is not None:
            request = self.requests[request.index] = replace(request, phase=user.slots.phase(user.number))
        wire = self._wire(user.number % len(self.targets), request, history)
        exchange = self.exchanges[request.index] = Exchange(self.store)
        if user.connection.is_open:
            self._start(user.connection, request, wire, exchange)
        await self._settle(user.connection, request, wire, exchange)
        if self.slot_plan is not None and exchange.reader.status is None and not exchange.cancelled:
            await asyncio.sleep(_REST_S)
        return exchange

    async def _later_turns(
        self, user: _User, last: PlannedRequest, exchange: Exchange, later: Sequence[PlannedRequest]
    ) -> None:
        """The rest of a conversation, each turn with all that was said before; given up when one fails.

        A loop that goes by time may end between two turns.
        """
        clock = asyncio.get_running_loop().time
        history: list[Message] = []
        for request in later:
            due_s = clock() + self.think_s
            answer = answer_text(exchange.capture(), self.endpoint, self.templates)
            if answer is None:
                self._give_up(request.turn, [turn for turn in later if turn.turn >= request.turn])
                return
            history += [("user", str(self.prompts[last.index])), ("assistant", answer)]
            await asyncio.sleep(max(0.0, due_s - clock()))
            if not await user.slots.turn(user.number):
                return
            exchange = await self._exchange(user, request, history)
            last = request

    def _give_up(self, failed_turn: int, later: Sequence[PlannedRequest]) -> None:
        """Turns that will not be sent are failed ones, or the number of errors would depend on where they happened."""
        for request in later:
            self.exchanges[request.index] = Exchange(self.store)
            self.exchanges[request.index].end(f"not sent: turn {failed_turn} of its conversation failed")
        self.done += len(later)
        self.failed += len(later)

    async def _open_loop(self) -> None:
        """Each request at its due time, counted from one start instant, on an idle connection."""
        point, spare = self.point, self._spare()
        pools = [_Pool(self, number, spare) for number in range(len(self.targets))]
        raise_file_limit(point.max_in_flight or len(self.requests), required=spare * len(pools))
        for pool in pools:
            pool.idle = [self.new_connection(pool.number) for _ in range(spare)]
        await self._open_all(connection for pool in pools for connection in pool.idle)
        await self._pass_gate()
        room = self.room = _Room(point.max_in_flight) if point.max_in_flight else None
        with self.window.open():
            start_s = asyncio.get_running_loop().time() - (time.time_ns() - self.window.started_ns) / 1e9
            async with asyncio.TaskGroup() as group:
                for request in self.requests.values():
                    pool = pools[request.index % len(pools)]
                    wire = self._wire(pool.number, request)
                    await _until(start_s + (request.due_ns or 0) / 1e9, self.window, self.reception)
                    exchange = self.exchanges[request.index] = Exchange(self.store)
                    if room is not None:
                        exchange.held_ns = await room.enter(self.window.started_ns + (request.due_ns or 0))
                    self._send_due(request, pool, wire, exchange, group)
                self.reception.due_s = math.inf

    def _spare(self) -> int:
        """Idle connections per target to start with; none where each request opens its own."""
        if self.point.connection == "fresh":
            return 0
        most = busiest([request.due_ns or 0 for request in self.requests.values()], _SPARE_S)
        return min(len(self.requests), self.point.max_in_flight or most, math.ceil(most / len(self.targets)) + 4)

    def _send_due(
        self, request: PlannedRequest, pool: _Pool, wire: bytes, exchange: Exchange, group: asyncio.TaskGroup
    ) -> None:
        """Sends now, not when a task gets its turn: only an exhausted pool makes a request late."""
        connection = pool.take()
        if connection.is_open:
            self._start(connection, request, wire, exchange)
        group.create_task(self._settle_pooled(pool, connection, request, wire, exchange))
        if pool.wants_more:
            group.create_task(pool.add())

    async def _settle_pooled(
        self, pool: _Pool, connection: Link, request: PlannedRequest, wire: bytes, exchange: Exchange
    ) -> None:
        await self._settle(connection, request, wire, exchange)
        pool.put(connection)
        if self.room is not None:
            self.room.leave()

    def _start(self, connection: Link, request: PlannedRequest, wire: bytes, exchange: Exchange) -> None:
        connection.start(wire, exchange)
        if request.cancel_after_s is not None:
            asyncio.get_running_loop().call_later(request.cancel_after_s, connection.cancel, exchange)

    async def _settle(self, connection: Link, request: PlannedRequest, wire: bytes, exchange: Exchange) -> None:
        """Waits for the end of an exchange; opens the connection first where it was not, or no longer, open."""
        if exchange.sent_ns is not None:
            await exchange.ended
            if exchange.retry:
                exchange.restart()
        if exchange.sent_ns is None:
            error = await self.open(connection, exchange)
            if error is None:
                self._start(connection, request, wire, exchange)
            else:
                exchange.end(error)
            await exchange.ended
        if self.point.connection == "fresh":
            connection.close()
        self.done += 1
        failed = exchange.error is not None or exchange.reader.status != 200
        self.failed += failed and not exchange.cancelled

    def new_connection(self, number: int) -> Link:
        connection = self._link(number % len(self.targets))
        self.connections.append(connection)
        return connection

    def _link(self, number: int) -> Link:
        if self.endpoint.framing != "messages":
            return Connection(self.origins[number], self.reception)
        target = self.targets[number]
        if not target.grpc:
            raise PlanError(f"{target.url} has no gRPC service: a triton-remote server names it by `grpc: host:port`")
        return GrpcConnection(target.grpc, target.headers, secure=target.is_secure)

    async def _open_all(self, connections: Iterator[Link]) -> None:
        """A connection that fails to open here is tried again by its first request, which gets the error."""
        if self.point.connection == "fresh":
            return
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(self.open(connection))

    async def open(self, connection: Link, exchange: Exchange | None = None) -> str | None:
        """The error, or None. `connect_ms` counts openings before the window, and those for one `exchange` only."""
        limit_s = self.point.connect_timeout
        started = time.perf_counter()
        try:
            await connection.open(limit_s)
        except OSError as error:
            if isinstance(error, TimeoutError) and not error.errno:
                return f"no connection within {limit_s:g} s (connect_timeout)"
            return f"no connection: {describe(error)}"
        took_s = time.perf_counter() - started
        fresh = exchange is not None and self.point.connection == "fresh"
        if exchange is not None and fresh:
            exchange.connect_ns = round(took_s * 1e9)
        if fresh or not self.window.started_ns:
            self.connect_s.append(took_s)
        return None

    def result(self, run_index: int) -> Run:
        """Everything that was sent, as records in trace order; requests that had not ended are failed ones."""
        sent = [(self.requests[index], self.exchanges[index]) for index in sorted(self.exchanges)]
        # The kernel starts to stamp a moment after the first socket asks for it: a lead-in request may miss that.
        stamps = stamps_of([exchange.tape for request, exchange in sent if request.phase == "measured"])
        records: list[RequestRecord] = []
        lags_us: list[float] = []
        for request, exchange in sent:
            capture = exchange.capture()
            records.append(self._record(request, capture, stamps))
            lags_us += capture.receive_lags_us()
        return Run(
            index=run_index,
            started_ns=self.window.started_ns,
            ended_ns=self.window.ended_ns,
            trace_hash=self.trace_hash,
            records=tuple(records),
            client=client_health(
                self.window,
                stamps,
                lags_us,
                records,
                self.connect_s,
                [connection.losses for connection in self.connections],
            ),
        )

    def _record(self, request: PlannedRequest, capture: Capture, stamps: Stamps) -> RequestRecord:
        due_ns = None if request.due_ns is None else self.window.started_ns + request.due_ns
        return interpret(
            capture,
            request,
            stamps,
            request_id=self._request_id(request),
            due_ns=due_ns,
            endpoint=self.endpoint,
            count=self.count,
            templates=self.templates,
        )


def _told(group: ExceptionGroup[Exception]) -> Exception:
    """Our own error among those that ended the load, which tells the user what to do; else all of them."""
    own: Exception | None = group.subgroup(LlmPerfError)
    while isinstance(own, ExceptionGroup):
        own = own.exceptions[0]
    return own or group


def _units(requests: Iterable[PlannedRequest]) -> Iterator[tuple[PlannedRequest, ...]]:
    """Requests that one slot sends one after the other; one each where there are no conversations."""
    return (tuple(turns) for _, turns in itertools.groupby(requests, lambda request: request.unit))


class _User(NamedTuple):
    """A slot of a closed loop at work."""

    number: int
    connection: Link
    slots: Slots


class _Pool:
    """The idle connections of an open loop to one target; the most recently used is taken first."""

    def __init__(self, load: _Load, number: int, spare: int) -> None:
        self.number = number
        self.idle: list[Link] = []
        self._load = load
        self._spare = spare
        self._opening = 0

    @property
    def wants_more(self) -> bool:
        return len(self.idle) + self._opening < self._spare

    def take(self) -> Link:
        """An open connection, or a closed one when there is no other."""
        connection = None
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                return connection
        return connection or self._load.new_connection(self.number)

    def put(self, connection: Link) -> None:
        self.idle.append(connection)

    async def add(self) -> None:
        self._opening += 1
        connection = self._load.new_connection(self.number)
        await self._load.open(connection)
        self._opening -= 1
        self.put(connection)


class _Room:
    """How many requests may be in flight at once."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)
        self._full_until_ns = 0

    async def enter(self, due_ns: int) -> int:
        """Waits for room; how long a request that was due then was held back, behind others that waited too."""
        if self._free.locked():
            await self._free.acquire()
            self._full_until_ns = time.time_ns()
        else:
            await self._free.acquire()
        return max(0, self._full_until_ns - due_ns)

    def leave(self) -> None:
        self._free.release()


async def _until(time_s: float, window: Window, reception: Reception) -> None:
    """Returns at `time_s` of the loop's clock, a few microseconds late at best; serves other I/O until then."""
    loop = asyncio.get_running_loop()
    reception.due_s = time_s
    if (left := time_s - loop.time() - _SPIN_S) > 0:
        await asyncio.sleep(left)
    while (now := loop.time()) < time_s:
        if time_s - now > 2 * _NAP_S:
            # Looking all the time, a driver with real-time priority would be stopped for 50 ms in every second.
            time.sleep(_NAP_S)  # noqa: ASYNC251 - shorter than the loop's own timers can be
            now = loop.time()
        await asyncio.sleep(0)
        window.idle_turn(loop.time() - now)
