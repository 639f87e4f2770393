"""Configurations measured side by side: a pytest of its own for each server, which measures and judges nothing.

The points that these sessions have measured are then resumed by the one that started them, as after an interruption.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.boundary.files import inside
from pytest_llmperf.errors import LlmPerfError, PlanError
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.servers.duet import Duet, sides
from pytest_llmperf.servers.process.process import Command, ServerProcess, run_process
from pytest_llmperf.session.state import PART, PytestSession

_POLL_S = 0.1
_GRACE_S = 60.0
"""Time in which a session that is told to stop takes its server down."""


def measure_part(session: PytestSession) -> None:
    """Measures all points of one server; those that cannot be are left to the session that asked.

    PlanError where this session has no such test.
    """
    named = session.program.tests.get(session.prepared.part or "")
    if named is None:
        raise PlanError(f"no test {session.prepared.part} is selected here, whose server was to be measured")
    asked = named.server
    tests = [session.program.tests[test] for test in session.program.of_server(asked)]
    with session.start(asked) as server:
        for planned in tests:
            if not planned.conditional and planned.point.missing is None:
                with contextlib.suppress(LlmPerfError):
                    run(session.result(planned.test, server, planned.point, None))


def measure_side_by_side(session: PytestSession, arguments: Sequence[str], say: Callable[[str], None]) -> bool:
    """Measures the session's servers, each with a pytest that is given the same `arguments`.

    As many at a time as were asked for and as this machine has GPUs for. Returns False where there is nothing to
    measure side by side.
    """
    parts = [
        _Part(min(session.program.of_server(asked)), asked, session.folder.made() / "parallel")
        for asked in dict.fromkeys(planned.server for planned in session.program.tests.values())
        if not session.is_resumed(asked)
    ]
    if session.options.parallel < 2 or len(parts) < 2:
        return False
    running: dict[_Part, tuple[ServerProcess, contextlib.ExitStack]] = {}
    with contextlib.ExitStack() as everything:
        while parts or running:
            while parts and _fits(parts[0], running, session):
                part = parts.pop(0)
                own = everything.enter_context(contextlib.ExitStack())
                running[part] = own.enter_context(part.process(arguments)), own
                say(f"llmperf: measuring {part.server.name} beside others, log: {part.log}")
            time.sleep(_POLL_S)
            for part in [part for part, (process, _) in running.items() if process.exit_code() is not None]:
                process, own = running.pop(part)
                own.close()
                say(_taken(session, part, process.exit_code()))
    return True


@dataclass(frozen=True, slots=True)
class _Part:
    """A server that a session of its own measures."""

    test: str
    """Node id of one of its tests: their order may be another in every process (pytest-randomly)."""
    server: ServerConfig | Duet
    beside: Path
    """Folder of the parts' own folders."""

    @property
    def gpus(self) -> int:
        return sum(side.local_gpus for side in sides(self.server))

    @property
    def folder(self) -> Path:
        """The output, named after the test too: servers of two plans may have one name."""
        return self.beside / file_name(f"{self.server.name}-{self.test}")

    @property
    def log(self) -> Path:
        return self.folder / "pytest.log"

    def process(self, arguments: Sequence[str]) -> contextlib.AbstractContextManager[ServerProcess]:
        """Runs its session."""
        argv = (sys.executable, "-m", "pytest", *arguments, f"--llmperf-output={self.folder}", "--llmperf-parallel=1")
        return run_process(self.server.name, Command(argv, {PART: self.test}), self.log, _GRACE_S)


def _fits(part: _Part, running: Iterable[_Part], session: PytestSession) -> bool:
    """True if a part may begin beside those that are running; one alone always may, and says what is missing."""
    beside = list(running)
    gpus = part.gpus + sum(other.gpus for other in beside)
    return not beside or (len(beside) < session.options.parallel and gpus <= len(session.gpus))


def _taken(session: PytestSession, part: _Part, exit_code: int | None) -> str:
    """Takes what a part has measured into the folder of this session; says what that is."""
    entries = sorted(part.folder.glob("*/*"))
    for entry in entries:
        place = inside(session.folder.made(), entry.parent.name, entry.name)
        if entry.is_dir() and place.is_dir():  # a server's models, from before this session was resumed
            shutil.rmtree(place)
        entry.replace(place)
    points = sum(entry.parent.name == "points" for entry in entries)
    failed = f", exit code {exit_code}: see {part.log}" if exit_code else ""
    tests = len(session.program.of_server(part.server))
    return f"llmperf: {part.server.name}: {points} of {tests} points measured{failed}"
