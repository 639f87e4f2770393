"""One load point on one server: warm-up, then the runs, one when it is asked for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from pytest_llmperf.answers.scoring import AnswerScorer, without_texts
from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.driver import Progress, run_load, warm_up
from pytest_llmperf.load.trace.trace import Trace, make_trace
from pytest_llmperf.load.workers import most_workers, run_workers
from pytest_llmperf.metrics.summary import Summary, summarize
from pytest_llmperf.metrics.trust.stability import steadiness
from pytest_llmperf.metrics.trust.validity import busy_host, cpu_was_the_limit, disturbance
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import Run, WarmUp
from pytest_llmperf.runner.measure.context import check_context
from pytest_llmperf.runner.measure.length import RunLength, decide
from pytest_llmperf.runner.measure.warmup import warm_until_steady, warms_further
from pytest_llmperf.servers.secrets import bearer
from pytest_llmperf.servers.server import LlmServer, in_thread
from pytest_llmperf.telemetry.counters import Reading, gained
from pytest_llmperf.telemetry.host import host_load, read_host

_REPEATS = 2
"""Most repeats of a run that other work on the client's machine has spoiled."""
_WENT_BACK = "the server's own account is left out: its counters went back during the run (started anew, or several?)"


class Measurement:
    """One load point on one server while it is measured: a run at a time, each of the same trace."""

    def __init__(
        self,
        server: LlmServer,
        point: LoadPoint,
        key: str,
        on_run: Callable[[Run], None],
        workers: int | None = None,
        length: RunLength | None = None,
    ) -> None:
        """`key` seeds prompts and arrivals; `on_run` gets each run as it ends, an interrupted one too.

        `workers` is the number of load driver processes; None begins with one and takes twice as many whenever the
        client's CPU was the limit of a run. `length` is that of a load that leaves it open, decided by the first run
        where it is not yet.
        """
        self.server, self.point = server, point
        self.runs = 0
        """Number of runs that have ended."""
        self._key = key
        self._length = length or RunLength()
        self._trace: Trace | None = None
        """The requests of every run, made by the first."""
        # A server that stays up keeps its prefix cache: without a salt, today's prompts would be found in yesterday's.
        self._salt = secrets.token_hex(8)
        self._scorer: AnswerScorer | None = None
        if point.answers is not None:
            token = point.answers.judge and point.answers.judge.bearer
            self._scorer = AnswerScorer(point.answers, bearer(token))
        self._on_run = on_run
        self._workers, self._most = workers or 1, workers or most_workers(point)
        self._warm_launch = 0
        self._windows: list[Summary] = []
        self._is_host_busy = False
        """The machine stayed busy however often a run was done over: what follows is measured as it is."""

    @property
    def steady(self) -> bool:
        """True if the load asks for stability and its last runs agree."""
        return self.point.stability is not None and steadiness(self._windows, self.point.stability).reached

    async def run(self, progress: Progress | None = None) -> None:
        """One more run, after a warm-up where this launch of the server has had none.

        One that the client or other work on its machine has spoiled is done over. Raises PlanError when the load has no
        trace (first run) or asks for more tokens than the server's context holds, ServerError when the server is or
        goes dead, and LoadError when a worker dies. Cancelled while the trace is made, it ends at once, and the thread
        that makes it goes on to its end: `asyncio.run` waits for that.
        """
        server = self.server
        trace = await self._whole_trace()
        warmed: WarmUp | None = None
        if self._warm_launch != server.launches:
            async with self._answering(trace):
                await warm_up(server.instances, self.point, trace, salt=self._salt)
                if warms_further(self.point, server.config.is_started):
                    warmed = await warm_until_steady(server.targets, self.point, trace, salt=self._salt)
            self._warm_launch = server.launches
        if self.point.length == "auto" and self._length.requests is None:
            await decide(self._length, self.point, partial(self._pass, trace))
            shorter, trace = trace, await self._whole_trace()
            if trace is not shorter:  # has requests that the server's context and prefix cache have not seen
                async with self._answering(trace):
                    await warm_up(server.instances, self.point, trace, salt=self._salt)
        spoiled: list[str] = []
        unchecked = await in_thread(server, server.check_ours)
        while True:
            before = await in_thread(server, server.reading)
            host = await in_thread(server, read_host)
            await in_thread(server, server.begin_watching)
            run = await self._drive(
                trace,
                # A repeated run has other marks: the prompts of the spoiled one are in the server's prefix cache.
                salt=f"{self._salt}.{len(spoiled)}." if spoiled else self._salt,
                run_index=self.runs,
                progress=progress,
                on_interrupt=self._keep_interrupted,
            )
            found = host_load(host, await in_thread(server, read_host), own_known=server.cpu_use_is_separate)
            run = await self._observed(replace(run, spoiled=tuple(spoiled), host=found), before)
            reason = self._repeat_reason(run, len(spoiled))
            if reason is None:
                break
            spoiled.append(reason)
        length = (self._length.note,) if self._length.note and not self.runs else ()
        notes = (*run.notes, *unchecked, *length, *(_restless(warmed) if warmed else ()))
        await self._ended(replace(run, launch=server.launches, notes=notes, warmup=warmed))

    def _repeat_reason(self, run: Run, repeats: int) -> str | None:
        """The reason to do a run over after so many repeats; None for one that stands.

        One that the client's CPU limited is done over with more processes. One that the client spoiled in another way,
        or that other work on its machine may have, is done over up to twice: what decides is the state of client and
        machine alone, never the server's numbers, so that doing it over favours nobody. A run with failed requests
        stands: failures are never thrown away.
        """
        if any(record.error for record in run.records):
            return None
        reason, cpu = disturbance(run, self.point), cpu_was_the_limit(run)
        if reason is None and not self._is_host_busy:
            reason = busy_host(run)
            self._is_host_busy = reason is not None and repeats >= _REPEATS
        if reason is not None and cpu and self._workers < self._most:
            self._workers = min(2 * self._workers, self._most)
            return reason
        return reason if repeats < _REPEATS and not cpu else None

    @asynccontextmanager
    async def _answering(self, trace: Trace) -> AsyncIterator[None]:
        """Checks the server before what is sent within, and after a failure, of which its clients say less."""
        await in_thread(self.server, self.server.check_alive)
        await in_thread(self.server, partial(check_context, self.server.targets[:1], self.point, trace))
        try:
            yield
        except ServerError:
            await in_thread(self.server, self.server.check_alive)
            raise

    async def _whole_trace(self) -> Trace:
        """Returns the trace of every run, made anew once a length has been decided on."""
        requests = self._length.requests
        if self.point.length == "auto" and requests not in (None, self.point.requests):
            self.point = self.point.model_copy(update={"requests": requests})
            self._trace = None
        if self._trace is None:
            self._trace = await asyncio.to_thread(make_trace, self.point, self._key)
        return self._trace

    def _pass(self, trace: Trace, number: int) -> Coroutine[Any, Any, Run]:
        """Sends the load once, unmeasured, with prompts of its own."""
        return self._drive(trace, salt=f"{self._salt}l{number}.", run_index=number)

    async def _ended(self, run: Run) -> None:
        """Hands over a run that is whole, and sees to it that the server that was measured is there still."""
        server = self.server
        self.runs += 1
        self._on_run(run if self._scorer is None else await asyncio.to_thread(self._scorer.scored, run))
        if any(not record.ok for record in run.records):
            await in_thread(server, server.check_alive)
        await in_thread(server, server.check_ours)
        if self.point.stability:
            self._windows.append(summarize(run, self.point))

    async def _observed(self, run: Run, before: list[Reading] | None) -> Run:
        """Returns the run with what was seen of its server; cancelled meanwhile, it is kept without."""
        server = self.server
        try:
            run = replace(run, telemetry=await in_thread(server, server.end_watching))
            if before and (after := await in_thread(server, server.reading)):
                side = gained(before, after)
                run = replace(run, server_side=side, notes=run.notes if side else (*run.notes, _WENT_BACK))
        except asyncio.CancelledError:
            self._keep_interrupted(run)
            raise
        return run

    def _keep_interrupted(self, run: Run) -> None:
        """Hands over what an interrupted run measured, without any text."""
        self._on_run(run if self._scorer is None else without_texts(run))

    def _drive(self, trace: Trace, **options: Any) -> Coroutine[Any, Any, Run]:
        """The load, driven by this process or by several."""
        options["balance"] = self.server.balance
        if self._workers == 1:
            return run_load(self.server.targets, self.point, trace, **options)
        return run_workers(self.server.targets, self.point, trace, workers=self._workers, **options)


def _restless(warmed: WarmUp) -> tuple[str, ...]:
    if warmed.steady:
        return ()
    return (
        f"the warm-up of {warmed.requests} requests in {warmed.seconds:.0f} s ended before the server was steady: "
        f"{warmed.drift or 'too few requests to tell'}; the first run may be slower than later ones",
    )
