"""Starts what a configuration asks for and hands out a server that has answered a real request."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from pytest_llmperf.duet import Duet, local_gpus
from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.file_names import file_name
from pytest_llmperf.load.target import Target
from pytest_llmperf.load.urls import shown
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import Telemetry
from pytest_llmperf.server_spec import (
    EmbeddedServer,
    OpenAIServer,
    RemoteServer,
    ServerConfig,
    TritonRemoteServer,
    TritonServer,
    VllmServer,
)
from pytest_llmperf.servers.commands import Launched, missing_requirement, model_name, server_command
from pytest_llmperf.servers.log import log_tail
from pytest_llmperf.servers.process import ServerProcess, free_port, run_process, wait_until
from pytest_llmperf.servers.readiness import answers, first_failure, version, wait_for_remote, wait_until_up
from pytest_llmperf.servers.sampling import sources
from pytest_llmperf.servers.secrets import expand, expand_url, redact, secret_values
from pytest_llmperf.servers.triton.launch import placed, stop_grace_s
from pytest_llmperf.servers.triton.service import metrics_text, service
from pytest_llmperf.telemetry import triton
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.watch import Watcher, watcher

_LAST_GASP_S = 1.0
_ALIVE_TIMEOUT_S = 30.0
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
            if process.exit_code() is None and self._is_healthy(target):
                continue
            ended = process.has_ended_within(_LAST_GASP_S)  # one that ends closes its port first
            what = "died" if ended else f"is up, but {self._ailment(target)}"
            raise process.error(what, had_served=True)

    def _is_healthy(self, target: Target) -> bool:
        if isinstance(self.config, TritonServer):
            # Triton calls a model ready whose process is gone.
            return service(target).first_failure(_ALIVE_TIMEOUT_S) is None
        return answers(target, "/health")

    def _ailment(self, target: Target) -> str:
        if isinstance(self.config, TritonServer):
            return f"its model {target.model!r} fails: {service(target).first_failure(_ALIVE_TIMEOUT_S)}"
        return "/health says that its engine is dead"

    def reading(self) -> list[triton.Reading] | None:
        """What Triton's replicas have counted so far; None of other engines, and where they don't answer."""
        if not isinstance(self.config, TritonServer | TritonRemoteServer):
            return None
        try:
            last, reading = None, self._counters()
            for _ in range(_SETTLED_READINGS):
                if reading == last:
                    break
                # A request is counted a moment after its last response.
                last, reading = reading, self._counters()
        except (ServerError, httpx.TransportError):
            return None
        return reading

    def _counters(self) -> list[triton.Reading]:
        return [
            triton.read(service(target).statistics(), metrics_text(target.metrics) if target.metrics else "")
            for target in self.targets
        ]

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
    if isinstance(config, RemoteServer):
        yield _remote(config, loads)
        return
    reason = missing_requirement(config, gpus)
    if reason:
        raise MissingRequirement(reason)
    share = config.gpu_count // config.replicas
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(_replica(config, log_dir, number, gpus[number * share : (number + 1) * share]))
            for number in range(config.replicas)
        ]
        started = [(_wait_ready(config, target, process, loads), process) for target, process in started]
        targets, processes = (tuple(side) for side in zip(*started, strict=True))
        engine = service(targets[0]).version() if isinstance(config, TritonServer) else version(targets[0])
        yield _Launch(targets, processes, engine, processes[0].secrets)


@contextlib.contextmanager
def _replica(
    config: Launched, log_dir: Path, number: int, gpus: Sequence[Gpu]
) -> Iterator[tuple[Target, ServerProcess]]:
    name = config.name if config.replicas == 1 else f"{config.name}-{number}"
    log = _fresh_log(log_dir, file_name(name))
    if isinstance(config, TritonServer):
        with _triton_replica(config, name, log, gpus) as replica:
            yield replica
        return
    port = free_port()
    command = server_command(config, port, gpus)
    headers = _api_key_header(config)
    target = Target(f"http://127.0.0.1:{port}", model_name(config), headers, continuous_usage=True)
    with run_process(name, command, log) as process:
        yield target, process


@contextlib.contextmanager
def _triton_replica(
    config: TritonServer, name: str, log: Path, gpus: Sequence[Gpu]
) -> Iterator[tuple[Target, ServerProcess]]:
    with placed(config, log) as place:
        command = server_command(config, place, gpus)
        target = Target(
            f"http://127.0.0.1:{place.http}",
            config.served,
            grpc=f"127.0.0.1:{place.grpc}",
            metrics=f"http://127.0.0.1:{place.metrics}/metrics",
        )
        with run_process(name, command, log, stop_grace_s(config)) as process:
            yield target, process


def _fresh_log(folder: Path, name: str) -> Path:
    """A file of its own for every start: the errors of an earlier one (of another plan, say) are not this one's."""
    paths = itertools.chain([folder / f"{name}.log"], (folder / f"{name}.{n}.log" for n in itertools.count(2)))
    return next(path for path in paths if not path.exists())


