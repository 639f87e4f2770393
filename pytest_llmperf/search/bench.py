"""Measures configurations: starts each server, runs its loads, and keeps what it saw. The only I/O of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pytest_llmperf.definitions import HEADLINE, Quantity
from pytest_llmperf.errors import LlmPerfError, PlanError
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.metrics.stats.compliance import limit_run
from pytest_llmperf.metrics.summary import metric_values
from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.runner.tasks.task import Task
from pytest_llmperf.search.checkpoint import Checkpoint
from pytest_llmperf.search.strategy.contest import PruneReason
from pytest_llmperf.search.strategy.space import Position
from pytest_llmperf.search.strategy.trial import RunFacts, Trial
from pytest_llmperf.servers.engines.commands import missing_requirement
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.gpu_memory import MemoryWatch

REPORTED = (*HEADLINE, Quantity("e2e", "p99"), Quantity("output_token_throughput_per_gpu"), Quantity("error_rate"))
"""Quantities that are kept of every run, whatever the search is for."""
_MOST_SPOILED = 2
"""Runs of a configuration that are not to be trusted, after which it is given up."""


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
        live: Live,
        workers: Callable[[LoadPoint], int | None],
    ) -> None:
        self._name, self._configs, self._points = name, configs, tuple(points)
        limited = [limit.quantity for point in points for limit in point.sla]
        self._quantities = tuple(dict.fromkeys([*aims, *limited, *REPORTED]))
        self._checkpoint, self._session, self._gpus, self._workers = checkpoint, session, tuple(gpus), workers
        self._show, self._width = live.show, live.width
        self._tasks: dict[tuple[Position, str], Task] = {}
        """Measurements by configuration and load: the last launch's, with the runs of the earlier ones."""
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
        number = trial.launches + 1
        # Lazy, since the checkpoint may hold all runs.
        with start_server(config, self._session.log_dir(), self._gpus, lazy=True, loads=self._points) as server:
            while True:
                point = min(self._points, key=lambda one: len(trial.of(one.name)))
                if len(trial.of(point.name)) >= rounds:
                    return trial
                planned = self._planned(config, point, rounds)
                try:
                    facts = self._next(trial, planned, server, number)
                except PlanError:
                    raise
                except LlmPerfError as error:
                    return replace(trial, error=self._failed(config, planned, str(error)))
                trial = replace(trial, runs=(*trial.runs, facts))
                if len(trial.spoiled) >= _MOST_SPOILED:
                    return replace(trial, stopped=f"runs are not to be trusted: {trial.spoiled[-1]}")
                if why := prune_reason(trial):
                    return replace(trial, stopped=why)

    def _planned(self, config: ServerConfig, point: LoadPoint, runs: int) -> PlannedTest:
        """A load whose runs are counted by the search, as one of stability is too."""
        name, one = f"{config.name}-{point.name}", point.model_copy(update={"stability": None})
        return PlannedTest(f"{self._name}[{name}]", name, self._name, config, one, runs, self._workers(point), "never")

    def _next(self, trial: Trial, planned: PlannedTest, server: LlmServer, launch: int) -> RunFacts:
        """The run that follows those of the trial: known, or measured and written down. Raises LlmPerfError."""
        entry = self._checkpoint.entry(server.config)
        if len(trial.runs) < len(entry.runs):
            self.taken += 1
            return entry.runs[len(trial.runs)]
        if entry.error is not None:
            raise LlmPerfError(entry.error)
        facts = self._measure(trial, planned, server, launch)
        entry.runs.append(facts)
        self._write_down()
        return facts

    def _write_down(self) -> None:
        """Keeps what is measured; where that fails the search goes on, and cannot be continued later."""
        try:
            self._checkpoint.write()
        except OSError as error:
            self._session.add_note(f"checkpoint {self._checkpoint.path} was not written: {error.strerror}")

    def _failed(self, config: ServerConfig, planned: PlannedTest, error: str) -> str:
        """Notes it; gives the line that is shown."""
        line = next(iter(error.splitlines()), error)
        self._checkpoint.entry(config).error = line
        self._write_down()
        self._session.note(planned.test, planned.point_id, error=line, passed=False)
        return line

    def _measure(self, trial: Trial, planned: PlannedTest, server: LlmServer, launch: int) -> RunFacts:
        live, point = self._live(trial), planned.point
        if not server.started:
            live.starting(server.name)
        server.bring_up()
        self._checkpoint.same_engine(server.version)
        task = self._task(trial.position, planned, server)
        with MemoryWatch(server.gpus) as memory:
            run(task.run(live))
        if task.error is not None:
            raise task.error
        self.measured += 1
        result = task.result()
        self._session.note(task.test, task.name, sla=check_sla(point.sla, result, len(result.runs)), error=None)
        done, summary = result.runs[-1], result.summaries[-1]
        samples = metric_values(done, {limit.metric for limit in point.sla})
        return RunFacts(
            load=point.name,
            launch=launch,
            values={str(quantity): summary.value(quantity) for quantity in self._quantities},
            limits={str(limit): limit_run(limit, summary, samples) for limit in point.sla},
            sent=summary.sent,
            failed=summary.failed,
            invalid=invalid_reasons([done], point),
            gpu_memory_gb=memory.peak_gb,
        )

    def _task(self, position: Position, planned: PlannedTest, server: LlmServer) -> Task:
        """The task that measures the load on this launch, with the runs of the launches before it."""
        task = self._tasks.get((position, planned.point.name))
        if task is None or task.server is not server:
            task = Task(planned, server, self._session, self._gpus, task.result().runs if task else ())
            self._tasks[position, planned.point.name] = task
        return task

    def _live(self, trial: Trial) -> Live:
        number = self._numbers.setdefault(trial.position, len(self._numbers) + 1)
        return Live(self._show, width=self._width, head=f"llmperf search {self._name}: trial {number}: ")
