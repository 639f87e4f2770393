"""What a test's `load_driver` does with the interpreter: few frames to the socket, and an event loop that goes on."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from samples import point
from scripted_server import END, HEAD, chunk

import pytest_llmperf
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.plan.server.engines.command import CommandServer
from pytest_llmperf.plan.server.engines.remote import OpenAIServer
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.session.fixtures import LoadDriver
from pytest_llmperf.session.state import prepare

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"
PACKAGE = str(Path(pytest_llmperf.__file__).parent)
MOST_FRAMES = 10
PATIENCE_S = 60.0
ANSWER = (
    HEAD
    + chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "text": "a", "finish_reason": "length"}]}\n\n')
    + chunk(b"data: [DONE]\n\n")
    + END
)
GATED = """
import os, pathlib, sys, time
folder, *arguments = sys.argv[1:]
launched = pathlib.Path(folder, "launched")
if launched.exists():
    pathlib.Path(folder, "waits").touch()
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.01)
launched.touch()
os.execv(sys.executable, [sys.executable, "-m", "pytest_llmperf.embedded", *arguments])
"""
"""The embedded engine, whose second launch waits until it may go on."""


def driver(folder: Path, **given: Any) -> LoadDriver:
    """The fixture of a test that is no planned one, in a session with these options."""
    options = defaultdict(lambda: None, {"margins": [], "output": "out", "runs": 1, **given})
    return LoadDriver(prepare(options, folder, folder).begin(Live()), "test_perf.py::test_it[a-short]", None)


class Scripted(BaseHTTPRequestHandler):
    """Gives the same answer to every request of a load."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def scripted() -> Iterator[str]:
    """URL of a server in a thread of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def awaiting(task: asyncio.Task[Any]) -> list[FrameType]:
    """Frames of a task that waits, the outermost first."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while inspect.iscoroutine(awaited) and awaited.cr_frame is not None:
        frames.append(awaited.cr_frame)
        awaited = awaited.cr_await
    return frames


def parents(child: asyncio.Task[Any]) -> list[FrameType]:
    """Frames of the task that waits for the end of the group in which `child` is, and of those above it."""
    for task in asyncio.all_tasks():
        frames = awaiting(task)
        if frames and child in getattr(frames[-1].f_locals.get("self"), "_tasks", ()):
            return [*parents(task), *frames]
    return []


def way_to(frame: FrameType) -> list[str]:
    """Names of the package's functions from the test to `frame`, through all tasks on the way."""
    stack: list[FrameType] = []
    at: FrameType | None = frame
    while at is not None:
        stack.insert(0, at)
        at = at.f_back
    task = asyncio.current_task()
    assert task is not None
    begins = next(place for place, one in enumerate(stack) if one.f_code is task.get_coro().cr_code)  # type: ignore[union-attr]
    whole = [*stack[:begins], *parents(task), *stack[begins:]]
    return [one.f_code.co_qualname for one in whole if one.f_code.co_filename.startswith(PACKAGE)]


def ways_to_socket(folder: Path, **load: Any) -> list[list[str]]:
    """How each request of a load came to be sent, warm-up first."""
    ways: list[list[str]] = []
    with scripted() as url:
        port = int(url.rpartition(":")[2])

        def watch(frame: FrameType, event: str, called: Any) -> None:
            if event == "c_call" and called.__name__ == "send" and frame.f_code.co_filename.startswith(PACKAGE):
                assert called.__self__.getpeername()[1] == port
                ways.append(way_to(frame))

        config = OpenAIServer.model_validate(
            {"name": "a", "engine": "openai", "model": "m", "url": url, "ready": False}
        )
        with start_server(config, folder, ()) as server:
            before = sys.getprofile()
            sys.setprofile(watch)
            try:
                result = driver(folder).run(server, point(endpoint="completions", ignore_eos=False, **load))
            finally:
                sys.setprofile(before)
    assert result.metrics.ok == 4, result.failures
    return ways


def test_the_way_to_the_socket_is_short_and_as_written(tmp_path):
    *warmup, measured = ways_to_socket(tmp_path, requests=4, warmup_requests=2)
    assert warmup
    assert measured == re.findall(
        r"`([\w.]+)`", GUIDE.read_text().partition("From a test to the socket")[2].split(". ")[0]
    )
    assert max(map(len, [*warmup, measured])) <= MOST_FRAMES


def test_the_way_of_an_open_loop_is_short_too(tmp_path):
    *_, measured = ways_to_socket(tmp_path, requests=4, warmup_requests=0, request_rate=200.0)
    assert "OpenLoop.run" in measured
    assert len(measured) <= MOST_FRAMES


@pytest.fixture
def gated(tmp_path):
    """A server whose second launch waits for the file `go`, and says so by a file `waits`."""
    command = [sys.executable, "-c", GATED, str(tmp_path), "--model", "{model}", "--port", "{port}"]
    given = {"name": "a", "engine": "command", "model": "m", "command": [*command, "--step", "modelled"]}
    config: ServerConfig = CommandServer.model_validate({**given, "ready_timeout": f"{2 * PATIENCE_S:g} s"})
    with start_server(config, tmp_path / "logs", ()) as server:
        yield server


async def relaunching(folder: Path, server: LlmServer) -> asyncio.Task[Result]:
    """A measurement whose server is being launched for the second time; only a loop that goes on comes to see that."""
    load = point(requests=4, endpoint="completions", warmup_requests=0)
    measuring = asyncio.ensure_future(driver(folder, runs=2, relaunch="always").arun(server, load))
    while not (folder / "waits").exists() and not measuring.done():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    return measuring


def left_of(folder: Path) -> list[bytes]:
    """Command lines of the processes of its server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes()
            if os.fsencode(folder) in line:
                found.append(line)
    return found


def test_the_event_loop_goes_on_during_a_relaunch(tmp_path, gated):
    async def main() -> Result:
        measuring = await relaunching(tmp_path, gated)
        assert not measuring.done()
        (tmp_path / "go").touch()
        return await measuring

    assert [run.launch for run in asyncio.run(main()).runs] == [1, 2]


def test_cancelling_during_a_relaunch_leaves_no_process(tmp_path, gated):
    async def main() -> None:
        measuring = await relaunching(tmp_path, gated)
        assert left_of(tmp_path)
        measuring.cancel()
        await asyncio.wait([measuring], timeout=PATIENCE_S)
        left = left_of(tmp_path)
        (tmp_path / "go").touch()  # where it was not broken off, this test ends all the same
        assert measuring.done()
        assert measuring.cancelled()
        assert left == []

    asyncio.run(main())


def test_ctrl_c_during_a_relaunch_leaves_no_process(tmp_path, gated):
    async def main() -> None:
        measuring = await relaunching(tmp_path, gated)
        os.kill(os.getpid(), signal.SIGINT)
        await measuring

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert left_of(tmp_path) == []
