"""Starts what a configuration asks for and hands out a server that has answered a real request."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from pytest_llmperf.duet import Duet, local_gpus
from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.file_names import file_name
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.records import Telemetry
from pytest_llmperf.servers.commands import missing_requirement, server_command
from pytest_llmperf.servers.engines.table import ENGINES, Start
from pytest_llmperf.servers.log import log_tail
from pytest_llmperf.servers.process import ServerProcess, run_process, wait_until
from pytest_llmperf.servers.readiness import first_failure, health_problem
from pytest_llmperf.servers.sampling import sources
from pytest_llmperf.servers.secrets import redact, secret_values
from pytest_llmperf.telemetry import triton
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.watch import Watcher, watcher

_LAST_GASP_S = 1.0
_SETTLED_READINGS = 20


@dataclass(frozen=True, slots=True)
class _Launch:
    """One start of a server, up to its end."""

    targets: tuple[Target, ...]
    processes: tuple[ServerProcess, ...]
    version: str | None
    secrets: tuple[str, ...]


class LlmServer:
    """A server that is up, and can be launched anew: its port, processes and logs are then others.

    One that is made `later` comes up when it is first asked for anything that only a running server has.
    """

    def __init__(
        self,
        config: ServerConfig,
        launch: Callable[[], _Launch],
        gpus: Sequence[Gpu] = (),
        watcher: Watcher | None = None,
        *,
        later: bool = False,
    ) -> None:
        """`gpus` are those it runs on; without a `watcher` nothing is sampled."""
        self.config = config
        self.launches = 1
        """How often it was started."""
        self.reference: LlmServer | None = None
        """In a duet the old server, up beside this one and measured in turns with it; else None."""
        self._launch = launch
        self._gpus, self._watcher = tuple(gpus), watcher
        self._launched = None if later else launch()

    def __repr__(self) -> str:
        return f"LlmServer({self.config.name!r}, {self.targets[0].shown if self.started else 'not started'!r})"

    @property
    def started(self) -> bool:
        return self._launched is not None

    @property
    def _up(self) -> _Launch:
        if self._launched is None:
            self._launched = self._launch()
        return self._launched

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def asked(self) -> ServerConfig | Duet:
        """What a test asks for to get this server."""
        return self.config if self.reference is None else Duet(self.reference.config, self.config)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where the load goes, one per replica."""
        return self._up.targets

    @property
    def processes(self) -> tuple[ServerProcess, ...]:
        """One per replica; empty for a server that was up before."""
        return self._up.processes

    @property
    def version(self) -> str | None:
        """The engine's own version; None when it does not tell."""
        return self._up.version

    def relaunch(self) -> bool:
        """Stop it and start it anew, ready; False for a server that is not ours to start. Raises ServerError."""
        if not self.processes:
            return False
        self._launched = self._launch()
        self.launches += 1
        return True

    @property
    def url(self) -> str:
        """Base URL of the first replica."""
        return self.targets[0].url

    @property
    def logs(self) -> tuple[Path, ...]:
        """One per replica; empty for a server that was up before, and for one that is not started."""
        return tuple(process.log for process in self.processes) if self.started else ()

    def check_alive(self) -> None:
        """ServerError when a process ended or `/health` says no: an engine can die under a front end that lives."""
        for process, target in zip(self.processes, self.targets, strict=False):
            ailment = self._ailment(target) if process.exit_code() is None else "died"
            if ailment is None:
                continue
            ended = process.has_ended_within(_LAST_GASP_S)  # one that ends closes its port first
            raise process.error("died" if ended else f"is up, but {ailment}", had_served=True)

    def _ailment(self, target: Target) -> str | None:
        """What is wrong with a server whose process is up; None when it is well."""
        engine = ENGINES[self.config.engine]
        if engine.ailment is not None:
            return engine.ailment(target)
        health = engine.health(self.config)
        well = not health or health_problem(target, health) is None
        return None if well or not health else f"{health.path} says that its engine is dead"

    def reading(self) -> list[triton.Reading] | None:
        """What Triton's replicas have counted so far; None of other engines, and where they don't answer."""
        counters = ENGINES[self.config.engine].counters
        if counters is None:
            return None
        try:
            last, reading = None, list(map(counters, self.targets))
            for _ in range(_SETTLED_READINGS):
                if reading == last:
                    break
                # A request is counted a moment after its last response.
                last, reading = reading, list(map(counters, self.targets))
        except (ServerError, httpx.TransportError):
            return None
        return reading

    def begin_watching(self) -> None:
        """Sample the server, its processes and its GPUs from now on."""
        if self._watcher is not None:
            self._watcher.begin(sources(self.config, self.targets, self.processes, self._gpus))

    def end_watching(self) -> Telemetry | None:
        """What was sampled since; None where nothing is."""
        return self._watcher.end() if self._watcher is not None else None

    def log_tail(self) -> str:
        """Last lines of every replica's log, secrets hidden."""
        tails = [f"{path}:\n{log_tail(path)}" for path in self.logs]
        return redact("\n".join(tails), self._up.secrets)


