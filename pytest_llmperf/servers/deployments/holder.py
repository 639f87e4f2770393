"""The part that the holder programs of all deployments share: steps in the log, signals, and facts for the plugin.

A holder runs under the supervisor like any server. It brings a deployment up step by step, a line in its log for each,
writes what only the running deployment knows beside its log, holds it, and takes it down when it is told to end.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from pytest_llmperf.boundary.files import write_whole
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.servers.process.process import ServerProcess, wait_until
from pytest_llmperf.servers.secrets import hide_references

_REPORT_TIMEOUT_S = 10.0

_ENDS = (signal.SIGTERM, signal.SIGINT)
_AGAIN_S = 1.0

_LONGEST_LINE = 4000
"""Characters of a line in a log, and of a text in the facts."""


LEFT_MARK = "LEFT BEHIND: "
"""Begins the rest of a line of the holder's log that names what could not be taken down."""


class Stopped(BaseException):
    """The holder was told to end: raised in its main thread by the first SIGTERM or SIGINT."""


class StepFailed(Exception):
    """A step of a deployment failed; the message names step, cause and cure."""


def stop_on_signals() -> None:
    """Lets the first SIGTERM or SIGINT raise Stopped; what comes later must not break the taking down.

    Python drops what is raised while it forks or finalizes an object, so that Stopped is raised every second until
    `ignore_signals` is called.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        for other in _ENDS:
            signal.signal(other, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        raise Stopped

    for signum in (*_ENDS, signal.SIGALRM):
        signal.signal(signum, stop)


def ignore_signals() -> None:
    """Lets nothing but SIGKILL interrupt what follows."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    for signum in (*_ENDS, signal.SIGALRM):
        signal.signal(signum, signal.SIG_IGN)


def one_line(text: str) -> str:
    """The text as one line of a log, whatever a cluster, a node or a program put into it: visible, and not too long."""
    return foreign(" ".join(text.splitlines()))[:_LONGEST_LINE]


def log(line: str, level: str = "INFO") -> None:
    """Writes a line of the holder's log."""
    sys.stderr.write(f"{level} {time.strftime('%m-%d %H:%M:%S')} {one_line(line)}\n")
    sys.stderr.flush()


def log_error(program: str, error: Exception) -> None:
    """Writes why the holder ends, in the form in which a log's reader takes it for the cause of that."""
    sys.stderr.write(f"{program}: error: {one_line(str(error))}\n")
    sys.stderr.flush()


def settings_path(log_path: Path) -> Path:
    """Path of the settings of the holder with this log."""
    return log_path.with_suffix(".settings.json")


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes what a holder needs to know, secrets as references; their values are hidden from now on."""
    text = json.dumps(settings, indent=2) + "\n"
    hide_references(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    # As bytes: a namespace that is somebody's secret too would be hidden from the holder.
    write_whole(path, text.encode())


def read_settings(path: Path) -> Any:
    """Returns what `write_settings` wrote, and hides what its references stand for in this process too."""
    text = path.read_text(encoding="utf-8")
    hide_references(text)
    return json.loads(text)


def facts_path(log_path: Path) -> Path:
    """Path of the file into which the holder with this log writes what only the running deployment knows."""
    return log_path.with_suffix(".deployed.json")


def parts_path(log_path: Path) -> Path:
    """Path at which the holder with this log keeps the logs of what it deployed, such as pods, when that ends."""
    return log_path.with_suffix(".pods.log")


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes the facts, whole or not at all; that they are there says that the deployment is up."""
    write_whole(path, json.dumps(_shown(facts), indent=2) + "\n")


def _shown(value: Any) -> Any:
    """The same with texts that may be shown and stored, since a cluster's or a node's own are among them."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {one_line(str(name)): _shown(inner) for name, inner in value.items()}
    return [_shown(inner) for inner in value] if isinstance(value, list | tuple) else value


def wait_for_facts(process: ServerProcess, timeout_s: float) -> Mapping[str, Any]:
    """Returns the facts of a deployment as soon as it is up.

    Raises ServerError. The holder itself ends after `timeout_s` and knows better why: it has a little longer.
    """
    path = facts_path(process.log)
    wait_until(
        path.exists,
        process,
        process.name,
        timeout_s + _REPORT_TIMEOUT_S,
        lambda: f"; it was at {_last_step(process.log)}",
    )
    facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def identity(log_path: Path) -> Mapping[str, Any]:
    """Reads the facts that make a deployment comparable, as its holder left them beside this log; empty where it left
    none.
    """
    path = facts_path(log_path)
    facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found: Mapping[str, Any] = facts.get("identity", {})
    return found


def warn_of_rest(name: str, log_path: Path) -> None:
    """Warns of what the holder with this log could not take down, in its own sentences."""
    lines = log_path.read_text("utf-8", "replace").splitlines() if log_path.exists() else []
    for left in (line.partition(LEFT_MARK)[2] for line in lines if LEFT_MARK in line):
        warnings.warn(f"server {name!r}: {left}", stacklevel=2)


def _last_step(path: Path) -> str:
    steps = [line for line in path.read_text("utf-8", "replace").splitlines() if " step " in line]
    return steps[-1].partition(" step ")[2] if steps else "its start"


def attempts(deadline: float) -> Iterator[None]:
    """Yields at growing pauses, 0.2 s to 3 s, until `deadline` (of the monotonic clock), and once at it."""
    pause_s = 0.2
    while True:
        yield
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(pause_s, left_s))
        pause_s = min(1.5 * pause_s, 3.0)
