"""Measures configurations: starts each server, runs its loads, and keeps what it saw. The only I/O of a search."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

from pytest_llmperf.definitions import HEADLINE, Quantity
from pytest_llmperf.errors import LlmPerfError, PlanError
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.metrics.result import make_result
from pytest_llmperf.metrics.stats.compliance import limit_run
from pytest_llmperf.metrics.summary import metric_values, summarize
from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement, Progress
from pytest_llmperf.runner.outcomes import Facts, RunFolder
from pytest_llmperf.search.checkpoint import Checkpoint
from pytest_llmperf.search.strategy.contest import PruneReason
from pytest_llmperf.search.strategy.space import Position
from pytest_llmperf.search.strategy.trial import RunFacts, Trial
from pytest_llmperf.servers.engines.commands import missing_requirement
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.telemetry.environment import environment
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.gpu_memory import MemoryWatch

REPORTED = (*HEADLINE, Quantity("e2e", "p99"), Quantity("output_token_throughput_per_gpu"), Quantity("error_rate"))
"""Kept of every run, whatever the search is for."""
_MOST_SPOILED = 2
"""Runs of a configuration that are not to be trusted, after which it is given up."""
Show = Callable[[str], None]
"""Replaces the line that was shown before."""


class Bench:
    """Gives trials their runs: from the checkpoint as far as that reaches, then measured."""

    def __init__(
        self,
        name: str,
        configs: Mapping[Position, ServerConfig],
        points: Sequence[LoadPoint],
        aims: Sequence[Quantity],
        *,
        checkpoint: Checkpoint,
        session: RunFolder,
        gpus: Sequence[Gpu],
        live: Show | None = None,
        workers: Callable[[LoadPoint], int | None] | None = None,
    ) -> None:
        self._name, self._configs, self._points = name, configs, tuple(points)
        limited = [limit.quantity for point in points for limit in point.sla]
        self._quantities = tuple(dict.fromkeys([*aims, *limited, *REPORTED]))
        self._checkpoint, self._session, self._gpus, self._live = checkpoint, session, tuple(gpus), live
        self._workers = workers or (lambda point: point.workers)
        self._runs: dict[tuple[Position, str], list[Run]] = {}
        self._numbers: dict[Position, int] = {}
        self.measured = 0
        """Runs of a load in this process."""
        self.taken = 0
        """Runs that the checkpoint held."""

    def run(self, trial: Trial, rounds: int, prune_reason: PruneReason) -> Trial:
        """The trial with `rounds` runs of every load; fewer as soon as it is pruned, fails or is spoiled."""
        config = self._configs[trial.position]
        reason = missing_requirement(config, self._gpus)
        if reason:
            return replace(trial, skipped=reason)
        with contextlib.ExitStack() as stack:
            start = partial(start_server, config, self._session.log_dir(), self._gpus, loads=self._points)
            launch = _Launch(stack, start, trial.launches + 1)
            while True:
                point = min(self._points, key=lambda one: len(trial.of(one.name)))
                if len(trial.of(point.name)) >= rounds:
                    return trial
                try:
                    facts = self._next(trial, point, launch)
                except PlanError:
                    raise
                except LlmPerfError as error:
                    return replace(trial, error=self._failed(trial, point, str(error)))
                trial = replace(trial, runs=(*trial.runs, facts))
                if len(trial.spoiled) >= _MOST_SPOILED:
                    return replace(trial, stopped=f"runs are not to be trusted: {trial.spoiled[-1]}")
                if why := prune_reason(trial):
                    return replace(trial, stopped=why)

    def _next(self, trial: Trial, point: LoadPoint, launch: _Launch) -> RunFacts:
        """The run that follows those of the trial: known, or measured and written down. Raises LlmPerfError."""
        entry = self._checkpoint.entry(self._configs[trial.position])
        if len(trial.runs) < len(entry.runs):
            self.taken += 1
            return entry.runs[len(trial.runs)]
        if entry.error is not None:
            raise LlmPerfError(entry.error)
        facts = self._measure(trial, point, launch)
        entry.runs.append(facts)
        self._write_down()
        return facts

    def _write_down(self) -> None:
        """Keeps what is measured; where that fails the search goes on, and cannot be continued later."""
        try:
            self._checkpoint.write()
        except OSError as error:
            self._session.tell(f"checkpoint {self._checkpoint.path} was not written: {error.strerror}")

    def _failed(self, trial: Trial, point: LoadPoint, error: str) -> str:
        """Notes it; gives the line that is shown."""
        line = next(iter(error.splitlines()), error)
        self._checkpoint.entry(self._configs[trial.position]).error = line
        self._write_down()
        self._note(trial.position, point, error=line, passed=False)
        return line

    def _measure(self, trial: Trial, point: LoadPoint, launch: _Launch) -> RunFacts:
        self._show(trial, f"starting the server, {point.name} next" if launch.server is None else point.name)
        server = launch.up()
        self._checkpoint.same_engine(server.version)
        if point.name not in launch.measurements:
            keep = partial(self._keep, trial.position, point, launch)
            launch.measurements[point.name] = Measurement(server, point, point.name, keep, self._workers(point))
        with MemoryWatch(server.gpus) as memory:
            run(launch.measurements[point.name].run(self._progress(trial, point)))
        self.measured += 1
        self._note(trial.position, point, error=None)
        done = self._runs[trial.position, point.name][-1]
        summary = summarize(done, point, server.config.gpu_count)
        samples = metric_values(done, {limit.metric for limit in point.sla})
        return RunFacts(
            load=point.name,
            launch=done.launch,
            values={str(quantity): summary.value(quantity) for quantity in self._quantities},
            limits={str(limit): limit_run(limit, summary, samples) for limit in point.sla},
            sent=summary.sent,
            failed=summary.failed,
            invalid=invalid_reasons([done], point),
            gpu_memory_gb=memory.peak_gb,
        )

    def _keep(self, position: Position, point: LoadPoint, launch: _Launch, run: Run) -> None:
        """An interrupted run too is on disk and in the report, but decides nothing."""
        if not run.records or launch.server is None:
            return
        runs = self._runs.setdefault((position, point.name), [])
        runs.append(replace(run, launch=launch.number, index=len(runs)))
        point_id, config = self._point_id(position, point), launch.server.config
        self._session.save_requests(f"{self._name}[{point_id}]", runs[-1], point)
        facts = environment(config, launch.server.version, self._gpus, launch.server.deployment)
        result = make_result(point_id, config, point, facts, runs)
        self._note(position, point, result=result, sla=check_sla(point.sla, result, len(runs)), error="interrupted")

    def _point_id(self, position: Position, point: LoadPoint) -> str:
        return f"{self._configs[position].name}-{point.name}"

    def _note(self, position: Position, point: LoadPoint, **facts: Unpack[Facts]) -> None:
        point_id = self._point_id(position, point)
        self._session.note(f"{self._name}[{point_id}]", point_id, **facts)

    def _progress(self, trial: Trial, point: LoadPoint) -> Progress | None:
        if self._live is None:
            return None

        def show(run_index: int, done: int, total: int, failed: int) -> None:
            trouble = f", {failed} failed" if failed else ""
            self._show(trial, f"{point.name}: {done}/{total} requests{trouble}")

        return show

    def _show(self, trial: Trial, text: str) -> None:
        if self._live:
            number = self._numbers.setdefault(trial.position, len(self._numbers) + 1)
            name, rounds = self._configs[trial.position].name, trial.rounds([point.name for point in self._points])
            self._live(f"llmperf search {self._name}: trial {number}: {name}, run {rounds + 1}, {text}")


class _Launch:
    """One start of a configuration's server, put off until a run is really needed."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        start: Callable[[], contextlib.AbstractContextManager[LlmServer]],
        number: int,
    ) -> None:
        self._stack, self._start = stack, start
        self.number = number
        self.server: LlmServer | None = None
        self.measurements: dict[str, Measurement] = {}

    def up(self) -> LlmServer:
        """The server, started when it is not up yet. Raises ServerError and MissingRequirement."""
        if self.server is None:
            self.server = self._stack.enter_context(self._start())
        return self.server
