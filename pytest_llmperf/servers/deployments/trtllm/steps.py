"""The steps of a deployment: a line each in the server's log, a log of its own for what it runs, and why it failed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_llmperf.boundary.files import open_new
from pytest_llmperf.boundary.secrets import remembered
from pytest_llmperf.errors import MissingRequirement
from pytest_llmperf.servers.deployments.holder import StepFailed, one_line
from pytest_llmperf.servers.process.log import first_error, log_tail, read_log
from pytest_llmperf.servers.process.supervisor import BoundedLog, filtered
from pytest_llmperf.servers.secrets import expand

_LOOK_S, _TOLD_EVERY = 1.0, 30
"""Seconds between two looks at a step's log, and number of looks after which its last line is printed."""
_KILL_AFTER_S = 5.0
_LONGEST_LINE = 160
_OWN_SIGNAL_S = 0.5
"""Time for a child to die of a signal that was sent to us and to it: it may get its own a moment before."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class StepError(StepFailed):
    """A step that failed: the cause, then what helps."""

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause}; {cure}")


class Steps:
    """Counts the steps and runs their programs; everything is printed on standard output, which is the server's log."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """`folder` is where the steps' logs go."""
        self._folder = folder
        self._names = names
        self._at = -1

    @property
    def current(self) -> str:
        """The step that is under way, as `step 2/5 quantize`."""
        if self._at < 0:
            return f"before step 1/{len(self._names)}"
        return f"step {self._at + 1}/{len(self._names)} {self._names[self._at]}"

    def begin(self, name: str) -> None:
        """Begins the step of this name."""
        self._at = self._names.index(name)

    def say(self, text: str) -> None:
        """A line about the current step."""
        sys.stdout.write(f"{self.current}: {one_line(text)}\n")
        sys.stdout.flush()

    def run(self, argv: Sequence[str], cure: str) -> list[str]:
        """Runs a program to its end and returns the lines of its log. Raises StepError, which names the first error.

        References to the environment in `argv` are filled in here, and are printed as they stand.
        """
        log = self._folder / f"{self._at + 1}-{self._names[self._at]}.log"
        self.say(f"{shlex.join(argv)}; its log: {log}")
        began = time.monotonic()
        with open_new(log) as file, filtered(file.fileno(), remembered()) as output:
            try:
                words = filled_in(argv)
                child = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                raise StepError(f"{argv[0]} cannot be run: {error.strerror}", cure) from error
            try:
                code = self._end_of(child, log, BoundedLog(file.fileno()))
            finally:
                _end_group(child)
        lines = read_log(log)
        if code == -signal.SIGTERM:
            time.sleep(_OWN_SIGNAL_S)
        if code:
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            cause = first_error(lines) or last
            raise StepError(f"{_how(code)}: {_COLOUR.sub('', cause)}; its log: {log}", cure)
        self.say(f"done in {time.monotonic() - began:.1f} s")
        return lines

    def _end_of(self, child: subprocess.Popen[bytes], log: Path, bounded: BoundedLog) -> int:
        """The exit code; now and then the last line of its log is printed."""
        began, looks = time.monotonic(), 0
        while True:
            try:
                return child.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                bounded.check()
                looks += 1
                if looks % _TOLD_EVERY == 0:
                    self.say(f"{time.monotonic() - began:.0f} s so far; {log_tail(log, 1)[:_LONGEST_LINE]}")


def filled_in(argv: Sequence[str]) -> list[str]:
    """The words with their `${NAME}` filled in. Raises StepError for a variable that is not set."""
    try:
        return [expand(word) for word in argv]
    except MissingRequirement as error:
        raise StepError(str(error), "set it where pytest runs") from error


def _how(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    memory = ", for want of memory perhaps" if code == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{memory}"


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Ends the processes that a program left when it ended, and the program itself when we are stopped meanwhile."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        if child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_KILL_AFTER_S)
