"""A pytest session with llmperf tests, free of pytest itself: first what is collected, then the owners at work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pytest_llmperf import clock
from pytest_llmperf.boundary.signals import end_like_ctrl_c
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.errors import MissingRequirement, PlanError
from pytest_llmperf.gate.baselines.growth import RECORDED_RUNS, stored_session
from pytest_llmperf.gate.baselines.model import StoredSession
from pytest_llmperf.gate.judge import Judge, Recording
from pytest_llmperf.gate.regression import launch_sizes
from pytest_llmperf.gate.rules import DUET
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.histogram import Histogram
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.report.files import (
    RunningReport,
    remove_reports,
    with_failure_noted,
    write_exports,
    write_history,
    write_html,
    write_report,
)
from pytest_llmperf.report.json.properties import outcome_properties
from pytest_llmperf.runner import describe
from pytest_llmperf.runner.campaign import Campaign
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.runner.progress.eta import PointWork
from pytest_llmperf.runner.progress.live import Live
from pytest_llmperf.runner.resumed import Resumed, read_resumed
from pytest_llmperf.search.result import SearchResult
from pytest_llmperf.servers.duet import Duet, configurations, sides
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server
from pytest_llmperf.session.beforehand.dry_run import totals
from pytest_llmperf.session.beforehand.mistakes import mistakes
from pytest_llmperf.session.beforehand.outlook import outlook, run_seconds
from pytest_llmperf.session.options import Options, ini_margins, make_options
from pytest_llmperf.session.select.collection import Collection, resolved
from pytest_llmperf.telemetry.environment import git_sha
from pytest_llmperf.telemetry.gpu import Gpu, visible_gpus
from pytest_llmperf.units import counted

PART = "LLMPERF_PART"
"""Variable that tells a session of ours a test whose server it is to measure for the one that started it."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """The parts of a session that exist before its tests are known."""

    options: Options
    gpus: tuple[Gpu, ...]
    folder: RunFolder
    collection: Collection
    margins: Mapping[str, float]
    """The ini file's."""
    part: str | None
    """Node id of a test whose server this process measures for another session; None as a rule."""
    gate: Any
    """The option's name of the rules, which wins over a plan's; None without."""

    def take_outcomes(self, outcomes: Sequence[tuple[str, str, str]]) -> None:
        """Adds the `worker_outcomes` of a worker of pytest-xdist to the report, beside those of others."""
        for test, point_id, error in outcomes:
            self.folder.note(test, point_id, passed=False, error=error)
        with_failure_noted(self.folder, "report", lambda: write_report(self.folder, self.options.json))

    def resuming(self) -> Preparation:
        """Returns the same, to begin with the points that are in its folder by now."""
        return replace(self, options=replace(self.options, resume=True))

    def begin(self, live: Live) -> PytestSession:
        """Freezes what was collected and returns the session that measures it."""
        program, options = self.collection.finish(), self.options
        recording: Recording = "missing" if options.update_baselines or options.update_new else "nothing"
        recording = "everything" if options.accept else recording
        judge = Judge(
            options.baselines,
            profile=self.gate,
            margins=self.margins,
            recording=recording,
            commit=self.folder.commit,
        )
        for test, planned in program.tests.items():
            judge.expect(test, planned.point, planned.margins, planned.gates)
            live.eta.plan(_work(planned, recording))
        resumed = Resumed({})
        if options.resume:
            resumed = read_resumed(self.folder, program.tests, self.gpus, judge.runs_wanted, judge.stored_requests)
            self.folder.notes += resumed.notes
        for test in resumed.points:
            live.eta.settle(test)
        searches: dict[str, SearchResult] = {}
        report = RunningReport(self.folder, searches)
        campaign = Campaign(
            program,
            self.folder,
            self.gpus,
            doubt=lambda planned, result: judge.doubt(planned.test, result, planned.gates),
            stored_requests=lambda planned, result: judge.stored_requests(planned.test, result),
            margins=self.margins,
            live=live,
            resumed=resumed,
            resumable=True,
            interleave=not options.no_interleave,
            budget_s=options.budget_s,
            on_run=report.write,
        )
        return PytestSession(self, program, judge, resumed, campaign, live, report, searches)


