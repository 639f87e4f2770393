"""Steps that take as long as a model of a GPU says, with seeded noise, and yield pseudo-random words.

The cost of a step is a formula over its plan, the noise a function of (seed, session, run, time): the same arguments
give the same times. Only the waiting itself touches the machine's clock.
"""

import math
import time
import zlib
from collections.abc import Callable
from random import Random

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.engine.scheduler import StepPlan
from pytest_llmperf.embedded.settings import EngineSettings

RUN_GAP_S = 0.2  # an idle time longer than this begins a new run, unless runs are announced
_CATCH_UP_S = 0.02  # a machine that stopped us for longer than this is not made up for
_SPIN_S = 0.0003  # sleep() wakes up this late at worst, on a machine that is not overloaded


def step_cost_s(settings: EngineSettings, plan: StepPlan) -> float:
    """Seconds of one step without noise.

    The overhead, plus prefill tokens x ms + decode step ms + decoding requests x ms, divided by 1 + (TP - 1) x
    efficiency.
    Pipeline stages work on different requests at once: k requests pass p stages in (k + p - 1) / (k x p) of the time
    of one stage, the share that the fill and drain of the pipeline leave. A lone request gains nothing.
    """
    prefill = sum(len(work.tokens) for work in plan.work if work.prefill)
    decodes = sum(not work.prefill for work in plan.work)
    cost_ms = prefill * settings.prefill_ms_per_token + decodes * settings.decode_ms_per_seq
    if decodes:
        cost_ms += settings.decode_ms_per_step
    tensor = 1 + (settings.tensor_parallel_size - 1) * settings.tp_efficiency
    requests, stages = max(1, len(plan.work)), settings.pipeline_parallel_size
    pipeline = (requests + stages - 1) / (requests * stages)
    return (settings.step_overhead_ms + cost_ms / tensor * pipeline) / 1e3


class StepNoise:
    """The factor on a step's time and the stalls, as functions of the seconds since the engine started."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._seed = f"{settings.noise_seed}/{settings.noise_session}"
        self._session = self._lognormal(f"{self._seed}/session", settings.session_sd)
        self._stalls = Random(f"{self._seed}/stalls")
        self._next_stall_s = self._stall_gap_s()
        self.begin_run(0)

    def begin_run(self, index: int) -> None:
        self._run = self._lognormal(f"{self._seed}/run/{index}", self._settings.run_sd)

    def factor(self, now_s: float) -> float:
        """Session x run x drift; the median of each draw is 1."""
        return self._session * self._run * float((1 + self._settings.drift_per_hour) ** (now_s / 3600))

    def stall_s(self, start_s: float, end_s: float) -> float:
        """Seconds of the stalls that begin within a step. Those that would have met an idle engine are passed over."""
        total = 0.0
        while self._next_stall_s < end_s:
            if self._next_stall_s >= start_s:
                total += self._settings.stall_ms / 1e3
            self._next_stall_s += self._stall_gap_s()
        return total

    def _stall_gap_s(self) -> float:
        rate = self._settings.stall_rate_per_s
        return self._stalls.expovariate(rate) if rate else math.inf

    @staticmethod
    def _lognormal(seed: str, sd: float) -> float:
        return math.exp(Random(seed).gauss(0, sd)) if sd else 1.0


def wait_until(deadline_s: float) -> None:
    """Return as soon after this `time.monotonic()` as the machine allows: sleep, then spin for the last moment."""
    while (left := deadline_s - time.monotonic()) > 0:
        time.sleep(left - _SPIN_S if left > _SPIN_S else 0)


class ModelledStep:
    """The step function with the clock in it. Steps follow one another without a gap while there is work."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = wait_until,
    ) -> None:
        self._settings = settings
        self._noise = StepNoise(settings)
        self._clock, self._wait = clock, wait
        self._identity = zlib.crc32(settings.output_identity.encode())
        self._epoch = self._end = clock()
        self._announced: int | None = None
        self._runs = 0

    def begin_run(self, index: int) -> None:
        """Announce the run whose first step comes after the next idle time. From then on gaps begin no run."""
        self._announced = index

    def execute(self, plan: StepPlan, *, after_idle: bool) -> dict[int, int]:
        start = self._start(after_idle)
        cost = step_cost_s(self._settings, plan) * self._noise.factor(start - self._epoch)
        cost += self._noise.stall_s(start - self._epoch, start - self._epoch + cost)
        self._end = start + cost
        self._wait(self._end)
        return {work.request.id: self._word(work.request.seed, work.generated) for work in plan.work if work.samples}

    def _start(self, after_idle: bool) -> float:
        now = self._clock()
        if after_idle:
            self._note_run(now - self._end)
            return max(now, self._end)
        # Time between two steps is ours, not the model's: starting where the last one ended, no error adds up.
        return self._end if now - self._end < _CATCH_UP_S else now

    def _note_run(self, idle_s: float) -> None:
        if self._announced is not None:
            self._noise.begin_run(self._announced)
        elif idle_s > RUN_GAP_S:
            self._runs += 1
            self._noise.begin_run(self._runs)

    def _word(self, seed: int | None, position: int) -> int:
        digest = zlib.crc32(f"{self._identity}/{seed or 0}/{position}".encode())
        return tokenizer.WORD_TOKENS[digest % len(tokenizer.WORD_TOKENS)]