def _api_key_header(config: EmbeddedServer | VllmServer) -> tuple[tuple[str, str], ...]:
    key = config.args.get("api-key") or config.env.get("VLLM_API_KEY")
    return (("Authorization", f"Bearer {expand(str(key))}"),) if key else ()


def _remote(config: OpenAIServer | TritonRemoteServer, loads: Sequence[LoadPoint]) -> _Launch:
    path = config.path if isinstance(config, OpenAIServer) else ""
    target = Target(expand_url(config.url), config.model, _auth_headers(config), path=expand_url(path))
    secrets = secret_values([*config.headers.values(), config.bearer or "", config.basic or "", config.url, path])
    if isinstance(config, TritonRemoteServer):
        target = replace(target, grpc=config.grpc_target, metrics=config.metrics or "")
        target = _remote_triton(target, config)
        return _Launch((target,), (), service(target).version(), secrets)
    wait_for_remote(target, config, loads)
    return _Launch((target,), (), version(target), secrets)


def _auth_headers(config: RemoteServer) -> tuple[tuple[str, str], ...]:
    headers = {name: expand(value) for name, value in config.headers.items()}
    if config.bearer:
        headers["Authorization"] = f"Bearer {expand(config.bearer)}"
    if config.basic:
        headers["Authorization"] = "Basic " + base64.b64encode(expand(config.basic).encode()).decode()
    return tuple(headers.items())


def _wait_ready(config: Launched, target: Target, process: ServerProcess, loads: Sequence[LoadPoint]) -> Target:
    """The target, with what only the ready server could tell of it."""
    if isinstance(config, TritonServer):
        wait_until(service(target).ready, process, config.name, config.ready_timeout)
        return _answering(target, process, config.name, config.ready_timeout)
    wait_until(lambda: answers(target, "/health"), process, config.name, config.ready_timeout)
    if failure := first_failure(target, config, loads):
        raise process.error(f"says that it is healthy, but its first request failed: {failure}")
    return target


def _remote_triton(target: Target, config: TritonRemoteServer) -> Target:
    name = f"model {config.model!r} of server {config.name!r} at {shown(config.url)}"
    if config.ready is not False:
        wait_until_up(target, config, name, lambda: None if service(target).ready() else "the model is not ready")
    try:
        return _answering(target, None, name, config.ready_timeout)
    except httpx.TransportError as error:
        raise ServerError(f"{name}: {type(error).__name__}: {error}") from error


def _answering(target: Target, process: ServerProcess | None, name: str, timeout_s: float) -> Target:
    """The target with its model's inputs, after one real request, since a ready model can be a dead one."""
    target = replace(target, inputs=service(target).inputs())
    if failure := service(target).first_failure(timeout_s):
        what = f"says that it is ready, but its first request failed: {failure}"
        raise process.error(what) if process else ServerError(f"{name} {what}")
    return target
