"""The closed loop: slots that each send their next request when their last one has ended."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from pytest_llmperf.load.answers.interpret import AnswerReader
from pytest_llmperf.load.client.open_files import raise_file_limit
from pytest_llmperf.load.endpoints.openai import Message
from pytest_llmperf.load.loops.sender import Sender, StartBarrier
from pytest_llmperf.load.loops.slots import Slots, WorkerShare
from pytest_llmperf.load.trace.schedule import SlotCount, SlotPlan
from pytest_llmperf.load.trace.trace import PlannedRequest
from pytest_llmperf.load.transport.link import Exchange, Link
from pytest_llmperf.plan.load.point import LoadPoint

_REST_S = 0.1
"""A slot that goes by time rests after a request without any answer: a server that is gone would be asked thousands of
times a second until the time is up."""
_WARM_UP_SLOTS = 16
"""Most warm-up requests in flight of a load without a `concurrency`."""


class ClosedLoop:
    """The slots of this `share`. With a `plan` they go by time, and through the requests over and over."""

    def __init__(
        self, sender: Sender, plan: SlotPlan | None, share: WorkerShare, barrier: StartBarrier, reader: AnswerReader
    ) -> None:
        self._sender = sender
        self._plan = plan
        self._share = share
        self._barrier = barrier
        self._reader = reader

    async def run(self) -> None:
        sender = self._sender
        # A slot sends a conversation's requests one after the other; others are units by themselves.
        units = itertools.groupby(sender.requests.values(), attrgetter("unit"))
        queue = deque(tuple(requests) for _, requests in units)
        plan = self._plan or SlotPlan((SlotCount(0.0, _steady_slots(sender.point)),), 0.0, None)
        numbers = range(plan.most)[self._share.number :: self._share.of]
        if self._plan is None:  # else the queue never runs out, however short it is
            numbers = numbers[: len(queue)]
        raise_file_limit(len(numbers) * len(sender.targets), required=len(numbers) * len(sender.targets))
        # Each slot has a connection to every replica: whichever is chosen, none has to be opened first.
        connections = [(number, [sender.new_connection(at) for at in range(len(sender.targets))]) for number in numbers]
        await sender.open_all(connection for _, own in connections for connection in own)
        await self._barrier()
        with sender.period.open():
            slots = Slots(plan)
            async with asyncio.TaskGroup() as group:
                for number, own in connections:
                    group.create_task(self._slot(number, own, queue, slots))
                if self._plan is not None:
                    group.create_task(slots.run_schedule())

    async def _slot(
        self, number: int, connections: Sequence[Link], queue: deque[tuple[PlannedRequest, ...]], slots: Slots
    ) -> None:
        """Takes the next request of the trace as soon as its last one has ended; turns of a conversation in order.

        `connections` are the slot's, one per target.
        """
        sender, balancer = self._sender, self._sender.balancer
        while await slots.turn(number) and queue:
            unit = queue.popleft()
            if self._plan is not None:
                queue.append(self._repeated(unit))
            later: Sequence[PlannedRequest] = unit
            history: list[Message] = []
            has_turn = True
            session = balancer.choose() if balancer.keeps_sessions else None
            while has_turn:
                request, *later = later
                if self._plan is not None:
                    request = sender.requests[request.index] = replace(request, phase=slots.phase(number))
                replica = sender.choose(request, session)
                connection = connections[replica]
                encoded = sender.request_bytes.encoded(replica, request, history)
                exchange = sender.new_exchange(request)
                if connection.is_open:
                    connection.start(encoded, exchange, request.cancel_after_s)
                await sender.settle(connection, request, encoded, exchange)
                if session is None:
                    balancer.ended(replica)
                if self._plan is not None and exchange.reader.status is None and not exchange.cancelled:
                    await asyncio.sleep(_REST_S)
                # A loop that goes by time may end between two turns.
                has_turn = (
                    bool(later) and await self._think(request, exchange, later, history) and await slots.turn(number)
                )
            if session is not None:
                balancer.ended(session)
            if self._plan is not None:
                sender.request_bytes.forget(unit)

    def _repeated(self, unit: Sequence[PlannedRequest]) -> tuple[PlannedRequest, ...]:
        """Requests of a loop that goes by time once more: new ones of the run."""
        begin = len(self._sender.requests)
        renewed = tuple(replace(request, index=begin + at, phase="measured") for at, request in enumerate(unit))
        if unit[0].conversation is not None:
            renewed = tuple(replace(request, conversation=begin) for request in renewed)
        self._sender.requests.update((request.index, request) for request in renewed)
        self._sender.request_bytes.repeat(unit, renewed)
        return renewed

    async def _think(
        self, last: PlannedRequest, exchange: Exchange, later: Sequence[PlannedRequest], history: list[Message]
    ) -> bool:
        """Adds a turn to the `history` of its conversation and waits until the next one is due.

        False when it failed: then `later` turns are given up.
        """
        conversation = self._sender.point.conversation
        think_s = (conversation.think_time if conversation else None) or 0.0
        clock = asyncio.get_running_loop().time
        due_s = clock() + (think_s if later[0].think_s is None else later[0].think_s)
        capture = exchange.capture()
        answer = self._reader.text(capture)
        if answer is None:
            self._give_up(later, cancelled=self._reader.is_cancelled(capture))
            return False
        history += [("user", str(self._sender.request_bytes.prompts[last.index])), ("assistant", answer)]
        await asyncio.sleep(max(0.0, due_s - clock()))
        return True

    def _give_up(self, later: Sequence[PlannedRequest], *, cancelled: bool) -> None:
        """Turns that will not be sent end as the one before them: failed, or cancelled by the load itself.

        Without them the number of errors would depend on where they happened.
        """
        for request in later:
            unsent = self._sender.new_exchange(request)
            unsent.cancelled = cancelled
            unsent.end(f"not sent: turn {later[0].turn} of its conversation failed")
        self._sender.done += len(later)
        self._sender.failed += 0 if cancelled else len(later)


def _steady_slots(point: LoadPoint) -> int:
    """Slots of a loop that does not go by time: the warm-ups of an open load and of stages are such loops too."""
    most = point.concurrency or max((stage.concurrency or 0 for stage in point.stages), default=0)
    return most or min(point.max_in_flight or _WARM_UP_SLOTS, _WARM_UP_SLOTS)
