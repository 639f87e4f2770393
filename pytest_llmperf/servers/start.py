"""Starts what a configuration asks for and hands out a server that has answered a real request."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from pytest_llmperf import clock
from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.base import Ready
from pytest_llmperf.plan.server.proxy import Proxy
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.deployments.holder import identity
from pytest_llmperf.servers.duet import Duet, sides
from pytest_llmperf.servers.engines.commands import check_requirements, server_command
from pytest_llmperf.servers.engines.table import ENGINES, Start
from pytest_llmperf.servers.process.gpu_pool import SHARING, GpuSharing, held_gpus
from pytest_llmperf.servers.process.process import ServerProcess, run_process, wait_until
from pytest_llmperf.servers.process.proxy import started_proxy
from pytest_llmperf.servers.readiness import first_failure, health_problem
from pytest_llmperf.servers.server import Launch, LlmServer, check_ours
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.watch import watcher


@contextlib.contextmanager
def start_server(
    asked: ServerConfig | Duet,
    log_dir: Path,
    gpus: Sequence[Gpu],
    *,
    lazy: bool = False,
    loads: Sequence[LoadPoint] = (),
    sharing: GpuSharing = SHARING,
) -> Iterator[LlmServer]:
    """The server that is asked for, ready (if `lazy`, on first use); stopped with all its processes on leaving.

    Of a duet the new one, with the old one as its `reference`, on GPUs of their own. A server is ready when it has
    answered a short request of one of `loads` (where none is given: of any known endpoint). `gpus` are the ones to
    choose from: those that are taken are held from the first launch on. Raises MissingRequirement when this machine
    cannot run it, or not both at once, and ServerError when it does not come up.
    """
    if isinstance(asked, Duet) and (reason := asked.too_few_gpus(gpus)):
        raise MissingRequirement(reason)
    configs = sides(asked)
    ends = list(itertools.accumulate(config.local_gpus for config in configs))
    with contextlib.ExitStack() as holding:
        # Together: one that holds some and waits for more could wait for one that does the same.
        held = cache(lambda: holding.enter_context(held_gpus(gpus, ends[-1], sharing)))
        servers = []
        for config, end in zip(configs, ends, strict=True):
            own = partial(_own_gpus, config, gpus, held, end)
            servers.append(holding.enter_context(_server(config, log_dir, own, lazy, loads)))
        *before, judged = servers
        judged.reference = before[0] if before else None
        yield judged


def _own_gpus(config: ServerConfig, gpus: Sequence[Gpu], held: Callable[[], Sequence[Gpu]], end: int) -> Sequence[Gpu]:
    """Returns the last of the `held` ones up to `end`. Raises MissingRequirement before anybody waits for one."""
    check_requirements(config, gpus)
    try:
        return held()[end - config.local_gpus : end]
    except ServerError as error:
        raise ServerError(f"server {config.name!r} {error}") from error


@contextlib.contextmanager
def _server(
    config: ServerConfig,
    log_dir: Path,
    own_gpus: Callable[[], Sequence[Gpu]],
    lazy: bool,
    loads: Sequence[LoadPoint],
) -> Iterator[LlmServer]:
    under_way: list[ServerProcess] = []
    watching = watcher() if config.is_sampled else contextlib.nullcontext()
    # The sampler is begun before the server, so that it is ready when that is.
    with watching as sampler, contextlib.ExitStack() as stack:

        def launch() -> Launch:
            stack.close()
            try:
                return stack.enter_context(_launched(config, log_dir, own_gpus, loads, under_way))
            finally:
                under_way.clear()

        yield LlmServer(config, launch, sampler, under_way, lazy=lazy)


@contextlib.contextmanager
def _launched(
    config: ServerConfig,
    log_dir: Path,
    own_gpus: Callable[[], Sequence[Gpu]],
    loads: Sequence[LoadPoint],
    under_way: list[ServerProcess],
) -> Iterator[Launch]:
    """The processes are `under_way` as soon as each is started."""
    start = ENGINES[config.engine].start
    if start is None:
        yield _remote(config, loads)
        return
    gpus = own_gpus()
    share = config.local_gpus // config.process_count
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(config.process_count):
            own = gpus[number * share : (number + 1) * share]
            started.append(stack.enter_context(_replica(config, start, log_dir, number, own)))
            under_way.append(started[-1][1])
        started = [(_wait_ready(config, target, process, loads), process) for target, process in started]
        for target, process in started:
            check_ours(config, target, process)
        targets, processes = (tuple(side) for side in zip(*started, strict=True))
        engine = ENGINES[config.engine]
        instances = tuple(instance for target in targets for instance in engine.instances(config, target))
        version, deployment = engine.version(targets[0]), identity(processes[0].log)
        if proxy := getattr(config, "proxy", None):
            front, process = stack.enter_context(_proxied(config, proxy, log_dir, targets, loads))
            targets, processes = (front,), (*processes, process)
        yield Launch(targets, instances, processes, version, tuple(gpus), deployment)


@contextlib.contextmanager
def _replica(
    config: ServerConfig, start: Start, log_dir: Path, number: int, gpus: Sequence[Gpu]
) -> Iterator[tuple[Target, ServerProcess]]:
    name = config.name if config.process_count == 1 else f"{config.name}-{number + 1}"
    log = _fresh_log(log_dir, file_name(name))
    with start.placed(config, log) as place:
        command = server_command(config, place, gpus)
        target = ENGINES[config.engine].target(config, place)
        with run_process(name, command, log, start.grace_s(config)) as process:
            yield target, process


@contextlib.contextmanager
def _proxied(
    config: ServerConfig, proxy: Proxy, log_dir: Path, replicas: Sequence[Target], loads: Sequence[LoadPoint]
) -> Iterator[tuple[Target, ServerProcess]]:
    """The proxy of a plan, through which a first request has been answered. Raises ServerError."""
    name = f"{config.name}-proxy"
    with started_proxy(name, proxy, replicas, _fresh_log(log_dir, file_name(name))) as (target, process):
        problem = partial(health_problem, target, Ready(path=proxy.ready))
        wait_until(lambda: problem() is None, process, name, config.ready_timeout, lambda: f"; {problem()}")
        if failure := first_failure(target, config, loads, process=process, retries_503=True):
            raise process.error(f"says that it is ready, but its first request failed: {failure}")
        yield target, process


def _fresh_log(folder: Path, name: str) -> Path:
    """A file of its own for every start: the errors of an earlier one (of another plan, say) are not this one's."""
    paths = itertools.chain([folder / f"{name}.log"], (folder / f"{name}.{n}.log" for n in itertools.count(2)))
    return next(path for path in paths if not os.path.lexists(path))


