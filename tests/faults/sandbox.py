"""A folder in which a pytest or a command of ours meets a fault, and what came of it.

A session is a fork of a process that has numpy, scipy and httpx already: it begins at once, and imports all of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import any_machine
import fake_server
from fake_server import FakeServer

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["pytest", "numpy", "scipy.stats", "pydantic", "httpx", "h11", "yaml", "rich.console", "click"]
)
_NEW_MOUNTS = 0x00020000
PATIENCE_S = 120.0
"""(b) Most that a session takes, or a moment of it to come: far more than needed, for the machine may be busy."""
_GONE_S = 16.0
"""A server is given 10 s to stop before it is killed."""
LOAD = {
    "input_tokens": 10,
    "output_tokens": 8,
    "concurrency": 2,
    "requests": 10,
    "warmup_requests": 1,
    "no_data_timeout": "1 s",
    "read_timeout": "2 s",
}
TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
"""
TEST_WITH_BASELINE = TEST.replace("sla):", "sla, baseline):") + "    baseline.check(result)\n"
INI = """
[pytest]
addopts = -p no:cacheprovider -p no:xdist -p no:randomly -p no:timeout -p no:rerunfailures
asyncio_default_fixture_loop_scope = function
"""


def nothing() -> None:
    """Nothing to prepare."""


def without_proc() -> None:
    """An empty folder where /proc is, for this process and all that it starts. Needs root."""
    assert ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0, "needs root"
    for words in ("--make-rprivate /", "-t tmpfs tmpfs /proc"):
        subprocess.run(["mount", *words.split()], check=True)


def _session(folder: str, environ: dict[str, str], words: list[str], program: str, prepare: Callable[[], None]) -> None:
    """The forked process: becomes `program WORDS...` in `folder`, its output in `output.txt`."""
    os.setsid()
    # pytest rewrites all modules of a plugin: once in a run of these tests, not in each session.
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(folder).parent / "bytecode")
    prepare()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.path.insert(0, "")
    sys.argv = [program, *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sandbox", "fake_server", "any_machine")]:
        del sys.modules[name]
    if program == "llmperf":
        from pytest_llmperf.cli.main import main

        main()
    runpy.run_module(program, run_name="__main__", alter_sys=True)


@dataclass(frozen=True)
class Outcome:
    """What is left when a session is over."""

    exit: int | None
    """None: it had not ended in time."""
    text: str
    """Its terminal."""
    seconds: float
    left: tuple[str, ...]
    """Command lines of processes, and names of shared memory, that stayed."""
    folder: Path

    @property
    def report(self) -> dict[str, Any] | None:
        """None where there is none; raises ValueError where it cannot be read."""
        path = self.folder / "out" / "report.json"
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def points(self) -> list[dict[str, Any]]:
        return self.report["points"] if self.report else []

    @property
    def requests(self) -> int:
        """Number of requests on disk."""
        return sum(len(path.read_text().splitlines()) for path in (self.folder / "out" / "requests").rglob("*.jsonl"))

    @property
    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in (self.folder / "out" / "servers").glob("*.log"))


@dataclass
class Session:
    """A pytest or a command that has been started."""

    folder: Path
    mark: str
    process: Any
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        path = self.folder / "output.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self, word: str = "") -> dict[int, str]:
        """Those that it has started, by pid, whose command line has this word."""
        return {pid: line for pid, line in _marked(self.mark).items() if word in line and pid != self.process.pid}

    def until(self, happens: Callable[[], object]) -> None:
        """Returns when it has happened. Fails when the session ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not happens():
            alive = self.process.is_alive() and time.monotonic() < deadline
            assert alive, f"it never happened:\n{self.text}"
            time.sleep(0.01)

    def until_log(self, words: str) -> None:
        """Returns when a server's log has these words."""
        logs = self.folder / "out" / "servers"
        self.until(lambda: any(words in path.read_text(errors="replace") for path in logs.glob("*.log")))

    def signal(self, signum: int) -> None:
        os.kill(self.process.pid, signum)

    def end(self) -> Outcome:
        """What came of it; it is killed when it takes longer than PATIENCE_S."""
        self.process.join(max(0.1, PATIENCE_S - (time.monotonic() - self.begun_s)))
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        seconds = time.monotonic() - self.begun_s
        deadline = time.monotonic() + _GONE_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shared = [path for path in Path("/dev/shm").glob("*") if self.mark in path.name]
        for path in shared:
            path.unlink()
        stayed = (*left.values(), *(f"/dev/shm/{path.name}" for path in shared))
        return Outcome(code, self.text, seconds, stayed, self.folder)


def _marked(mark: str) -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


class Sandbox(ExitStack):
    """Closes what was started in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.mark = f"llmperf_fault_{uuid.uuid4().hex[:12]}"
        shutil.copy(any_machine.__file__, folder / "conftest.py")
        self.write("pytest.ini", INI)
        self.write("test_x.py", TEST)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def serve(self, answer: str = "good", **options: Any) -> FakeServer:
        """A fake server in this process."""
        return self.enter_context(FakeServer(answer, **options))

    def plan(self, server: Mapping[str, Any], load: Mapping[str, Any] | None = None, **keys: Any) -> None:
        """plan.yaml of one server `s` and one load `a`; `keys` are of the whole plan."""
        loads = keys.pop("loads", {"a": {**LOAD, **(load or {})}})
        sla = {"ttft_p99": "<= 5 s", "error_rate": "<= 0"}
        plan = {"model": "m", "servers": {"s": server}, "loads": loads, "sla": sla, "runs": 1, **keys}
        self.write("plan.yaml", json.dumps(plan))

    def url_plan(self, url: str, load: Mapping[str, Any] | None = None, **keys: Any) -> None:
        """A plan for a server that is up."""
        entry = {"engine": "openai", "url": url, "ready_timeout": "2 s", "hardware": "box", **keys.pop("entry", {})}
        self.plan(entry, load, **keys)

    def own_plan(self, *arguments: str, load: Mapping[str, Any] | None = None, **keys: Any) -> None:
        """A plan for a fake server that pytest starts with these arguments."""
        command = [sys.executable, "-I", "-S", fake_server.__file__, "--port", "{port}", *arguments]
        entry = {"engine": "command", "command": command, "ready_timeout": "60 s", **keys.pop("entry", {})}
        self.plan(entry, load, **keys)

    def pytest(
        self, *words: str, env: Mapping[str, str] | None = None, prepare: Callable[[], None] = nothing
    ) -> Session:
        """`prepare`, a function of a module, is called in the session's process before anything else."""
        return self._start("pytest", ["-q", "-rfEs", "--llmperf-output=out", *words], env or {}, prepare)

    def program(self, module: str, env: Mapping[str, str]) -> Session:
        """A module of the folder as a program."""
        return self._start(module, [], env)

    def llmperf(self, *words: str, env: Mapping[str, str] | None = None) -> Session:
        return self._start("llmperf", list(words), env or {})

    def _start(
        self, program: str, words: list[str], env: Mapping[str, str], prepare: Callable[[], None] = nothing
    ) -> Session:
        ours = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
        environ = {**ours, "LLMPERF_FAULT": self.mark, "COLUMNS": "200", "NO_COLOR": "1", **env}
        process = _FORKS.Process(target=_session, args=(str(self.folder), environ, words, program, prepare))
        process.start()
        return Session(self.folder, self.mark, process)
