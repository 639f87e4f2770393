"""Points of an interrupted session that need not be measured again, and what is stored so that it can be continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.gate.baselines.fingerprint import changes
from pytest_llmperf.metrics.result import Result, make_result
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.runner.program import PlannedTest
from pytest_llmperf.runner.resume.files import read_points, write_point
from pytest_llmperf.runner.resume.stored_point import SCHEMA, StoredPoint, StoredSide, asked_json, other_than
from pytest_llmperf.runner.tasks.capacity import capacity_result, sent_hash
from pytest_llmperf.runner.tasks.task import Task
from pytest_llmperf.servers.duet import Duet, sides
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.telemetry.environment import environment
from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.units import counted


@dataclass(frozen=True, slots=True)
class ResumedPoint:
    """A point that the continued session measured completely."""

    point: StoredPoint

    def other_engine(self, server: LlmServer) -> str | None:
        """Says in what the engine that runs now is another than the one that was measured; None when it is the same."""
        then = self.point.sides[-1].environment
        measured = {"engine_version": then.engine_version, "deployment": then.deployment}
        running = {"engine_version": server.version, "deployment": server.deployment}
        return "; ".join(sentence for _, sentence in changes(measured, running)) or None

    def result(self, planned: PlannedTest) -> Result:
        """Returns the result as it was when the point had been measured."""
        pairs = zip(sides(planned.server), self.point.sides, strict=True)
        *before, now = (_side_result(config, planned.point, stored) for config, stored in pairs)
        return replace(now, point_id=planned.point_id, reference=before[0] if before else None)


@dataclass(frozen=True, slots=True)
class Resumed:
    """The points of this session's tests that the continued session holds."""

    points: dict[str, ResumedPoint]
    """Points by test; these tests measure nothing. One that the running server refutes is taken out."""
    begun: Mapping[str, ResumedPoint] = field(default_factory=dict)
    """Points by test that have runs, and fewer than their gate takes: these are kept, and the missing ones added."""
    notes: tuple[str, ...] = ()
    """Sentences about points that are there and are measured again."""

    def began(self, test: str, now: datetime) -> datetime:
        """Returns when the session that measured the test's point was started; `now` is this one's start."""
        return self.points[test].point.session if test in self.points else now


def read_resumed(
    folder: RunFolder,
    tests: Mapping[str, PlannedTest],
    gpus: Sequence[Gpu],
    runs_wanted: Callable[[str, Result], int],
    stored_requests: Callable[[str, Result], int | None] = lambda test, result: None,
) -> Resumed:
    """Reads the points of the session in `folder` that still hold; `runs_wanted` is what its gate takes at least, and
    `stored_requests` gives the requests per run of what its result will be held against.
    """
    stored, notes = read_points(folder.output)
    if not stored:
        notes.append(f"--llmperf-resume: no measured points in {folder.output}, so everything is measured")
    points: dict[str, ResumedPoint] = {}
    begun: dict[str, ResumedPoint] = {}
    for test, planned in tests.items():
        if test not in stored or planned.point.missing is not None:
            continue
        found = ResumedPoint(stored[test])
        why = _refused(found, planned, gpus) or _other_length(found, planned, stored_requests)
        has, wanted = (0, 0) if why else _runs(found, planned, runs_wanted)
        if has < wanted and _grows(planned):
            begun[test] = found
            added = f"{wanted - has} added, since {wanted} are needed now"
            notes.append(f"{planned.point_id}: {counted(has, 'run')} kept, and {added}")
        elif why or has < wanted:
            why = why or f"it has {has} runs, and {wanted} are needed now"
            notes.append(f"{planned.point_id} is measured again, not resumed: {why}")
        else:
            points[test] = found
    return Resumed(points, begun, tuple(notes))


def _runs(found: ResumedPoint, planned: PlannedTest, runs_wanted: Callable[[str, Result], int]) -> tuple[int, int]:
    """Returns how many runs a stored point has, and how many its gate takes at least."""
    result = found.result(planned)
    return len(result.runs), runs_wanted(planned.test, result) if "baseline" in planned.gates else 0


def _grows(planned: PlannedTest) -> bool:
    """True if runs can be added later; a duet's come in pairs, and windows until stable in one go."""
    point = planned.point
    return point.capacity is None and point.stability is None and not isinstance(planned.server, Duet)


def _refused(found: ResumedPoint, planned: PlannedTest, gpus: Sequence[Gpu]) -> str:
    """Says why a stored point cannot stand for the planned one; empty when it can."""
    judged = environment(sides(planned.server)[-1], None, gpus)
    differences = other_than(found.point, _asked(planned), judged)
    return "; ".join(differences or _other_trace(found.point, planned.point))


def _other_length(
    found: ResumedPoint, planned: PlannedTest, stored_requests: Callable[[str, Result], int | None]
) -> str:
    """Says that the runs of a point whose length is left open are not as long as those of its baseline; empty where
    they are.
    """
    if planned.point.length is None or "baseline" not in planned.gates or isinstance(planned.server, Duet):
        return ""
    result = found.result(planned)
    has, wanted = result.load.requests, stored_requests(planned.test, result)
    return "" if wanted in (None, has) else f"its runs have {has} requests, and those of its baseline {wanted}"


def keep_point(task: Task, folder: RunFolder) -> None:
    """Stores a point whose measuring is complete, if its numbers may be believed; a note says so where that fails."""
    result = task.result()
    if not result.runs or result.incomparable:
        return
    stored = StoredPoint(
        schema=SCHEMA,
        test=task.test,
        asked=asked_json(_asked(task.planned)),
        session=folder.started,
        measured=datetime.now(UTC),
        sides=task.stored_sides(),
        reruns=folder.outcomes[task.test].reruns,
    )
    try:
        write_point(folder.output, file_name(task.test), stored)
    except OSError as error:
        folder.notes.append(f"{task.name} could not be kept for --llmperf-resume: {error}")


def _asked(planned: PlannedTest) -> dict[str, Any]:
    """All that must agree for a point to stand for another."""
    server = planned.server
    named = {"a": server.a, "b": server.b} if isinstance(server, Duet) else {"server": server}
    configs = {side: config.as_dict() for side, config in named.items()}
    how = {"runs": planned.runs, "workers": planned.workers, "relaunch": planned.relaunch}
    return {**configs, "load": planned.point.as_dict(), **how}


def _side_result(config: ServerConfig, point: LoadPoint, side: StoredSide) -> Result:
    name = f"{config.name}-{point.name}"
    if point.capacity is None:
        return make_result(name, config, point, side.environment, side.runs)
    shown = tuple(zip(side.levels, side.runs, strict=True))
    return capacity_result(name, config, point, side.environment, side.searches, shown)


def _other_trace(stored: StoredPoint, point: LoadPoint) -> tuple[str, ...]:
    """Files of prompts, traces and tokenizers may have changed under the same name."""
    if not (point.prompts or point.trace or point.tokenizer):
        return ()
    run = stored.sides[-1].runs[0]
    same = sent_hash(point.of_length(len(run.measured))) == run.trace_hash
    return () if same else ("a file of prompts, trace or tokenizer has changed",)
