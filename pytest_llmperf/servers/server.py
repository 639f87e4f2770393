"""A server that is up: where the load goes, whether it lives, what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from pytest_llmperf import clock
from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.server.base import Balance, Ready
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.records import Telemetry
from pytest_llmperf.servers.deployments.holder import parts_path
from pytest_llmperf.servers.duet import Duet
from pytest_llmperf.servers.engines.table import ENGINES, Question
from pytest_llmperf.servers.process.log import log_tail
from pytest_llmperf.servers.process.process import ServerProcess
from pytest_llmperf.servers.readiness import ailment
from pytest_llmperf.servers.secrets import expand
from pytest_llmperf.telemetry.counters import Reading
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.watch import MetricsSource, Sources, Watcher

_LAST_GASP_S = 1.0
_SETTLED_READINGS = 20
_SETTLING_S = 0.02
_INSIST_S = 0.1
"""A launch of several processes may start another one meanwhile."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a server, up to its end."""

    targets: tuple[Target, ...]
    """The URLs that the load goes to."""
    instances: tuple[Target, ...]
    """The servers that answer the load: the targets, or the replicas behind a proxy."""
    processes: tuple[ServerProcess, ...]
    version: str | None
    gpus: tuple[Gpu, ...]
    """GPUs of this machine that it has; empty where it takes none."""
    deployment: Mapping[str, Any] = field(default_factory=dict)
    """Facts for its environment that only a running deployment knows."""

    @property
    def listening(self) -> Iterator[tuple[ServerProcess, Target]]:
        """Every process of ours with where it listens; a proxy, which the plan puts before the others, is the last."""
        where = self.targets if len(self.targets) == len(self.processes) else (*self.instances, *self.targets)
        return zip(self.processes, where, strict=False)


class LlmServer:
    """A server that is up, and can be launched anew: its port, processes and logs are then others.

    `lazy=True`: starts on first use of targets, processes or version.
    """

    def __init__(
        self,
        config: ServerConfig,
        launch: Callable[[], Launch],
        watcher: Watcher | None = None,
        under_way: Sequence[ServerProcess] = (),
        *,
        lazy: bool = False,
    ) -> None:
        """Starts the server, unless it is `lazy`. Nothing is sampled without a `watcher`.

        While `launch` runs, `under_way` holds the processes that it has started.
        """
        self.config = config
        self.launches = 1
        """Number of times that it was started."""
        self.reference: LlmServer | None = None
        """The old server in a duet, up beside this one and measured in turns with it; else None."""
        self._launch = launch
        self._watcher = watcher
        self._under_way = under_way
        self._launch_s = 0.0
        """Time that the last launch took."""
        self._launched = None if lazy else self._begun()

    def __repr__(self) -> str:
        return f"LlmServer({self.config.name!r}, {self.targets[0].shown if self.started else 'not started'!r})"

    @property
    def started(self) -> bool:
        return self._launched is not None

    def bring_up(self) -> Launch:
        """Returns the launch that is up, begun now for a lazy server that nobody has asked for. Raises ServerError."""
        if self._launched is None:
            self._launched = self._begun()
        return self._launched

    def _begun(self) -> Launch:
        begun_s = clock.monotonic()
        launched = self._launch()
        self._launch_s = clock.monotonic() - begun_s
        return launched

    @property
    def relaunch_s(self) -> float:
        """Seconds that a relaunch is expected to take: those of the last launch; 0 where there is nothing to start."""
        return self._launch_s if self.processes else 0.0

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def asked(self) -> ServerConfig | Duet:
        """The entry by which a test asks for this server."""
        return self.config if self.reference is None else Duet(self.reference.config, self.config)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The URLs that the load goes to, one per replica."""
        return self.bring_up().targets

    @property
    def instances(self) -> tuple[Target, ...]:
        """The servers that answer the load: the targets, or the replicas behind the proxy that is the only target."""
        return self.bring_up().instances

    @property
    def balance(self) -> Balance:
        """The rule by which the load driver spreads requests over the targets."""
        return self.config.balance

    @property
    def processes(self) -> tuple[ServerProcess, ...]:
        """One per replica; empty for a server that was up before."""
        return self.bring_up().processes

    @property
    def version(self) -> str | None:
        """The engine's own version; None when the server does not report it."""
        return self.bring_up().version

    @property
    def deployment(self) -> Mapping[str, Any]:
        """Facts that make a running deployment comparable; empty for a server that is one program."""
        return self.bring_up().deployment

    def relaunch(self) -> bool:
        """Stop it and start it anew, ready; False for a server that is not ours to start. Raises ServerError."""
        if not self.processes:
            return False
        self._launched = self._begun()
        self.launches += 1
        return True

    def break_off(self) -> None:
        """Stops what a launch in another thread has started so far, which then fails with ServerError."""
        for process in tuple(self._under_way):
            process.ask_to_stop()

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """GPUs of this machine that it has, the same at every launch; empty where it takes none."""
        return self.bring_up().gpus

    @property
    def url(self) -> str:
        """Base URL of the first replica."""
        return self.targets[0].url

    @property
    def logs(self) -> tuple[Path, ...]:
        """One per replica; empty for a server that was up before, and for one that is not started."""
        return tuple(process.log for process in self.processes) if self.started else ()

    @property
    def cpu_use_is_separate(self) -> bool:
        """True if its use of this machine's processors can be separated from that of other processes.

        It can where its processes are below ours, and where it runs elsewhere.
        """
        here = any(is_loopback(urlsplit(target.url).hostname) for target in self.targets)
        return not here or (bool(self.processes) and self.config.is_local and not self.config.in_container)

    def check_alive(self) -> None:
        """ServerError when a process ended or `/health` says no: an engine can die under a front end that lives."""
        for process, target in self.bring_up().listening:
            ailment = self._ailment(target) if process.exit_code() is None else "died"
            if ailment is None:
                continue
            ended = process.has_ended_within(_LAST_GASP_S)  # one that ends closes its port first
            raise process.error("died" if ended else f"is up, but {ailment}", had_served=True)

    def check_ours(self) -> tuple[str, ...]:
        """ServerError when a process of ours has ended, or its port is somebody else's, who then answers for it.

        Returns a sentence where that cannot be checked.
        """
        notes = (check_ours(self.config, target, process) for process, target in self.bring_up().listening)
        return tuple({note for note in notes if note})

    def _ailment(self, target: Target) -> str | None:
        """A sentence on what is wrong with a server whose process is up; None when it is well."""
        engine = ENGINES[self.config.engine]
        if (proxy := getattr(self.config, "proxy", None)) and target in self.targets:
            return ailment(target, Ready(path=proxy.ready))
        if engine.ailment is not None:
            return engine.ailment(target)
        health = engine.health(self.config)
        return ailment(target, health) if health else None

    def reading(self) -> list[Reading] | None:
        """Reads the counters of its replicas; None for engines without counters, and where they don't answer."""
        counters = ENGINES[self.config.engine].counters
        if counters is None:
            return None
        try:
            last, reading = None, list(map(counters, self.instances))
            for _ in range(_SETTLED_READINGS):
                if reading == last:
                    break
                time.sleep(_SETTLING_S)  # a request is counted a moment after its last response
                last, reading = reading, list(map(counters, self.instances))
        except (ServerError, httpx.TransportError):
            return None
        return reading

    def begin_watching(self) -> None:
        """Sample the server, its processes and its GPUs from now on."""
        if self._watcher is not None:
            self._watcher.begin(sources(self.config, self.instances, self.processes, self.gpus))

    def end_watching(self) -> Telemetry | None:
        """Ends the sampling; returns what it gave, None where nothing is sampled."""
        return self._watcher.end() if self._watcher is not None else None

    def log_tail(self) -> str:
        """Last lines of every replica's log, and of those that its deployment has left of its parts."""
        parts = (path for log in self.logs for path in (log, parts_path(log)) if path == log or path.exists())
        return "\n".join(f"{path}:\n{log_tail(path)}" for path in parts)


