"""Points of an interrupted session that need not be measured again, and what is stored so that it can be continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf.capacity.search import capacity_result, search_hash
from pytest_llmperf.duet import Duet
from pytest_llmperf.file_names import file_name
from pytest_llmperf.load.prompts import make_trace
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.result import Result, make_result
from pytest_llmperf.resume import read_points, write_point
from pytest_llmperf.server_spec import ServerConfig
from pytest_llmperf.session import Session
from pytest_llmperf.stored_point import SCHEMA, StoredPoint, StoredSide, asked_json, other_than
from pytest_llmperf.task import Task
from pytest_llmperf.telemetry.environment import Environment


@dataclass(slots=True)
class Takeover:
    """Mutable on purpose: what the continued session holds, and which of it this one has taken."""

    session: Session
    stored: dict[str, StoredPoint] = field(default_factory=dict)
    """By test; what this session cannot use is taken out."""
    taken: dict[str, StoredPoint] = field(default_factory=dict)
    """Those whose tests will not measure."""

    def read(self) -> None:
        """What the session's folder holds; files that are not whole become notes."""
        self.stored, notes = read_points(self.session.output)
        self.session.notes += notes
        if not self.stored:
            self.session.notes.append(
                f"--llmperf-resume: no measured points in {self.session.output}, so everything is measured"
            )

    def take(self, test: str, name: str, asked: Mapping[str, Any], environment: Environment, point: LoadPoint) -> bool:
        """Whether the test's point is there as `asked`; a note says why one that is there is not used."""
        stored = self.stored.get(test)
        if stored is None:
            return False
        why = other_than(stored, asked, environment) or _other_trace(stored, point)
        if why:
            self.refuse(test, name, "; ".join(why))
            return False
        self.taken[test] = stored
        return True

    def refuse(self, test: str, name: str, why: str) -> None:
        """The point is measured anew."""
        self.taken.pop(test, None)
        self.session.notes.append(f"{name} is measured again, not taken over: {why}")

    def result(self, test: str, server: ServerConfig | Duet, point: LoadPoint) -> Result:
        """As it was when the point had been measured."""
        configs = (server.a, server.b) if isinstance(server, Duet) else (server,)
        *before, now = (
            _side_result(config, point, side) for config, side in zip(configs, self.taken[test].sides, strict=True)
        )
        return replace(now, point_id=f"{server.name}-{point.name}", reference=before[0] if before else None)

    def keep(self, task: Task, asked: Mapping[str, Any], reruns: tuple[str, ...]) -> None:
        """Store a point whose measuring is complete."""
        stored = StoredPoint(
            schema=SCHEMA,
            test=task.test,
            asked=asked_json(asked),
            session=self.session.started,
            measured=datetime.now(UTC),
            sides=task.stored_sides(),
            reruns=reruns,
        )
        try:
            write_point(self.session.output, file_name(task.test), stored)
        except OSError as error:
            self.session.notes.append(f"{task.name} could not be kept for --llmperf-resume: {error}")


def _side_result(config: ServerConfig, point: LoadPoint, side: StoredSide) -> Result:
    name = f"{config.name}-{point.name}"
    if point.capacity is None:
        return make_result(name, config, point, side.environment, side.runs)
    shown = tuple(zip(side.levels, side.runs, strict=True))
    return capacity_result(name, config, point, side.environment, side.searches, shown)


def asked_of(
    server: ServerConfig | Duet, point: LoadPoint, runs: int, workers: int | None, relaunch: str
) -> dict[str, Any]:
    """All that must agree for a point to stand for another."""
    sides = {"a": server.a, "b": server.b} if isinstance(server, Duet) else {"server": server}
    configs = {side: config.as_dict() for side, config in sides.items()}
    return {**configs, "load": point.as_dict(), "runs": runs, "workers": workers, "relaunch": relaunch}


def _other_trace(stored: StoredPoint, point: LoadPoint) -> tuple[str, ...]:
    """Files of prompts, traces and tokenizers may have changed under the same name."""
    if not (point.prompts or point.trace or point.tokenizer):
        return ()
    now = search_hash(point) if point.capacity else make_trace(point, point.name).hash
    same = now == stored.sides[-1].runs[0].trace_hash
    return () if same else ("a file of prompts, trace or tokenizer has changed",)
