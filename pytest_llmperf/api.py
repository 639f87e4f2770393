"""The public API: plans, servers, measuring and judging for scripts, notebooks and unittest classes, without pytest.

`pytest_llmperf` re-exports it. It composes what the fixtures and the commands are made of, and decides nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, get_args

from pytest_llmperf.errors import LlmPerfError, PlanError
from pytest_llmperf.gate.baselines.file import write_baseline
from pytest_llmperf.gate.baselines.growth import stored_session
from pytest_llmperf.gate.judge import Doubt, Judge
from pytest_llmperf.gate.regression import Regression, launch_sizes
from pytest_llmperf.gate.rules import DUET
from pytest_llmperf.interchange.files import read_files
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.two_builds import build_notes, two_builds
from pytest_llmperf.load.event_loop import run
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.plan import file as plan_file
from pytest_llmperf.plan.load.point import GateProfile, LoadPoint, parse_margins
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.server.base import argument_name, changes_output
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.campaign import Campaign
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers import start
from pytest_llmperf.servers.duet import Duet, sides
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.telemetry.environment import git_sha
from pytest_llmperf.telemetry.gpu import visible_gpus
from pytest_llmperf.telemetry.replicas import on_this_machine, server_on_this_machine

AnyPath = str | PathLike[str]
Server = ServerConfig | Mapping[str, Any]
"""A configuration of a plan, or a mapping with the keys of a plan's server and `model`."""
Load = LoadPoint | Mapping[str, Any]
"""A load point of a plan, or a mapping with the keys of a plan's load."""
_ELSEWHERE = {"engine": "openai", "url": "http://unused.invalid"}


class InvalidResultError(LlmPerfError):
    """The numbers cannot be judged: they are not to be trusted, or too many requests failed. The message says why."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result
        """The measured result, in spite of the error."""


class DuetResult(NamedTuple):
    """Result and verdict of a duet."""

    result: Result
    """The new server's; the old one's is its `reference`."""
    regression: Regression
    """The new server's verdict against the old one."""


def load_plan(path: AnyPath) -> Plan:
    """Returns the plan of a YAML file; `plan.server(name)` and `plan.load(name)` take one out of it.

    Raises PlanError, which lists every mistake as `file:line: where: what was given, what is allowed`.
    """
    return on_this_machine(plan_file.load_plan(Path(path)))


