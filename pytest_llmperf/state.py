"""What the plugin knows during a pytest session, free of pytest itself: options, plans, servers, outcomes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pytest_llmperf.campaign import Again
from pytest_llmperf.capacity.task import make_task
from pytest_llmperf.dry_run import describe_points
from pytest_llmperf.duet import Duet, configurations
from pytest_llmperf.errors import PlanError
from pytest_llmperf.gate.baseline_folder import unused
from pytest_llmperf.gate.baselines import baseline_path
from pytest_llmperf.gate.growth import RECORDED_RUNS
from pytest_llmperf.gate.histogram import Histogram
from pytest_llmperf.gate.rules import DUET
from pytest_llmperf.judging import Doubt, Judging
from pytest_llmperf.load_spec import LoadPoint, parse_margins
from pytest_llmperf.options import Options, ini_margins, make_options
from pytest_llmperf.outlook import Outlook, Work
from pytest_llmperf.plan import Plan
from pytest_llmperf.plan_file import load_plan
from pytest_llmperf.report import terminal
from pytest_llmperf.report.live import Live
from pytest_llmperf.report.properties import outcome_properties
from pytest_llmperf.result import Result
from pytest_llmperf.selection import PlannedTest, Selection, check_marker, selected
from pytest_llmperf.server_spec import ServerConfig
from pytest_llmperf.servers.start import LlmServer, start_duet, start_server
from pytest_llmperf.session import Session
from pytest_llmperf.takeover import Takeover, asked_of
from pytest_llmperf.task import Task
from pytest_llmperf.telemetry.environment import environment
from pytest_llmperf.telemetry.gpu import Gpu, visible_gpus


@dataclass(slots=True)
class State:
    """Mutable on purpose, like the session inside it."""

    options: Options
    root: Path
    gpus: tuple[Gpu, ...]
    session: Session
    judging: Judging
    takeover: Takeover
    plans: dict[Path, Plan] = field(default_factory=dict)
    plan_errors: list[str] = field(default_factory=list)
    """Raised together when collection is over, so that a person sees all of them at once."""
    servers: dict[str, LlmServer] = field(default_factory=dict)
    """By test id: the server that a test used, for its log."""
    planned: dict[str, PlannedTest] = field(default_factory=dict)
    """By test id: what is going to be measured in this session, in that order."""
    tasks: dict[str, Task] = field(default_factory=dict)
    """By test id: what was assigned; taken out when its test asks for it."""
    assigned: set[str] = field(default_factory=set)
    """Tests whose points are measured, or being so."""
    undecided: set[str] = field(default_factory=set)
    """Tests that a gate wanted more runs of than the budget had."""
    needed: set[ServerConfig | Duet] = field(default_factory=set)
    """Servers that tests ask for other than to measure a point."""
    whole: bool = True
    """Whether every test of the collected files was selected and had its turn."""
    begun_s: float | None = None
    """When the first point was begun, by the monotonic clock; the budget counts from then."""
    passed: set[str] = field(default_factory=set)
    """Tests whose call phase passed."""
    outlook: Outlook = field(default_factory=Outlook)
    live: Live | None = None
    """Where progress is shown; None where it is not."""

    def select(self, args: Sequence[object], kwargs: Mapping[str, Any], test_file: Path) -> Selection:
        """What a marker selects; nothing when it or its plan is wrong, which `plan_errors` then says."""
        try:
            return self._select(args, kwargs, test_file)
        except PlanError as error:
            if str(error) not in self.plan_errors:
                self.plan_errors.append(str(error))
            return Selection((), ())

    def _select(self, args: Sequence[object], kwargs: Mapping[str, Any], test_file: Path) -> Selection:
        check_marker(args, kwargs, test_file)
        return selected(self.plan(test_file.parent / kwargs["plan"]), kwargs, test_file)

    def plan(self, path: Path) -> Plan:
        """Read once. PlanError says what is wrong with it."""
        path = path.resolve()
        if path not in self.plans:
            self.plans[path] = load_plan(path)
        return self.plans[path]

    def plan_test(self, planned: PlannedTest) -> None:
        """Notes what a collected test will measure and be judged by."""
        self.planned[planned.test] = planned
        self.judging.own[planned.test] = parse_margins(planned.margins)
        if "baseline" in planned.gates:
            self.judging.expect(planned.test, planned.point)
        self.outlook.plan(self._work(planned))

    def _work(self, planned: PlannedTest) -> Work:
        """What is known beforehand of the time that a test takes."""
        server, point = planned.server, planned.point
        sides = 2 if isinstance(server, Duet) else 1
        run_s = terminal.load_seconds(point)
        return Work(
            test=planned.test,
            server=server.name,
            engine=(server.a if isinstance(server, Duet) else server).engine,
            load=point.name,
            runs=max(self.options.runs_of(point, planned.runs), self._runs_to_come(planned)),
            run_s=None if run_s is None else run_s * sides,
            open_ended=point.stability is not None,
        )

    def _runs_to_come(self, planned: PlannedTest) -> int:
        """As many as its baseline or its duet takes in any case; 0 where that is not known beforehand."""
        if "baseline" not in planned.gates:
            return 0
        if isinstance(planned.server, Duet):
            return DUET.baseline_runs
        return RECORDED_RUNS if self.options.accept else 0

    def take_over(self) -> None:
        """With --llmperf-resume: which of the planned points the continued session has; they count as assigned."""
        if not self.options.resume:
            return
        self.takeover.read()
        for test, planned in self.planned.items():
            name = f"{planned.server.name}-{planned.point.name}"
            judged = planned.server.b if isinstance(planned.server, Duet) else planned.server
            now = environment(judged, None, self.gpus)
            if self.missing(test) is None and self.takeover.take(test, name, self._asked(planned), now, planned.point):
                result = self.takeover.result(test, planned.server, planned.point)
                if "baseline" in planned.gates and (wanted := self._wanted_runs(test, result)) > len(result.runs):
                    self.takeover.refuse(test, name, f"it has {len(result.runs)} runs, and {wanted} are needed now")
                else:
                    self.assigned.add(test)
                    self.outlook.settle(test)

    def _asked(self, planned: PlannedTest) -> dict[str, Any]:
        point, options = planned.point, self.options
        runs = options.runs_of(point, planned.runs)
        return asked_of(planned.server, point, runs, options.workers_of(point), options.relaunch_of(point))

    def taken_over(self, test: str, server: LlmServer, point: LoadPoint) -> Result | None:
        """What the continued session has for the test; None where it is to be measured."""
        stored, planned = self.takeover.taken.get(test), self.planned.get(test)
        if stored is None or planned is None or (planned.server, planned.point) != (server.asked, point):
            return None
        version = stored.sides[-1].environment.engine_version
        if server.started and version != server.version:
            self.assigned.discard(test)
            name = f"{server.asked.name}-{point.name}"
            self.takeover.refuse(test, name, f"engine_version was {version}, is {server.version}")
            return None
        result = self.takeover.result(test, server.asked, point)
        self.session.update(
            test, result.point_id, result=result, reruns=stored.reruns, taken_from=stored.measured, error="interrupted"
        )
        return result

    def keep(self, task: Task) -> None:
        """Store a point for --llmperf-resume, if nothing is open about it and its numbers may be believed."""
        planned = self.planned.get(task.test)
        incomplete = task.error is not None or task.test in self.undecided
        if planned is None or planned.point != task.point or incomplete:
            return
        result = task.result()
        if result.incomparable or not result.runs:
            return
        self.takeover.keep(task, self._asked(planned), self.session.outcomes[task.test].reruns)

    def began(self, test: str) -> datetime:
        """The session that measured the test's point: this one, or the continued one."""
        stored = self.takeover.taken.get(test)
        return self.session.started if stored is None else stored.session

    def missing(self, test: str) -> str | None:
        """What the test's load needs and this machine lacks; told before the server is started for it."""
        planned = self.planned.get(test)
        folder = planned.point.tokenizer if planned else None
        if folder is None or Path(folder).is_dir():
            return None
        return f"needs the tokenizer {folder}, which is not a folder here; give that of a downloaded model or tokenizer"

    def measured(self, test: str, server: LlmServer, point: LoadPoint) -> Task | None:
        """What an earlier test of the same server has measured for this one; None when nothing was."""
        task = self.tasks.pop(test, None)
        return task if task and task.point == point and task.server is server else None

    def assign(self, test: str, server: LlmServer, point: LoadPoint, runs: int | None) -> list[Task]:
        """The test's own point, then those of the tests that are to be measured together with it."""
        self.begun_s = time.monotonic() if self.begun_s is None else self.begun_s
        own = self._task(test, server, point, runs)
        mates = list(self._mates(test, server, point))
        self.assigned |= {test, *(mate.test for mate in mates)}
        others = [self._task(mate.test, server, mate.point, mate.runs) for mate in mates]
        self.tasks |= {task.test: task for task in others}
        return [own, *others]

    def _mates(self, test: str, server: LlmServer, point: LoadPoint) -> Iterator[PlannedTest]:
        """Later tests of the same function and server; none for a test that measures something of its own."""
        this = self.planned.get(test)
        if self.options.no_interleave or test in self.assigned or this is None or this.point != point:
            return
        for other in self.planned.values():
            same = (other.function, other.server) == (this.function, server.asked)
            waits = not other.alone and other.test != test and other.test not in self.assigned
            if same and waits and self.missing(other.test) is None:
                yield other

    def _task(self, test: str, server: LlmServer, point: LoadPoint, runs: int | None) -> Task:
        return make_task(
            test,
            server,
            point,
            self.options.runs_of(point, runs),
            session=self.session,
            gpus=self.gpus,
            workers=self.options.workers_of(point),
        )

    def again(self, tasks: Sequence[Task]) -> Again:
        """Which of these points a gate wants one more run of, as far as the budget reaches."""
        doubts = {task.test: self._doubt(task) for task in tasks if task.error is None}
        tests = frozenset(test for test, doubt in doubts.items() if doubt.reasons)
        if tests and not self._affordable([task for task in tasks if task.test in tests]):
            self.undecided |= tests
            self.session.notes.append(
                f"the budget of {self.options.budget_s:g} s is spent; undecided: "
                + ", ".join(task.name for task in tasks if task.test in tests)
            )
            return Again(frozenset())
        for task in tasks:
            if task.test in tests:
                self.session.add_rerun(task.test, task.name, doubts[task.test].reasons[0])
                self.outlook.more(task.test)
        return Again(tests, any(doubts[test].relaunch for test in tests))

    def _doubt(self, task: Task) -> Doubt:
        result, planned = task.result(), self.planned.get(task.test)
        if result.incomparable or planned is None or (result.capacity and result.capacity.value is None):
            return Doubt()
        if "baseline" in planned.gates:
            wanted = self._wanted_runs(task.test, result)
            if wanted > len(result.runs):
                what = f"a duet, which takes {wanted} runs of both servers"
                return Doubt((what if result.reference else f"a baseline, which takes {wanted} runs",))
            if self.recording(task.test, result):
                return Doubt()
        doubt = self.judging.doubt(task.test, result, planned.gates)
        return Doubt(doubt.reasons, doubt.relaunch and self.options.relaunch_of(task.point) != "never")

    def _wanted_runs(self, test: str, result: Result) -> int:
        """What a duet, or a baseline that is recorded, takes at least; where nothing was found no more is wanted."""
        if result.capacity and result.capacity.value is None:
            return 1
        if result.reference is not None:
            return DUET.baseline_runs
        return RECORDED_RUNS if self.recording(test, result) else 1

    def _affordable(self, tasks: Sequence[Task]) -> bool:
        """Whether the budget has room for a run of each of these beside the first runs of all that is still to come."""
        if self.options.budget_s is None or self.begun_s is None:
            return True
        to_come = [planned for test, planned in self.planned.items() if test not in self.assigned]
        mean_s = sum(task.run_seconds for task in tasks) / len(tasks)
        first = sum(self.options.runs_of(planned.point, planned.runs) for planned in to_come) * mean_s
        left = self.options.budget_s - (time.monotonic() - self.begun_s)
        return first + sum(task.run_seconds for task in tasks) <= left

    def recording(self, test: str, result: Result) -> bool:
        """Whether the result is to become the baseline, without a comparison; that of a duet never is."""
        if result.reference is not None:
            return False
        update = self.options.update_baselines or self.options.update_new
        return self.options.accept or (update and not self.baseline_file(test, result).exists())

    def note_duet_update(self) -> None:
        """Says once what the update options do for duets."""
        updates = ("update_baselines", "update_new", "accept")
        given = [f"--llmperf-{name.replace('_', '-')}" for name in updates if getattr(self.options, name)]
        note = f"{' '.join(given)}: nothing to record for duets, which have no baseline; they are judged as ever"
        if given and note not in self.session.notes:
            self.session.notes.append(note)

    @contextlib.contextmanager
    def start(self, asked: ServerConfig | Duet) -> Iterator[LlmServer]:
        """The running server that is asked for; of a duet the new one, with the old one as its reference."""
        folder, gpus, later = self.session.log_dir(), self.gpus, self._nothing_to_measure(asked)
        loads = [planned.point for planned in self.planned.values() if planned.server == asked]
        begun = time.monotonic()
        if self.live and not later:
            self.live.starting(asked.name)
        if isinstance(asked, Duet):
            one = start_duet(asked, folder, gpus, later=later, loads=loads)
        else:
            one = start_server(asked, folder, gpus, later=later, loads=loads)
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(one)
            finally:
                if self.live:
                    self.live.clear()
            engine = (asked.a if isinstance(asked, Duet) else asked).engine
            self.outlook.started(engine, asked.name, time.monotonic() - begun)
            yield server

    def _nothing_to_measure(self, asked: ServerConfig | Duet) -> bool:
        """Whether every point of the server was taken over, so that it need not come up."""
        tests = [test for test, planned in self.planned.items() if planned.server == asked]
        return bool(tests) and asked not in self.needed and all(test in self.takeover.taken for test in tests)

    def server_log(self, test: str) -> str:
        """Last lines of the logs of the test's servers; empty when there are none here."""
        server = self.servers.get(test)
        used = (server, server.reference) if server else ()
        return "\n".join(one.log_tail() for one in used if one and one.logs)

    def baseline_file(self, test: str, result: Result) -> Path:
        return self.judging.file(test, result.environment.slug)

    def phase_ended(self, test: str, phase: str, error: str | None, skipped: bool) -> list[tuple[str, Any]]:
        """Note how a phase of a test ended; after the call phase, gives its JUnit properties."""
        if phase == "call" or error is not None:
            self.outlook.settle(test)
        if phase == "call" and error is None:
            self.passed.add(test)
        if phase != "call" and error is None:
            return []
        passed = None if skipped else error is None
        outcome = self.session.update(test, _point_id(test), passed=passed, error=error)
        return outcome_properties(outcome) if phase == "call" else []

    def write_report(self) -> None:
        """The JSON report, if there is anything to report."""
        self.session.notes += self._unused_baselines() if self.whole else ()
        if self.session.outcomes or self.session.searches:
            self.session.write_report(self.options.json)
            self.session.write_exports(self.options.exports)
            if self.options.html:
                self.session.write_html(self.options.html, self._baseline_histograms())

    def _unused_baselines(self) -> Iterator[str]:
        """Of the collected files' tests, in the environments that were measured."""
        slugs = {outcome.result.environment.slug for outcome in self.session.outcomes.values() if outcome.result}
        folders = {baseline_path(self.options.baselines, slug, test).parent for slug in slugs for test in self.planned}
        for path in unused(self.options.baselines, slugs, self.planned):
            if path.parent in folders:
                yield f"no test asks for baseline {path}; remove it with `llmperf baseline prune`"

    def _baseline_histograms(self) -> dict[str, Mapping[str, Histogram]]:
        """By test that was compared, what its baseline held before this session."""
        held_against = {test: o for test, o in self.session.outcomes.items() if o.regression and not o.regression.duet}
        compared = {test: o.result for test, o in held_against.items() if o.result}
        held = {test: self.judging.histograms(test, found, self.began(test)) for test, found in compared.items()}
        return {test: histograms for test, histograms in held.items() if histograms}

    def headline(self, points: Sequence[tuple[ServerConfig | Duet, LoadPoint]]) -> str:
        """One line for pytest's head."""
        servers = configurations(server for server, _ in points)
        updating = self.options.update_baselines or self.options.update_new or self.options.accept
        mode = ", recording baselines" if updating else ""
        counts = ((len(points), "point"), (len(servers), "server"), (len(self.gpus), "GPU"))
        measured, on, gpus = (terminal.counted(count, noun) for count, noun in counts)
        if self.options.resume:
            taken = terminal.counted(len(self.takeover.taken), "point")
            mode += f", {taken} taken over from {self.session.output}"
        return f"llmperf: {measured} on {on}, {gpus}{mode}"

    def dry_run(self, points: Sequence[tuple[ServerConfig | Duet, LoadPoint]]) -> Iterator[str]:
        """Lines that say what a run would do."""
        return describe_points(points, self.options.runs_of, self.gpus)

    def tables(self, width: int, color: bool, verbosity: int) -> str:
        """The terminal summary."""
        return terminal.summary(self.session, width, color, verbosity)

    def git_sha(self) -> str | None:
        """Commit of the project under test; None outside git."""
        try:
            command = ["git", "-C", str(self.root), "rev-parse", "HEAD"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None


def make_state(given: Mapping[str, Any], root: Path, invoked_from: Path) -> State:
    """State for one session; `given` options as make_options takes them, and the ini's lines of margins."""
    options = make_options(given, root, invoked_from)
    session = Session(options.output, dialect=options.dialect)
    judging = Judging(options.baselines, given["gate"])
    state = State(options, root, visible_gpus(), session, judging, Takeover(session))
    try:
        judging.margins = ini_margins(given["margins"])
    except PlanError as error:
        state.plan_errors.append(str(error))
    return state


def _point_id(test: str) -> str:
    """`a.py::test_serving[tp4pp2-short]` -> `tp4pp2-short`."""
    return test.partition("[")[2].rstrip("]") or test
