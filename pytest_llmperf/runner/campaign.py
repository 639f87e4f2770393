"""Measures planned tests: the points of one server in turns, and more runs where a gate is in doubt.

A disturbance of the machine lasts for seconds to minutes. Points that take turns (A B C A B C) each get a part of it,
which their run-to-run spread then shows; all runs of one point in a row would take it for the point's own speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pytest_llmperf import clock
from pytest_llmperf.errors import LlmPerfError, LoadError
from pytest_llmperf.gate.judge import Doubt
from pytest_llmperf.load.event_loop import unswallowed
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.records import Run
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.runner.resumed import Resumed, ResumedPoint, keep_point
from pytest_llmperf.runner.tasks.task import Task
from pytest_llmperf.servers.server import LlmServer, in_thread
from pytest_llmperf.telemetry.gpu import Gpu


class Campaign:
    """Measures the tests of a program when their results are asked for."""

    def __init__(
        self,
        program: Program,
        folder: RunFolder,
        gpus: Sequence[Gpu],
        *,
        doubt: Callable[[PlannedTest, Result], Doubt] = lambda planned, result: Doubt(),
        stored_requests: Callable[[PlannedTest, Result], int | None] = lambda planned, result: None,
        margins: Mapping[str, float] | None = None,
        live: Live | None = None,
        resumed: Resumed | None = None,
        resumable: bool = False,
        interleave: bool = True,
        budget_s: float | None = None,
        on_run: Callable[[], None] = lambda: None,
    ) -> None:
        """`doubt` says why a point needs one more run, `stored_requests` how many requests per run its baseline has;
        `margins` are the session's, where neither plan nor test has one; `budget_s` bounds the time from the first run
        on. Where it is `resumable`, points whose measuring is complete are kept in the folder.

        `on_run` is called whenever there is more to report.
        """
        self._program, self._folder, self._gpus = program, folder, tuple(gpus)
        self._doubt, self._live = doubt, live or Live()
        self._resumed, self._resumable = resumed or Resumed({}), resumable
        self._stored_requests, self._margins = stored_requests, margins
        self._interleave, self._budget_s, self._on_run = interleave, budget_s, on_run
        self._tasks: dict[str, Task] = {}
        """Tasks that were measured along with another test, by test; taken out when its own test asks."""
        self._measured: set[str] = set(self._resumed.points)
        self._begun = dict(self._resumed.begun)
        self._undecided: set[str] = set()
        self._begun_s: float | None = None

    async def result(self, planned: PlannedTest, server: LlmServer) -> Result:
        """Returns the test's result: resumed, measured already together with another test, or measured now.

        The first test of a server measures the points of all its tests. Raises ServerError when the server dies,
        LoadError when the load driver does.
        """
        resumed = self._resumed_result(planned, server)
        if resumed is not None:
            return resumed
        task = self._tasks.pop(planned.test, None)
        if task is None or task.server is not server or task.planned.point != planned.point:
            with unswallowed():
                task = await self._measure(planned, server)
        if task.error is not None:
            raise task.error
        if task.runs_left:
            raise LoadError(f"{task.name} lacks {task.runs_left} of the {planned.runs} runs that were asked for")
        return task.result()

    def _resumed_result(self, planned: PlannedTest, server: LlmServer) -> Result | None:
        stored = self._resumed.points.get(planned.test)
        if stored is None or self._program.tests.get(planned.test) != planned:
            return None
        if server.started and self._is_others(stored, planned, server):
            del self._resumed.points[planned.test]  # its numbers are this session's
            return None
        result = stored.result(planned)
        self._folder.note(
            planned.test,
            result.point_id,
            result=result,
            reruns=stored.point.reruns,
            # A point of a part that this session started counts as its own.
            taken_from=stored.point.measured if stored.point.session < self._folder.started else None,
            error="interrupted",
        )
        return result

    def _is_others(self, stored: ResumedPoint, planned: PlannedTest, server: LlmServer) -> bool:
        """True if another engine measured a point than the one that runs; a note says so."""
        why = stored.other_engine(server)
        if why:
            self._folder.notes.append(f"{planned.point_id} is measured again, not resumed: {why}")
        return bool(why)

    def _earlier(self, planned: PlannedTest, server: LlmServer) -> tuple[Run, ...]:
        """The runs that an interrupted session has of a point that needs more, in the file of requests again."""
        stored = self._begun.pop(planned.test, None) if self._program.tests.get(planned.test) == planned else None
        if stored is None or self._is_others(stored, planned, server):
            return ()
        runs = stored.point.sides[-1].runs
        for run in runs:
            self._folder.save_requests(planned.test, run, planned.point)
        return runs

    async def _measure(self, planned: PlannedTest, server: LlmServer) -> Task:
        """Measures the test's own point and those of the tests that wait for the same server; returns the own one.

        First runs are made in turns, then runs of the points that are in doubt, until none is.
        """
        self._begun_s = clock.monotonic() if self._begun_s is None else self._begun_s
        tests = [planned, *self._mates(planned)]
        self._measured |= {one.test for one in tests}
        await _each_side(server, lambda side: side.bring_up())
        tasks = [
            Task(
                one, server, self._folder, self._gpus, self._earlier(one, server), self._stored_requests, self._margins
            )
            for one in tests
        ]
        always, relaunch, wanted = planned.relaunch == "always", False, tasks
        try:
            while wanted:
                if relaunch:
                    await _relaunch(server, wanted)
                for task in wanted:
                    if task.error is None:
                        await task.run(self._live)
                        self._on_run()
                wanted = [task for task in tasks if task.runs_left]
                doubts = {} if wanted else self._doubts(tasks, server if always else None)
                wanted = wanted or [task for task in tasks if task.test in doubts]
                asked = planned.relaunch == "auto" and any(doubt.relaunch for doubt in doubts.values())
                relaunch = always or (asked and self._affordable(wanted, server))
        finally:
            self._live.clear()
        for task in tasks:
            complete = task.error is None and task.test not in self._undecided
            if self._resumable and complete and self._program.tests.get(task.test) == task.planned:
                keep_point(task, self._folder)
        own, *others = tasks
        self._tasks |= {task.test: task for task in others}
        return own

    def _mates(self, planned: PlannedTest) -> list[PlannedTest]:
        """Tests to measure along with this one: none for a test that measures something of its own, or anew."""
        first = planned.test not in self._measured and self._program.tests.get(planned.test) == planned
        if not self._interleave or not first:
            return []
        return [mate for mate in self._program.mates(planned) if mate.test not in self._measured]

    def _doubts(self, tasks: Sequence[Task], relaunched: LlmServer | None) -> dict[str, Doubt]:
        """Returns why each test needs one more run; only tests that do, and none when the budget is spent.

        `relaunched` is the server where it is launched anew for every run.
        """
        asked = {task: self._doubt(task.planned, task.result()) for task in tasks if task.error is None}
        doubted = [task for task, doubt in asked.items() if doubt.reasons]
        if doubted and not self._affordable(doubted, relaunched):
            self._undecided |= {task.test for task in doubted}
            names = ", ".join(task.name for task in doubted)
            self._folder.notes.append(f"the budget of {self._budget_s:g} s is spent; undecided: {names}")
            return {}
        for task in doubted:
            self._folder.add_rerun(task.test, task.name, asked[task].reasons[0])
            self._live.eta.more(task.test)
        return {task.test: asked[task] for task in doubted}

    def _affordable(self, tasks: Sequence[Task], relaunched: LlmServer | None) -> bool:
        """True if the budget has room for a run of each of these, and for a launch of the server before them, beside
        the first runs of all tests that are still to come.
        """
        if self._budget_s is None or self._begun_s is None:
            return True
        to_come = [planned for test, planned in self._program.tests.items() if test not in self._measured]
        seconds = sum(task.run_seconds for task in tasks)
        first = sum(planned.runs for planned in to_come) * seconds / len(tasks)
        launch = sum(side.relaunch_s for side in (relaunched.reference, relaunched) if side) if relaunched else 0.0
        return first + launch + seconds <= self._budget_s - (clock.monotonic() - self._begun_s)


async def _relaunch(server: LlmServer, tasks: Sequence[Task]) -> None:
    """Starts the server (a duet's two) anew; one that does not come up is the error of all that wanted it."""
    try:
        await _each_side(server, lambda side: side.relaunch())
    except LlmPerfError as error:
        for task in tasks:
            task.error = error


async def _each_side(server: LlmServer, call: Callable[[LlmServer], object]) -> None:
    """Does the same with each of a duet's servers, or with the one that there is, in a thread."""
    for side in (server.reference, server):
        if side is not None:
            await in_thread(side, partial(call, side))