def _remote(config: ServerConfig, loads: Sequence[LoadPoint]) -> Launch:
    engine = ENGINES[config.engine]
    target = engine.target(config, None)
    if engine.ready is not None:
        target = engine.ready(config, target, None, loads)
    return Launch((target,), (target,), (), engine.version(target), ())


def _wait_ready(config: ServerConfig, target: Target, process: ServerProcess, loads: Sequence[LoadPoint]) -> Target:
    """The target, with the facts that only the ready server reports."""
    engine = ENGINES[config.engine]
    if engine.ready is not None:
        return engine.ready(config, target, process, loads)
    health = engine.health(config)
    if not health:
        answered = partial(first_failure, target, config, loads, process=process)
        wait_until(lambda: answered() is None, process, config.name, config.ready_timeout)
        return target
    problem, deadline = "", clock.monotonic() + config.ready_timeout

    def is_well() -> bool:
        nonlocal problem
        problem = health_problem(target, health, deadline) or ""
        return not problem

    wait_until(is_well, process, config.name, config.ready_timeout, lambda: f"; {problem}")
    if failure := first_failure(target, config, loads, process=process):
        check_ours(config, target, process)  # which says more than what another server answers
        raise process.error(f"says that it is healthy, but its first request failed: {failure}")
    return target
