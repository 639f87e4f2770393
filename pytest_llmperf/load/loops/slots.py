"""The slots of a closed loop as time goes by: who takes requests, and which of these are measured."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from pytest_llmperf.load.trace.schedule import SlotPlan
from pytest_llmperf.records import Phase


class WorkerShare(NamedTuple):
    """The part of a load that is this process's: slots and requests `number`, `number + of`, …"""

    number: int
    of: int


class Slots:
    """The slots of one run, numbered from 0; `run_schedule` activates and retires them."""

    def __init__(self, plan: SlotPlan) -> None:
        self._plan = plan
        self._active = plan.levels[0].slots
        self._ramping = plan.ramp_s > 0
        self._left = plan.requests
        self._joined: set[int] = set()
        self._over = False
        self._measuring = asyncio.Event()
        self._changed = asyncio.Event()

    async def turn(self, number: int) -> bool:
        """Waits until slot `number` may take a request; False when the loop is over."""
        while number >= self._active and not self._over:
            await self._changed.wait()
        return not self._over

    def phase(self, number: int) -> Phase:
        """Phase of the request that slot `number` takes now; a slot's first one may only fill the server."""
        first = number not in self._joined
        self._joined.add(number)
        fills = first and (self._plan.ramp_s > 0 or number < self._plan.levels[0].slots)
        if fills or self._ramping:
            return "lead-in"
        self._measuring.set()
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._change(0)
        return "measured"

    async def run_schedule(self) -> None:
        """Activates and retires slots at the plan's times."""
        if not self._ramping:
            await self._measuring.wait()
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        for level in self._plan.levels[1:]:
            await asyncio.sleep(max(0.0, start_s + level.at_s - loop.time()))
            if not self._over:
                # The last step's time is calculated, and may be a rounding before the ramp's end.
                self._ramping = level.at_s < self._plan.ramp_s * (1 - 1e-9)
                self._change(level.slots)

    def _change(self, active: int) -> None:
        self._active = active
        self._over = active == 0
        self._changed.set()
        self._changed = asyncio.Event()
