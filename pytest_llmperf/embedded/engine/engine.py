"""The engine thread: takes requests, runs schedule -> step -> commit, and hands each step's tokens to the event loop.

The loop is woken once per step, whatever its number of tokens. A step that raises ends the engine for good.
"""

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.engine.scheduler import FinishReason, Request, Scheduler, SchedulerStats, StepPlan
from pytest_llmperf.embedded.settings import EngineSettings

logger = logging.getLogger(__name__)


class Step(Protocol):
    """Computes a plan, or takes the time of it."""

    def execute(self, plan: StepPlan, *, after_idle: bool) -> Mapping[int, int]:
        """The new token of every request whose work samples."""

    def begin_run(self, index: int) -> None:
        """A benchmark run is about to begin."""


@dataclass(frozen=True, slots=True)
class Token:
    request_id: int
    token: int
    finish_reason: FinishReason | None
    first_scheduled_ns: int  # CLOCK_REALTIME


@dataclass(frozen=True, slots=True)
class StepResult:
    tokens: tuple[Token, ...]
    stats: SchedulerStats


def make_step(settings: EngineSettings) -> Step:
    """The step function of the settings. Only the decoder imports numpy."""
    if settings.step == "decoder":
        # Before numpy loads its BLAS: one thread is deterministic, fast at this size, and leaves a core to the client.
        for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = "1"
        from pytest_llmperf.embedded.engine.decoder import Decoder

        decoder = Decoder(settings)
        decoder.warm_up()
        return decoder
    from pytest_llmperf.embedded.engine.modelled import ModelledStep

    return ModelledStep(settings)


class Engine:
    """Owner of the thread. Every method is called from the event loop, both callbacks are called in it."""

    def __init__(
        self,
        settings: EngineSettings,
        step: Step,
        *,
        on_step: Callable[[StepResult], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._scheduler = Scheduler(settings, tokenizer.EOS)
        self._step = step
        self._on_step, self._on_death = on_step, on_death
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = (
            queue.SimpleQueue()
        )  # run by the thread; None: stop
        self._first_scheduled_ns: dict[int, int] = {}
        self._after_idle = True
        self._dead = False  # known before the thread has quite ended
        self._stopping = False  # the loop may close before a long step ends: nothing more is handed to it
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._dead

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: Request) -> None:
        self._commands.put(partial(self._scheduler.add, request))

    def abort(self, request_id: int) -> None:
        self._commands.put(partial(self._drop, request_id))

    def begin_run(self, index: int) -> None:
        self._commands.put(partial(self._step.begin_run, index))

    def reset_prefix_cache(self) -> None:
        self._commands.put(self._scheduler.reset_prefix_cache)

    def crash(self, reason: str) -> None:
        """A fault for tests: the thread dies as it does of an error in a step."""
        self._commands.put(partial(_fail, reason))

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after its present step; whether it did in time."""
        self._stopping = True
        self._commands.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._take_commands():
                self._one_step()
        except Exception as error:  # the thread's boundary: whatever it was, it is reported, once
            logger.exception("EngineCore encountered a fatal error.")
            self._dead = True
            self._loop.call_soon_threadsafe(self._on_death, error)

    def _take_commands(self) -> bool:
        """Obey everything queued, waiting while there is nothing to do. False: stop."""
        self._after_idle = False
        while not (self._scheduler.has_work and self._commands.empty()):
            self._after_idle |= not self._scheduler.has_work
            command = self._commands.get()
            if command is None:
                return False
            command()
        return True

    def _drop(self, request_id: int) -> None:
        self._scheduler.abort(request_id)
        self._first_scheduled_ns.pop(request_id, None)
        self._publish(())

    def _one_step(self) -> None:
        plan = self._scheduler.schedule()
        now_ns = time.time_ns()
        for work in plan.work:
            self._first_scheduled_ns.setdefault(work.request.id, now_ns)
        sampled = self._step.execute(plan, after_idle=self._after_idle)
        tokens = []
        for output in self._scheduler.commit(plan, sampled):
            scheduled = self._first_scheduled_ns[output.request_id]
            tokens.append(Token(output.request_id, output.token, output.finish_reason, scheduled))
            if output.finish_reason:
                del self._first_scheduled_ns[output.request_id]
        self._publish(tuple(tokens))

    def _publish(self, tokens: tuple[Token, ...]) -> None:
        if not self._stopping:
            self._loop.call_soon_threadsafe(self._on_step, StepResult(tokens, self._scheduler.stats()))


def _fail(reason: str) -> None:
    raise RuntimeError(reason)