@contextlib.contextmanager
def start_server(
    config: ServerConfig,
    log_dir: Path,
    gpus: Sequence[Gpu],
    *,
    later: bool = False,
    loads: Sequence[LoadPoint] = (),
) -> Iterator[LlmServer]:
    """The server of `config`, ready (or `later` so, as LlmServer says); stopped with all its processes on leaving.

    It is ready when it has answered a short request of one of `loads` (where none is given: of any known endpoint).
    Raises MissingRequirement when this machine cannot run it and ServerError when it does not come up; `gpus` are the
    ones to choose from.
    """
    watching = watcher() if config.is_sampled else contextlib.nullcontext()
    # The sampler is begun before the server, so that it is ready when that is.
    with watching as sampler, contextlib.ExitStack() as stack:

        def launch() -> _Launch:
            stack.close()
            return stack.enter_context(_launched(config, log_dir, gpus, loads))

        yield LlmServer(config, launch, gpus[: local_gpus(config)], sampler, later=later)


@contextlib.contextmanager
def start_duet(
    duet: Duet, log_dir: Path, gpus: Sequence[Gpu], *, later: bool = False, loads: Sequence[LoadPoint] = ()
) -> Iterator[LlmServer]:
    """The new server with the old one as its `reference`, both ready, on GPUs of their own.

    Raises as start_server does, and MissingRequirement when there are too few GPUs for both at once.
    """
    if reason := duet.too_few_gpus(gpus):
        raise MissingRequirement(reason)
    taken = local_gpus(duet.a)
    with (
        start_server(duet.a, log_dir, gpus[:taken], later=later, loads=loads) as old,
        start_server(duet.b, log_dir, gpus[taken:], later=later, loads=loads) as new,
    ):
        new.reference = old
        yield new


@contextlib.contextmanager
def _launched(
    config: ServerConfig, log_dir: Path, gpus: Sequence[Gpu], loads: Sequence[LoadPoint]
) -> Iterator[_Launch]:
    start = ENGINES[config.engine].start
    if start is None:
        yield _remote(config, loads)
        return
    reason = missing_requirement(config, gpus)
    if reason:
        raise MissingRequirement(reason)
    share = config.gpu_count // config.replicas
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(_replica(config, start, log_dir, number, gpus[number * share : (number + 1) * share]))
            for number in range(config.replicas)
        ]
        started = [(_wait_ready(config, target, process, loads), process) for target, process in started]
        targets, processes = (tuple(side) for side in zip(*started, strict=True))
        yield _Launch(targets, processes, ENGINES[config.engine].version(targets[0]), processes[0].secrets)


@contextlib.contextmanager
def _replica(
    config: ServerConfig, start: Start, log_dir: Path, number: int, gpus: Sequence[Gpu]
) -> Iterator[tuple[Target, ServerProcess]]:
    name = config.name if config.replicas == 1 else f"{config.name}-{number}"
    log = _fresh_log(log_dir, file_name(name))
    with start.placed(config, log) as place:
        command = server_command(config, place, gpus)
        target = ENGINES[config.engine].target(config, place)
        with run_process(name, command, log, start.grace_s(config)) as process:
            yield target, process


def _fresh_log(folder: Path, name: str) -> Path:
    """A file of its own for every start: the errors of an earlier one (of another plan, say) are not this one's."""
    paths = itertools.chain([folder / f"{name}.log"], (folder / f"{name}.{n}.log" for n in itertools.count(2)))
    return next(path for path in paths if not path.exists())


def _remote(config: ServerConfig, loads: Sequence[LoadPoint]) -> _Launch:
    engine = ENGINES[config.engine]
    target, secrets = engine.target(config, None), secret_values([config.model_dump_json()])
    if engine.ready is not None:
        target = engine.ready(config, target, None, loads)
    return _Launch((target,), (), engine.version(target), secrets)


def _wait_ready(config: ServerConfig, target: Target, process: ServerProcess, loads: Sequence[LoadPoint]) -> Target:
    """The target, with what only the ready server could tell of it."""
    engine = ENGINES[config.engine]
    if engine.ready is not None:
        return engine.ready(config, target, process, loads)
    health = engine.health(config)
    if not health:
        answered = partial(first_failure, target, config, loads)
        wait_until(lambda: answered() is None, process, config.name, config.ready_timeout)
        return target
    problem = partial(health_problem, target, health)
    wait_until(lambda: problem() is None, process, config.name, config.ready_timeout, lambda: f"; {problem()}")
    if failure := first_failure(target, config, loads):
        raise process.error(f"says that it is healthy, but its first request failed: {failure}")
    return target
