"""One server process under its supervisor: start, watch, stop."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf import clock
from pytest_llmperf.boundary.files import open_new
from pytest_llmperf.boundary.secrets import remembered
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.errors import ServerError
from pytest_llmperf.servers.process import ports, supervisor
from pytest_llmperf.servers.process.leftovers import Mark
from pytest_llmperf.servers.process.log import cause_of_death, first_error, log_tail, read_log

STOP_GRACE_S = 10.0
_OWN_PAUSES_S = itertools.repeat(0.05)
"""Pauses between the questions to a server on this machine."""
LOOPBACK = "127.0.0.1"
_SUPERVISOR_S = 10.0
"""Time that a supervisor may take beside the times that it gives a server."""
_QUOTED_LINES, _QUOTED_CHARACTERS = 10, 300
"""Most lines, and characters of each, that a message quotes from the log of a server that did not come up."""

_LONGEST_CAUSE = 2000
"""Characters of a log's first error, in the message."""


@dataclass(frozen=True, slots=True)
class Command:
    """The command of a server; `argv` and `env` hold secrets in the clear and are never shown (see `shown`)."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Environment variables beside pytest's own."""
    shown: str = ""
    """The command line for people, with `${NAME}` where a secret goes."""
    cwd: str | None = None
    """Folder that it runs in; None: pytest's own."""
    stop: tuple[str, ...] = ()
    """Command that stops it; empty: a signal does."""
    stop_signal: int = signal.SIGTERM
    """Sent to all of its processes, where no command stops it."""
    secret_file: str = ""
    """Path of a file with its secrets, which is gone when it is, however pytest ends."""

    def __repr__(self) -> str:
        return f"Command({self.shown!r})"


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running supervisor and its log."""

    name: str
    log: Path
    handle: subprocess.Popen[bytes]

    def __repr__(self) -> str:
        return f"ServerProcess({self.name!r}, log={str(self.log)!r})"

    def exit_code(self) -> int | None:
        """The exit code: None while it runs; 128 + N when signal N ended it."""
        return self.handle.poll()

    def has_ended_within(self, seconds: float) -> bool:
        """Waits up to `seconds` for its end; True if it has ended."""
        return _ends_within(self.handle, seconds)

    def check_port(self, port: int) -> str | None:
        """ServerError when somebody else listens on its port, and so answers in its place.

        Returns a sentence where that cannot be checked.
        """
        try:
            other = ports.stranger(port, self.handle.pid)
        except LookupError:
            return ports.UNCHECKED
        if other is None:
            return None
        cure = "end that process, or run again, which takes another port"
        raise self.error(f"is not what answers: {other} listens on its port {port}; {cure}")

    def ask_to_stop(self) -> None:
        """Begins to stop it, from any thread; whoever runs it waits for its end."""
        assert self.handle.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is being stopped already, or is gone
            self.handle.stdin.write(b".")
            self.handle.stdin.flush()

    def error(self, what: str, *, had_served: bool = False) -> ServerError:
        """`what` happened, with everything needed next: exit code, first error of the log, its path and last lines.

        The log of a server that `had_served` may hold faults of single requests, which are not why it died.
        """
        parts = [f"server {self.name!r} {what}"]
        if (code := self.exit_code()) is not None:
            killed = {-one: f": its supervisor was killed by {one.name}" for one in signal.Signals}
            killed |= {128 + one: f" ({one.name})" for one in signal.Signals}
            parts.append(f"exit code {code}{killed.get(code, '')}")
        lines = read_log(self.log)
        if cause := cause_of_death(lines) if had_served else first_error(lines):
            parts.append(f"first error in its log: {foreign(cause)[:_LONGEST_CAUSE]}")
        elif had_served:
            parts.append("its log names no cause (was a process of it killed, or out of memory?)")
        elif code == 0:
            parts.append("it must stay in the foreground: what it leaves in the background is stopped with it")
        message = "; ".join([*parts, f"log: {self.log}"])
        tail = "" if had_served else log_tail(self.log, _QUOTED_LINES)
        return ServerError(message + "".join(f"\n  | {line[:_QUOTED_CHARACTERS]}" for line in tail.splitlines()))


@contextlib.contextmanager
def run_process(name: str, command: Command, log: Path, grace_s: float = STOP_GRACE_S) -> Iterator[ServerProcess]:
    """Start `command`, its output in `log`; on leaving, stop it, wait `grace_s`, KILL, for all of its descendants."""
    # A Ctrl-C waits until the server is in our hands: within Popen it would leave one that nobody stops. The mask is
    # this thread's, and another one may leave.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    mark = Mark()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = _spawn(command, log, grace_s, mark)
    except BaseException as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if isinstance(error, OSError):
            raise ServerError(f"server {name!r} cannot be started: {foreign(str(error))}") from error
        raise
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield ServerProcess(name, log, handle)
    finally:
        _stop(handle, 2 * grace_s + supervisor.KILL_TIMEOUT_S + _SUPERVISOR_S, mark)


def _spawn(command: Command, log: Path, grace_s: float, mark: Mark) -> subprocess.Popen[bytes]:
    job = {
        "argv": command.argv,
        "grace_s": grace_s,
        "stop": command.stop,
        "stop_signal": int(command.stop_signal),
        "secrets": remembered(),
        "secret_file": command.secret_file,
    }
    with open_new(log) as output:
        handle = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=command.cwd,
            env={**os.environ, **command.env, **mark.environ},
            start_new_session=True,
        )
    assert handle.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # one that is gone is noticed by its end
        handle.stdin.write(json.dumps(job).encode() + b"\n")
        handle.stdin.flush()
    return handle


def _stop(handle: subprocess.Popen[bytes], timeout_s: float, mark: Mark) -> None:
    """A Ctrl-C while we wait must not leave the server behind: the supervisor finishes the job either way.

    One that was stopped is continued. Where it was killed, or does not end in time, we finish the job.
    """
    assert handle.stdin is not None
    with contextlib.suppress(OSError):
        handle.send_signal(signal.SIGCONT)
    # A byte, since the end of the pipe is not seen while a fork of ours holds it too.
    with contextlib.suppress(BrokenPipeError), handle.stdin as pipe:
        pipe.write(b".")
    if not _ends_within(handle, timeout_s):
        handle.kill()
        handle.wait()
    if handle.returncode < 0:
        mark.clear()


def _ends_within(handle: subprocess.Popen[bytes], seconds: float) -> bool:
    """`Popen.wait` by a clock that no test has frozen."""
    deadline, pause_s = clock.monotonic() + seconds, 0.0005
    while handle.poll() is None:
        left_s = deadline - clock.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, 0.05)
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> tuple[int, ...]:
    """Returns `count` different TCP ports that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return tuple(probe.getsockname()[1] for probe in probes)