@dataclass(frozen=True, slots=True)
class PytestSession:
    """The owners of what happens while tests run; it only composes them."""

    prepared: Preparation
    program: Program
    judge: Judge
    resumed: Resumed
    campaign: Campaign
    live: Live
    report: RunningReport
    searches: dict[str, SearchResult]
    """Results of searches by test id, each with a folder of its own for its points."""
    servers: dict[str, LlmServer] = field(default_factory=dict)
    """Servers that tests used, by test id, for their logs."""
    passed: set[str] = field(default_factory=set)
    """Tests whose call phase passed, until their teardown has ended."""

    @property
    def is_part(self) -> bool:
        """True if this process measures one server for another session, and reports nothing."""
        return self.prepared.part is not None

    @property
    def options(self) -> Options:
        return self.prepared.options

    @property
    def folder(self) -> RunFolder:
        return self.prepared.folder

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return self.prepared.gpus

    def result(
        self, test: str, server: LlmServer, point: LoadPoint, marker_runs: int | None
    ) -> Coroutine[Any, Any, Result]:
        """Returns the result of a test's point on a server, also of a point that is not the planned one."""
        self.servers[test] = server
        planned = self.program.tests.get(test)
        if planned is None or (planned.server, planned.point) != (server.asked, point):
            own = resolved(test, server.asked, point, marker_runs, self.options)
            planned = replace(own, gates=planned.gates, margins=planned.margins) if planned else own
        return self.campaign.result(planned, server)

    def missing(self, test: str) -> MissingRequirement | None:
        """Returns what the test's load needs and this machine lacks, before a server is started for it."""
        planned = self.program.tests.get(test)
        return planned.point.missing if planned else None

    def stored_session(self, test: str, result: Result) -> StoredSession:
        """Returns what a baseline keeps of a result."""
        began = self.resumed.began(test, self.folder.started)
        return stored_session(result, began, self.folder.commit, launch_sizes(result))

    def own_session(self, test: str, result: Result) -> str | None:
        """Id of the session that measured a resumed result, whose baseline may hold it already; else None."""
        return self.stored_session(test, result).id if test in self.resumed.points else None

    def note_duet_update(self) -> None:
        """Says once what the update options do for duets."""
        updates = ("update_baselines", "update_new", "accept")
        given = [f"--llmperf-{name.replace('_', '-')}" for name in updates if getattr(self.options, name)]
        note = f"{' '.join(given)}: nothing to record for duets, which have no baseline; they are judged as ever"
        if given and note not in self.folder.notes:
            self.folder.notes.append(note)

    @contextlib.contextmanager
    def start(self, asked: ServerConfig | Duet) -> Iterator[LlmServer]:
        """The running server that is asked for; of a duet the new one, with the old one as its reference."""
        lazy = self.is_resumed(asked)
        loads = [planned.point for planned in self.program.tests.values() if planned.server == asked]
        begun = clock.monotonic()
        if not lazy:
            self.live.starting(asked.name)
        with contextlib.ExitStack() as stack:
            try:
                folder, sharing = self.folder.log_dir(), self.options.sharing
                begin = start_server(asked, folder, self.gpus, lazy=lazy, loads=loads, sharing=sharing)
                server = stack.enter_context(begin)
            finally:
                self.live.clear()
            self.live.eta.started(sides(asked)[0].engine, asked.name, clock.monotonic() - begun)
            yield server

    def is_resumed(self, asked: ServerConfig | Duet) -> bool:
        """True if all points of a server are resumed, so that it need not come up."""
        tests = self.program.of_server(asked)
        return bool(tests) and asked not in self.program.bare and all(test in self.resumed.points for test in tests)

    def server_log(self, test: str) -> str:
        """Last lines of the logs of the test's servers; empty when there are none here, or no server is a suspect.

        One that answered every request as it was asked to has nothing to say on being slower.
        """
        server, outcome = self.servers.get(test), self.folder.outcomes.get(test)
        result = outcome.result if outcome else None
        if result is not None and result.runs and not result.failures and not result.incomparable:
            return ""
        used = (server, server.reference) if server else ()
        return "\n".join(one.log_tail() for one in used if one and one.logs)

    def shortened(self, test: str, message: str) -> str:
        """A failure's message as pytest's summary and JUnit have it beside the test's name: with nothing before it."""
        outcome = self.folder.outcomes.get(test)
        message = message.removeprefix("AssertionError: ").removeprefix("Failed: ")
        return message.removeprefix(f"{outcome.point_id}: ") if outcome else message

    def phase_ended(self, test: str, phase: str, error: str | None, skipped: bool) -> list[tuple[str, Any]]:
        """Note how a phase of a test ended; after the call phase, gives its JUnit properties."""
        if phase == "call" or error is not None:
            self.live.eta.settle(test)
            self.judge.settle(test)
        (self.passed.add if phase == "call" and error is None else self.passed.discard)(test)
        if phase != "call" and error is None:
            return []
        passed = None if skipped else error is None
        point_id = test.partition("[")[2].rstrip("]") or test  # `a.py::test_serving[tp4pp2-short]` -> `tp4pp2-short`
        outcome = self.folder.note(test, point_id, passed=passed, error=error and foreign(error))
        if self.folder.is_claimed:
            self.report.write(always=phase == "call")
        return list(outcome_properties(outcome)) if phase == "call" else []

    def begin(self) -> None:
        """Takes the output folder, before anything is measured. PlanError when it is another session's, or no folder.

        PlanError too for what is known not to come to a result. From now on SIGTERM and SIGHUP end the session as
        Ctrl-C does.
        """
        if found := self.mistakes():
            raise PlanError("\n".join(found))
        if self.program.measures:
            self.folder.claim()
            remove_reports(self.folder, *filter(None, (self.options.json, self.options.html)))
            end_like_ctrl_c()

    def mistakes(self) -> list[str]:
        """Returns what the plans or options name and is not there, a sentence each."""
        return mistakes(self.prepared.collection, self.program, self.options, self.gpus)

    def write_report(self, *, complete: bool) -> bool:
        """Writes everything that was asked for; `complete`: every test had its turn.

        Nothing where no folder was taken and there is nothing to report. False when something could not be written,
        which a note then says.
        """
        folder, searches = self.folder, tuple(self.searches.values())
        if complete and self.program.complete:
            slugs = {outcome.result.environment.slug for outcome in folder.outcomes.values() if outcome.result}
            unused = partial(self.judge.unused, slugs, self.program.tests)
            with_failure_noted(folder, "which baselines are unused", lambda: folder.notes.extend(unused()))
        is_empty = not (folder.outcomes or searches)
        if is_empty and not folder.is_claimed:
            return True
        json, html, exports = self.options.json, self.options.html, self.options.exports
        history = self.options.history
        done = [
            with_failure_noted(folder, "HTML report", lambda: write_html(folder, html, self._baselines(), searches))
            if html
            else True,
            with_failure_noted(folder, "exports", lambda: write_exports(folder, exports)),
            with_failure_noted(folder, "history", lambda: write_history(folder, history, searches))
            if history and not is_empty
            else True,
            # The report is last, since it has the notes on the others' failures.
            with_failure_noted(folder, "report", lambda: write_report(folder, json, searches)),
        ]
        folder.release()
        return all(done) and folder.is_whole

    def _baselines(self) -> dict[str, Mapping[str, Histogram]]:
        """Histograms of the baselines before this session, by test that was compared."""
        held_against = {test: o for test, o in self.folder.outcomes.items() if o.regression and not o.regression.duet}
        began = {test: self.resumed.began(test, self.folder.started) for test in held_against}
        held = {
            test: self.judge.histograms(test, o.result, began[test]) for test, o in held_against.items() if o.result
        }
        return {test: histograms for test, histograms in held.items() if histograms}

    def worker_outcomes(self) -> list[tuple[str, str, str]]:
        """Ids of tests and points, and errors, for the session that this one is a worker of."""
        return [(test, found.point_id, found.error or "") for test, found in self.folder.outcomes.items()]

    def headline(self, points: Sequence[tuple[ServerConfig | Duet, LoadPoint]]) -> str:
        """A line for pytest's head, and one for each load that cannot be measured here."""
        servers = configurations(server for server, _ in points)
        mode = ", recording baselines" if self.judge.recording != "nothing" else ""
        counts = ((len(points), "point"), (len(servers), "server"), (len(self.gpus), "GPU"))
        measured, on, gpus = (counted(count, noun) for count, noun in counts)
        if self.options.resume:
            resumed = counted(len(self.resumed.points), "point")
            mode += f", {resumed} resumed from {self.folder.output}"
        loads = dict.fromkeys(point for _, point in points)
        lacking = [
            f"llmperf: load {point.name} cannot be measured here: {point.missing}" for point in loads if point.missing
        ]
        return "\n".join([f"llmperf: {measured} on {on}, {gpus}{mode}", *lacking, *self.outlook()])

    def outlook(self) -> list[str]:
        """Returns lines on points that cannot be compared whatever is measured."""
        return [f"llmperf: {line}" for line in outlook(self.program, self.judge, self.gpus)]

    def totals(self) -> str:
        """Returns a line on all that the session would start, send and take."""
        return totals(self.program, lambda planned: run_seconds(planned, self.judge, self.gpus))