class StartedServer:
    """A context manager, for `with` and `async with`, that yields the running server and stops it at the end."""

    def __init__(self, starting: AbstractContextManager[LlmServer]) -> None:
        self._starting = starting

    def __enter__(self) -> LlmServer:
        return self._starting.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._starting.__exit__(kind, error, trace)

    async def __aenter__(self) -> LlmServer:
        """Starts it in a thread, so that the event loop goes on."""
        entering = asyncio.ensure_future(asyncio.to_thread(self._starting.__enter__))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            await asyncio.wait([entering])  # a thread cannot be cancelled: what comes up is stopped then
            if entering.exception() is None:
                await asyncio.to_thread(self._starting.__exit__, None, None, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await asyncio.to_thread(self._starting.__exit__, kind, error, trace)


def start_server(server: Server, *, logs: AnyPath | None = None) -> StartedServer:
    """Starts a server on this machine's GPUs, or connects to one that is up: for `with` and `async with`.

    What is yielded has `url`, `name`, `version` and `logs`, the paths of its log files. They are in the folder `logs`,
    or else in a new temporary one, which stays. Raises PlanError for a mapping that no plan could hold,
    MissingRequirement when this machine cannot run it, ServerError when it does not come up.
    """
    return StartedServer(_starting(_config(server, "server"), logs and _folder(logs, "logs")))


def measure(
    server: LlmServer | str,
    load: Load,
    *,
    runs: int | None = None,
    model: str | None = None,
    output: AnyPath | None = None,
) -> Result:
    """Measures a load on a running server, or on a URL with the name of its `model`, and returns the result.

    `runs` is the number of runs (default: the plan's, else 3; of a load with `stability` the most windows). Every
    run's requests are written to `requests/` in the folder `output`, if one is given. A run whose client was the
    bottleneck makes the result invalid (`result.valid`, `result.invalid_reasons`), which is not raised here. Raises
    PlanError, ServerError when the server dies, LoadError when the load driver does, and RuntimeError in a running
    event loop, where `await measure_async(...)` does the same.
    """
    _assert_no_loop("measure")
    return run(measure_async(server, load, runs=runs, model=model, output=output))


async def measure_async(
    server: LlmServer | str,
    load: Load,
    *,
    runs: int | None = None,
    model: str | None = None,
    output: AnyPath | None = None,
) -> Result:
    """Measures as `measure` does, from a coroutine. The event loop should have nothing else to do meanwhile."""
    if not isinstance(server, str | LlmServer):
        raise PlanError(_not_running(server))
    point = _point(load)
    _runs(point, runs)
    output = output and _folder(output, "output")
    if isinstance(server, str):
        config = _config({**_ELSEWHERE, "url": server, "model": model}, "url")
        async with StartedServer(start.start_server(config, Path(), (), loads=[point])) as running:
            return await _measured(running, point, runs, output)
    if model is not None:
        raise PlanError(f"model={model!r} goes with a URL; {server.name} has its own")
    return await _measured(server, point, runs, output)


def check_sla(result: Result) -> tuple[SlaCheck, ...]:
    """Returns every limit of the result's load, checked: `ok`, `verdict`, `value` and `describe()` of each.

    A limit is PASS, FAIL or INCONCLUSIVE (kept so far, and more runs may decide), and `ok` unless it is FAIL. Raises
    InvalidResultError when the numbers are not to be trusted.
    """
    _assert_valid(result)
    return Judge(Path()).sla(result)


def compare(
    result: Result,
    *,
    baselines: AnyPath,
    name: str,
    margins: Mapping[str, float | str] | None = None,
    gate: GateProfile | None = None,
) -> Regression:
    """Compares a result with the baseline that `record` stored under the same name for the same machine.

    Returns `verdict` (FAIL, NO BASELINE, INCONCLUSIVE, PASS, IMPROVED, NOT GATED), `sentences`, `metrics` and `notes`.
    No verdict is raised. FAIL takes 4 runs; 3 decide nothing worse than INCONCLUSIVE. `margins` are tolerated
    worsenings by quantity, as a share or a text (`{"itl_p50": "3 %"}`), beside the load's and the default ones; `gate`
    is `strict` for 99 % confidence. Raises BaselineError when there is no baseline or it cannot be compared with,
    InvalidResultError when the numbers are not to be trusted or too many requests failed.
    """
    judge = _judge(_folder(baselines, "baselines"), gate)
    _assert_name(name)
    judge.expect(name, result.load, _margins(margins), frozenset({"baseline"}))
    _assert_good(judge, result)
    return judge.regression(name, result)


def record(result: Result, *, baselines: AnyPath, name: str) -> Path:
    """Stores the result as the baseline of this name, in the place of one that is there, and returns its path.

    The file lies below the folder `baselines`, in one of the machine. Raises BaselineError for fewer than 5 runs,
    InvalidResultError when the numbers are not to be trusted or too many requests failed.
    """
    judge = Judge(_folder(baselines, "baselines"))
    _assert_name(name)
    _assert_good(judge, result)
    if result.capacity is not None and result.capacity.value is None:
        reason = f"{result.point_id}: {result.capacity.sentence}, so there is nothing to record"
        raise InvalidResultError(reason, result)
    began = datetime.fromtimestamp(result.runs[0].started_ns / 1e9, UTC)
    session = stored_session(result, began, git_sha(Path.cwd()), launch_sizes(result))
    baseline = judge.recorded(name, result, session)
    write_baseline(baseline)
    return baseline.path


def duet(
    a: Server,
    b: Server,
    load: Load,
    *,
    runs: int | None = None,
    margins: Mapping[str, float | str] | None = None,
    gate: GateProfile | None = None,
    logs: AnyPath | None = None,
    output: AnyPath | None = None,
) -> DuetResult:
    """Measures two servers, up at the same time, in turns (A B B A ...), and judges `b`, the new, against `a`.

    `runs` is the number of first runs of each (at least 3, the default); a verdict in doubt takes more, up to 12.
    `margins` and `gate` are as in `compare`, `logs` as in `start_server`, `output` as in `measure`. Raises as these do,
    PlanError when the two are set to answer differently, InvalidResultError (with the `result`) when either side's
    numbers are not to be trusted, and RuntimeError in a running event loop, where `await duet_async(...)` does it.
    """
    _assert_no_loop("duet")
    return run(duet_async(a, b, load, runs=runs, margins=margins, gate=gate, logs=logs, output=output))


async def duet_async(
    a: Server,
    b: Server,
    load: Load,
    *,
    runs: int | None = None,
    margins: Mapping[str, float | str] | None = None,
    gate: GateProfile | None = None,
    logs: AnyPath | None = None,
    output: AnyPath | None = None,
) -> DuetResult:
    """Measures and judges as `duet` does, from a coroutine."""
    point, judge, own = _point(load), _judge(Path(), gate), _margins(margins)
    runs = _runs(point, runs, at_least=DUET.baseline_runs)
    logs, output = logs and _folder(logs, "logs"), output and _folder(output, "output")
    try:
        pair = Duet(_config(a, "a"), _config(b, "b"))
    except ValueError as error:
        raise PlanError(str(error)) from error
    async with StartedServer(_starting(pair, logs, [point])) as server:
        judge.expect(_name(server, point), point, own, frozenset({"baseline"}))
        result = await _measured(server, point, runs, output, judge, own)
    _assert_good(judge, result)
    return DuetResult(result, judge.regression(_name(server, point), result))


def judge_files(
    old: AnyPath | Sequence[AnyPath],
    new: AnyPath | Sequence[AnyPath],
    *,
    margins: Mapping[str, float | str] | None = None,
    gate: GateProfile | None = None,
    concurrency: int | None = None,
    request_rate: float | None = None,
) -> Regression:
    """Judges result files of a new build against those of an old one, of the same tool, load and model.

    The tools are AIPerf, GenAI-Perf, perf_analyzer, vllm bench serve, SGLang and GuideLLM. Every run of a file counts,
    and a file that holds only statistics is one run: give at least 3 files of the old build and 4 of the new one, for
    with fewer nothing is a FAIL. `concurrency` or `request_rate` (requests per second) is the load of files that do not
    name it; `margins` and `gate` are as in `compare`. Raises ImportFileError or ImportBaselineError, which say which
    file cannot be read or is of another load.
    """
    if concurrency is not None and request_rate is not None:
        raise PlanError("concurrency= is a closed loop, request_rate= an open one; give one of them")
    judge, own = _judge(Path(), gate), _margins(margins)
    read = []
    for side, given in (("old", old), ("new", new)):
        paths = [Path(given)] if isinstance(given, str | PathLike) else [Path(path) for path in given]
        if not paths:
            raise ImportFileError(f"no file of the {side} build is given")
        read.append(read_files(paths, concurrency=concurrency, request_rate=request_rate))
    before, now = two_builds(*read)
    judge.expect("files", now.load, own, frozenset({"baseline"}))
    regression = judge.regression_apart("files", before, now)
    return replace(regression, notes=(*regression.notes, *build_notes(before, now)))


def _judge(baselines: Path, gate: GateProfile | None) -> Judge:
    if gate is not None and gate not in get_args(GateProfile):
        raise PlanError(f"gate={gate!r:.80}: allowed are {', '.join(get_args(GateProfile))}")
    return Judge(baselines, profile=gate)


def _assert_no_loop(name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{name}() would stop the event loop that runs here: write `await {name}_async(...)`")


def _not_running(given: object) -> str:
    """A sentence on why `given` cannot be measured, with the cure."""
    if not isinstance(given, StartedServer | ServerConfig | Mapping):
        return f"measure needs a running server or the URL of one, not {_shown(given)}"
    inside = "..." if isinstance(given, StartedServer) else "the configuration"
    cure = f"write `with start_server({inside}) as server` and give it `server`"
    return f"measure needs a running server, and this one is not started: {cure}"


def _shown(given: object) -> str:
    return "None" if given is None else f"{given!r:.80} ({type(given).__name__})"


def _assert_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise PlanError(f"name={name!r:.80}: the name of a baseline is a text that is not empty")


def _folder(given: AnyPath, name: str) -> Path:
    """The path of a folder that is there or can be made."""
    if not isinstance(given, str | PathLike):
        raise PlanError(f"{name}={given!r:.80}: the path of a folder is needed")
    path = Path(given)
    there = next((one for one in (path, *path.absolute().parents) if one.exists()), None)
    if there is not None and not there.is_dir():
        raise PlanError(f"{name}={str(path)!r}: a folder is needed, and {there} is a file")
    return path


def _config(given: Server, name: str) -> ServerConfig:
    """A configuration; a mapping is read as a plan's entry of this name."""
    if isinstance(given, ServerConfig):
        return server_on_this_machine(given)
    if not isinstance(given, Mapping):
        raise PlanError(f"{name} is {_shown(given)}; allowed are plan.server(...) and a mapping with engine and model")
    if given.get("model") is None:
        raise PlanError(f"{name}: model is missing: the name by which the server knows its model")
    return _tiny_plan({name: given}, {"load": {"concurrency": 1, "requests": 1, "input_tokens": 1}}).server(name)


def _point(given: Load) -> LoadPoint:
    """One load point; a mapping is read as a plan's load of the name `load`."""
    if isinstance(given, LoadPoint):
        return given
    points = _tiny_plan({"server": _ELSEWHERE}, {"load": given}).load_points()
    if len(points) > 1:
        raise PlanError(f"a load of {len(points)} points; measure them one by one, or take them out of a plan")
    return points[0]


def _tiny_plan(servers: Mapping[str, Mapping[str, Any]], loads: Mapping[str, Any]) -> Plan:
    """A plan of one server, checked as a plan file is, since JSON is YAML."""
    # Arguments that change output are locked: there is no other server that they would have to agree with.
    (args,) = (server.get("args") for server in servers.values())
    given = args if isinstance(args, Mapping) else {}
    locked = {name: value for name, value in given.items() if changes_output(argument_name(str(name)))}
    data = {"model": "unused", "locked": locked, "servers": servers, "loads": loads}
    text = json.dumps(data, default=_plain, ensure_ascii=False)
    # JSON writes what is beyond 16 bits as two escapes, which YAML takes for two characters.
    text = re.sub(r"[^ -~]", lambda found: rf"\U{ord(found[0]):08x}", text)
    return on_this_machine(plan_file.parse_plan(text, "given", Path.cwd()))


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _runs(point: LoadPoint, asked: int | None, at_least: int = 1) -> int:
    if asked is not None and (not isinstance(asked, int) or isinstance(asked, bool)):
        raise PlanError(f"runs={asked!r:.80}: a whole number of at least {at_least} is needed")
    if asked is not None and asked < at_least:
        raise PlanError(f"runs={asked}: at least {at_least} needed")
    return point.first_runs(asked, at_least)


@contextlib.contextmanager
def _starting(asked: ServerConfig | Duet, logs: AnyPath | None, loads: Sequence[LoadPoint] = ()) -> Iterator[LlmServer]:
    logged = any(side.is_started for side in sides(asked))
    folder = Path(logs or (tempfile.mkdtemp(prefix="llmperf-logs-") if logged else "")).absolute()
    with start.start_server(asked, folder, visible_gpus(), loads=loads) as server:
        yield server


async def _measured(
    server: LlmServer,
    point: LoadPoint,
    runs: int | None,
    output: AnyPath | None,
    judge: Judge | None = None,
    margins: Mapping[str, float] | None = None,
) -> Result:
    """The result; with a `judge` as many more runs as the verdict on it asks for."""
    name, gates = _name(server, point), frozenset({"baseline"})
    count, relaunch = _runs(point, runs), point.relaunch or "auto"
    planned = PlannedTest(name, name, name, server.asked, point, count, point.workers, relaunch, gates, margins or {})
    if point.missing:
        raise type(point.missing)(f"{name} {point.missing}")

    def doubt(planned: PlannedTest, result: Result) -> Doubt:
        return judge.doubt(name, result, gates) if judge else Doubt()

    with contextlib.ExitStack() as stack:
        folder = output or stack.enter_context(tempfile.TemporaryDirectory(prefix="llmperf-"))
        campaign = Campaign(Program({name: planned}), RunFolder(Path(folder)), visible_gpus(), doubt=doubt)
        return await campaign.result(planned, server)


def _name(server: LlmServer, point: LoadPoint) -> str:
    return f"{server.asked.name}-{point.name}"


def _margins(given: Mapping[str, float | str] | None) -> dict[str, float]:
    try:
        return parse_margins(given or {})
    except ValueError as error:
        raise PlanError(f"margins: {error}") from error


def _assert_valid(result: Result) -> None:
    if result.incomparable:
        raise InvalidResultError(f"{result.point_id}: INVALID: {'; '.join(result.incomparable)}", result)


def _assert_good(judge: Judge, result: Result) -> None:
    """A server is fast while it refuses."""
    _assert_valid(result)
    if failed := judge.failed_requests(result):
        raise InvalidResultError(f"{result.point_id}: too many requests failed: {'; '.join(failed)}", result)