def backing_off() -> Iterator[float]:
    """Pauses between the questions to a server of others, in seconds: 1, 2, 4, 8, and 10 from then on."""
    pause_s = 1.0
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, 10.0)


def wait_until(
    ready: Callable[[], bool],
    process: ServerProcess | None,
    name: str,
    timeout_s: float,
    why: Callable[[], str] = str,
    pauses_s: Iterable[float] = _OWN_PAUSES_S,
) -> None:
    """Poll `ready` until it says yes; ServerError when the process ends first or `timeout_s` is over.

    `name` begins the message of a server that has no process of ours; `why` ends that of one that was too slow.
    """
    deadline = clock.monotonic() + timeout_s
    for pause_s in pauses_s:
        if ready():
            return
        if process is not None and process.exit_code() is not None:
            raise process.error("ended before it was ready")
        left_s = deadline - clock.monotonic()
        if left_s <= 0:
            what = f"was not ready within {timeout_s:g} s (ready_timeout){why()}"
            raise process.error(what) if process else ServerError(f"{name} {what}")
        time.sleep(min(pause_s, left_s))


def listening_at(port: int | str) -> tuple[str, ...]:
    """The arguments of a server that is to listen here on `port`."""
    return "--host", LOOPBACK, "--port", str(port)


def command_line_flags(args: Mapping[str, object]) -> Sequence[str]:
    """`{"max-num-seqs": 8, "enforce-eager": True}` -> `--max-num-seqs 8 --enforce-eager`.

    False gives `--no-…`, None nothing, a list several words, a mapping JSON.
    """
    flags: list[str] = []
    for name, value in args.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words = value if isinstance(value, list) else [value]
            flags += [f"--{name}", *(json.dumps(w) if isinstance(w, dict | list) else str(w) for w in words)]
    return flags