def prepare(given: Mapping[str, Any], root: Path, invoked_from: Path) -> Preparation:
    """Returns what one session begins with; `given` options as make_options takes them, and the ini's margins."""
    options = make_options(given, root, invoked_from)
    collection = Collection(options)
    margins: Mapping[str, float] = {}
    try:
        margins = ini_margins(given["margins"])
    except PlanError as error:
        collection.errors.append(str(error))
    is_new = not (given["output"] or options.resume)
    folder = RunFolder(options.output, dialect=options.dialect, commit=git_sha(root), is_new=is_new)
    part = os.environ.get(PART)
    return Preparation(options, visible_gpus(), folder, collection, margins, part, given["gate"])


def _work(planned: PlannedTest, recording: Recording) -> PointWork:
    """Returns what is known beforehand of the time that a test takes."""
    server, point = planned.server, planned.point
    configs = sides(server)
    run_s = describe.load_seconds(point)
    gated = DUET.baseline_runs if len(configs) > 1 else RECORDED_RUNS if recording == "everything" else 0
    return PointWork(
        test=planned.test,
        server=server.name,
        engine=configs[0].engine,
        load=point.name,
        runs=max(planned.runs, gated if "baseline" in planned.gates else 0),
        run_s=None if run_s is None else run_s * len(configs),
        open_ended=point.stability is not None,
    )
