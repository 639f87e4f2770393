"""Starts what a configuration asks for and hands out a server that has answered a real request."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx

from pytest_llmperf.duet import Duet, local_gpus
from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.load.target import Target
from pytest_llmperf.records import Telemetry
from pytest_llmperf.server_spec import ServerConfig
from pytest_llmperf.servers.asking import ask
from pytest_llmperf.servers.commands import missing_requirement, server_command, shown_command
from pytest_llmperf.servers.engines.table import ENGINES, Start
from pytest_llmperf.servers.log import log_tail
from pytest_llmperf.servers.process import ServerProcess, run_process, wait_until
from pytest_llmperf.servers.sampling import sources
from pytest_llmperf.servers.secrets import redact, secret_values
from pytest_llmperf.telemetry import triton
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.watch import Watcher, watcher

_PROBE_TIMEOUT_S = 5.0
_LEAST_TIMEOUT_S = 0.05
_LAST_GASP_S = 1.0
_SETTLED_READINGS = 20
_UP = ("/v1/models", "/v2/health/ready")
"""What a server that is up answers: an OpenAI one, or Triton."""


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
        return f"LlmServer({self.config.name!r}, {self.url if self.started else 'not started'!r})"

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
        well = not health or _problem(target, health.path, health.status) is None
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
    config: ServerConfig, log_dir: Path, gpus: Sequence[Gpu], *, later: bool = False
) -> Iterator[LlmServer]:
    """The server of `config`, ready (or `later` so, as LlmServer says); stopped with all its processes on leaving.

    Raises MissingRequirement when this machine cannot run it and ServerError when it does not come up; `gpus` are the
    ones to choose from.
    """
    watching = watcher() if config.is_sampled else contextlib.nullcontext()
    # The sampler is begun before the server, so that it is ready when that is.
    with watching as sampler, contextlib.ExitStack() as stack:

        def launch() -> _Launch:
            stack.close()
            return stack.enter_context(_launched(config, log_dir, gpus))

        yield LlmServer(config, launch, gpus[: local_gpus(config)], sampler, later=later)


@contextlib.contextmanager
def start_duet(duet: Duet, log_dir: Path, gpus: Sequence[Gpu], *, later: bool = False) -> Iterator[LlmServer]:
    """The new server with the old one as its `reference`, both ready, on GPUs of their own.

    Raises as start_server does, and MissingRequirement when there are too few GPUs for both at once.
    """
    if reason := duet.too_few_gpus(gpus):
        raise MissingRequirement(reason)
    taken = local_gpus(duet.a)
    with (
        start_server(duet.a, log_dir, gpus[:taken], later=later) as old,
        start_server(duet.b, log_dir, gpus[taken:], later=later) as new,
    ):
        new.reference = old
        yield new


@contextlib.contextmanager
def _launched(config: ServerConfig, log_dir: Path, gpus: Sequence[Gpu]) -> Iterator[_Launch]:
    start = ENGINES[config.engine].start
    if start is None:
        yield _remote(config)
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
        started = [(_wait_ready(config, target, process), process) for target, process in started]
        targets, processes = (tuple(side) for side in zip(*started, strict=True))
        yield _Launch(targets, processes, ENGINES[config.engine].version(targets[0]), processes[0].secrets)


@contextlib.contextmanager
def _replica(
    config: ServerConfig, start: Start, log_dir: Path, number: int, gpus: Sequence[Gpu]
) -> Iterator[tuple[Target, ServerProcess]]:
    name = config.name if config.replicas == 1 else f"{config.name}-{number}"
    log = _fresh_log(log_dir, name)
    with start.placed(config, log) as place:
        command = server_command(config, place, gpus)
        target = ENGINES[config.engine].target(config, place)
        with run_process(name, command, log, start.grace_s(config)) as process:
            yield target, process


def _fresh_log(folder: Path, name: str) -> Path:
    """A file of its own for every start: the errors of an earlier one (of another plan, say) are not this one's."""
    paths = itertools.chain([folder / f"{name}.log"], (folder / f"{name}.{n}.log" for n in itertools.count(2)))
    return next(path for path in paths if not path.exists())