def is_loopback(host: str | None) -> bool:
    """True if a URL's host is a loopback address of this machine."""
    return host in ("localhost", "::1") or (host or "").startswith("127.")


def check_ours(config: ServerConfig, target: Target, process: ServerProcess) -> str | None:
    """ServerError when this process of ours has ended, or does not listen where `target` is; a sentence where unknown.

    What listens for a container is not below the process that starts it.
    """
    parts = urlsplit(target.url)
    is_here = is_loopback(parts.hostname)
    note = process.check_port(parts.port) if is_here and parts.port and not config.in_container else None
    if process.exit_code() is not None:
        raise process.error("died", had_served=True)
    return note


async def in_thread(server: LlmServer, call: Callable[[], T]) -> T:
    """Returns what `call` gives, a question to `server` or its launch, while the event loop goes on.

    When this is cancelled, a launch is broken off, and the thread has ended before the cancellation goes on.
    """
    # A future of the loop's, not a task: what cancels all tasks of a loop that ends must not hide the thread.
    done = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.wait([done])
    except asyncio.CancelledError:
        while not done.done():
            server.break_off()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([done], timeout=_INSIST_S)
        done.exception()
        raise
    return done.result()


def sources(
    config: ServerConfig, targets: Sequence[Target], processes: Sequence[ServerProcess], gpus: Sequence[Gpu]
) -> Sources:
    """The sources that can be sampled of a running server; of a container no processes, which are not below ours."""
    names = [config.name if len(targets) == 1 else f"{config.name}-{place}" for place in range(1, len(targets) + 1)]
    metrics = ENGINES[config.engine].metrics
    if isinstance(config.server_metrics, str):
        # Credentials go to the server that they are for, and to no other.
        questions: list[Question | None] = [(expand(config.server_metrics), ())] * len(targets)
    else:
        questions = [metrics(target) for target in targets]
    return Sources(
        metrics=tuple(MetricsSource(name, *asked) for name, asked in zip(names, questions, strict=True) if asked),
        processes=()
        if config.in_container
        else tuple((n, p.handle.pid) for n, p in zip(names, processes, strict=False)),
        gpus=tuple((f"GPU {gpu.device}", gpu.device) for gpu in gpus),
    )