def _remote(config: ServerConfig) -> _Launch:
    engine, name = ENGINES[config.engine], f"server {config.name!r} at {shown_command(config, 0, ())}"
    target, secrets = engine.target(config, None), secret_values([config.model_dump_json()])
    if engine.ready is not None:
        target = engine.ready(target, None, f"model {config.model!r} of {name}", config.ready_timeout)
        return _Launch((target,), (), engine.version(target), secrets)
    up, why = (lambda: any(_answers(target, path) for path in _UP)), (lambda: f"; {_problem(target, _UP[0])}")
    wait_until(up, None, name, config.ready_timeout, why)
    _first_request(target, None, config)
    return _Launch((target,), (), engine.version(target), secrets)


def _wait_ready(config: ServerConfig, target: Target, process: ServerProcess) -> Target:
    """The target, with what only the ready server could tell of it."""
    engine = ENGINES[config.engine]
    if engine.ready is not None:
        return engine.ready(target, process, config.name, config.ready_timeout)
    if health := engine.health(config):
        problem = partial(_problem, target, health.path, health.status)
        wait_until(lambda: problem() is None, process, config.name, config.ready_timeout, lambda: f"; {problem()}")
        _first_request(target, process, config)
    else:
        answers = partial(_first_failure, target, config.ready_timeout)
        wait_until(lambda: answers() is None, process, config.name, config.ready_timeout)
    return target


def _answers(target: Target, path: str) -> bool:
    return _problem(target, path) is None


def _problem(target: Target, path: str, status: int | None = None) -> str | None:
    """What is wrong with the answer to a GET; None when it is `status`, or where that is None any of 200 to 299.

    ServerError when waiting will not help.
    """
    try:
        response = ask("GET", target.url + path, headers=target.headers, timeout_s=_PROBE_TIMEOUT_S)
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ServerError(f"{target.url}: {error}; SSL_CERT_FILE names a file of certificates to trust") from error
        return f"GET {path}: {type(error).__name__}: {error}"
    if response.is_success if status is None else response.status_code == status:
        return None
    if response.status_code in (401, 403):
        raise ServerError(f"{target.url}{path} answers {response.status_code}: the credentials are missing or wrong")
    return f"GET {path}: HTTP {response.status_code}"


def _first_request(target: Target, process: ServerProcess | None, config: ServerConfig) -> None:
    """A server can say that it is healthy and fail every request, so the first token is the last readiness check."""
    if failure := _first_failure(target, config.ready_timeout):
        what = f"says that it is healthy, but its first request failed: {failure}"
        raise process.error(what) if process else ServerError(f"server {config.name!r} at {target.url} {what}")


def _first_failure(target: Target, timeout_s: float) -> str | None:
    """None when a request of one token gives an answer within `timeout_s`, else what went wrong."""
    deadline = time.monotonic() + timeout_s
    failures = (
        _try_request(target, path, body, max(_LEAST_TIMEOUT_S, deadline - time.monotonic()))
        for path, body in _first_bodies(target.model)
    )
    failure = next(failures)
    return failure if failure and all(failures) else None


def _first_bodies(model: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """A request of one token in every dialect that a server may speak; what the first one gets is the error told."""
    common = {"model": model, "max_tokens": 1}
    yield "/v1/completions", {**common, "prompt": "Hello"}
    yield "/v1/chat/completions", {**common, "messages": [{"role": "user", "content": "Hello"}]}
    yield f"/v2/models/{quote(model, safe='')}/generate", {"text_input": "Hello", "parameters": {"max_tokens": 1}}


def _try_request(target: Target, path: str, body: Mapping[str, object], timeout_s: float) -> str | None:
    """None when the request gave an answer, else what went wrong."""
    try:
        response = ask("POST", target.url + path, json=body, headers=target.headers, timeout_s=timeout_s)
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"
    if response.status_code != 200 or not any(key in response.text for key in ("choices", "text_output")):
        return f"HTTP {response.status_code}: {response.text[:500]}"
    return None
