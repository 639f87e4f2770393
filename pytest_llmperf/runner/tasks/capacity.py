"""The searches of one point on one server while they go on: offers a level, judges it, asks for the next."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from pytest_llmperf.errors import ServerError
from pytest_llmperf.load.driver import Progress
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.capacity.bracket import (
    ENDS,
    BracketStart,
    LevelSearch,
    LevelTrial,
    concluded,
    most_levels,
    next_level,
)
from pytest_llmperf.metrics.capacity.length import lengthened
from pytest_llmperf.metrics.capacity.level import Execution, judge_level
from pytest_llmperf.metrics.result import Result, make_result
from pytest_llmperf.metrics.summary import metric_values, summarize
from pytest_llmperf.metrics.trust.saturation import arrival_spread, saturation
from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.records import Run
from pytest_llmperf.runner.measure.measurement import Measurement
from pytest_llmperf.runner.program import PlannedTest
from pytest_llmperf.runner.progress.live import View
from pytest_llmperf.runner.resume.stored_point import StoredSide
from pytest_llmperf.servers.server import LlmServer, in_thread
from pytest_llmperf.telemetry.environment import Environment

MOST_REPEATS = 3
"""Executions of a level that is in doubt, in a first search."""
_LATER_REPEATS = 2
"""The same in a later one, which is a repeat itself."""
_TIMEOUT_FACTOR = 20.0
_LEAST_TIMEOUT_S = 30.0
"""A request may take this many times the longest of the levels that held, and this long at least; then the client
breaks it off, so that a server that no longer gets along is left alone."""
MakeProgress = Callable[[int, float, int], Progress | None]
"""Makes the progress of a level, from the number of levels before it, the level, and how often it was executed."""


class Searcher:
    """One capacity search after the other; every later one begins where the first one ended."""

    def __init__(
        self, server: LlmServer, point: LoadPoint, on_run: Callable[[Run, float], None], workers: int | None = None
    ) -> None:
        """`on_run` gets every execution of a level as it ends, an interrupted one too, and the level."""
        assert point.capacity is not None, "a point without a capacity is measured as it is"
        self.server, self.point, self.asked = server, point, point.capacity
        self.searches: list[LevelSearch] = []
        self.shown: list[tuple[float, Run]] = []
        """An execution, per search, of the highest level that held, else of the lowest."""
        self.trials: list[LevelTrial] = []
        """Levels tried by the search that is under way."""
        self._on_run, self._workers = on_run, workers
        self._hash = search_hash(point)
        self._ceiling: LevelTrial | None = None
        self._longest_s: float | None = None
        self._top: tuple[float, Run] | None = None

    @property
    def capacity(self) -> Capacity:
        """The answer of the searches so far; one that was broken off counts when there is no other."""
        searches = self.searches or ([concluded(self.trials, self.asked, interrupted=True)] if self.trials else [])
        return Capacity(self.asked, tuple(searches), arrival_spread(self.point) > 0)

    @property
    def runs(self) -> tuple[tuple[float, Run], ...]:
        """The runs that reports show for the point, one per search, each with its level."""
        under_way = [self._top] if self._top and not self.searches else []
        return (*self.shown, *under_way)

    async def run(self, progress_of: MakeProgress) -> None:
        """One search. Raises ServerError when the server was dead before it began, or does not come up again."""
        self.trials, self._top = [], None
        ceiling = float("inf") if self._ceiling is None else self._ceiling.level
        first = self.searches[0] if self.searches else None
        start = None if first is None or first.holds is None else BracketStart(first.holds, first.breaks)
        while (level := next_level(self.asked, self.trials, start, ceiling)) is not None:
            await self._try(level, progress_of)
        self.searches.append(concluded(self.trials, self.asked, self._ceiling))
        if self._top is not None:
            self.shown.append(self._top)
        if self.trials[-1].verdict in ENDS:
            self._ceiling = self.trials[-1]
        if self.trials[-1].verdict == "DIED":
            await in_thread(self.server, self.server.relaunch)

    async def _try(self, level: float, progress_of: MakeProgress) -> None:
        """Executes a level until its verdict is sure, and notes it as a trial."""
        point = level_point(self.point, level, self._read_timeout(), self._longest_s)
        done: list[Run] = []
        executions: list[Execution] = []
        trial = None
        is_random = arrival_spread(point) > 0
        repeats = _LATER_REPEATS if self.searches and not is_random else MOST_REPEATS
        while trial is None or not (trial.sure or len(executions) >= repeats):
            if is_random or not executions:
                drawn = drawn_anew(point, len(self.searches) * MOST_REPEATS + len(executions)) if is_random else point
                measurement = Measurement(
                    self.server, drawn, self.point.name, lambda run: self._keep(done, run, level), self._workers
                )
            try:
                await measurement.run(progress_of(len(self.trials), level, len(executions)))
            except ServerError as error:
                self._died(level, executions, error, done)
                return
            run = done[-1]
            # Requests that fail in the lead-in make a run INVALID elsewhere; here they say that the server gave out.
            failed = [record.error for record in run.records if record.phase == "lead-in" and record.error]
            gave_out = f"{len(failed)} requests of the lead-in failed (first: {failed[0]})" if failed else ""
            invalid = () if failed else invalid_reasons([run], point)
            facts = (summarize(run, point), saturation(run, point), invalid, run.client.achieved_rate, gave_out)
            limited = {limit.metric for limit in self.asked.sla if limit.stat}
            executions.append(Execution(*facts, metric_values(run, limited) if is_random else {}))
            trial = judge_level(level, self.asked.sla, executions)
        self._note(trial, done)

    def _read_timeout(self) -> float:
        longest_s = self._longest_s
        if longest_s is None:
            return self.point.read_timeout
        return min(self.point.read_timeout, max(_LEAST_TIMEOUT_S, _TIMEOUT_FACTOR * longest_s))

    def _keep(self, done: list[Run], run: Run, level: float) -> None:
        if run.records:
            done.append(dataclasses.replace(run, index=len(self.searches)))
            self._on_run(done[-1], level)

    def _note(self, trial: LevelTrial, done: Sequence[Run]) -> None:
        """A search is shown by the highest level that holds (no later one is lower); without one by the lowest."""
        self.trials.append(trial)
        holds = trial.verdict == "HOLDS"
        if holds:
            self._longest_s = max(self._longest_s or 0.0, *map(_seconds, done))
        none_yet = not any(earlier.verdict == "HOLDS" for earlier in self.trials)
        if done and (holds or (none_yet and (self._top is None or trial.level < self._top[0]))):
            self._top = trial.level, dataclasses.replace(done[-1], trace_hash=self._hash)

    def _died(self, level: float, executions: Sequence[Execution], error: ServerError, done: Sequence[Run]) -> None:
        """A server that is gone before a level was offered went at the one before."""
        if not self.trials and not done:
            raise error
        if not done and self.trials[-1].verdict == "FAILS":
            last = self.trials.pop()
            self.trials.append(dataclasses.replace(last, verdict="DIED", reason=f"{last.reason}; then {error}"))
            return
        known = judge_level(level, self.asked.sla, executions) if executions else LevelTrial(level, "DIED", True, "")
        self._note(dataclasses.replace(known, verdict="DIED", sure=True, reason=str(error)), done)


def _seconds(run: Run) -> float:
    """The longest request, from sent to end."""
    return max(((r.end_ns - r.sent_ns) / 1e9 for r in run.records if r.sent_ns is not None), default=0.0)


def drawn_anew(point: LoadPoint, number: int) -> LoadPoint:
    """The same load with other random arrivals; number 0 has those of the point's own seed.

    An answer found on one draw alone would be that draw's, and its interval would not know it.
    """
    if not number:
        return point
    text = f"{point.name} {number}" if point.seed is None else f"{point.seed} {number}"
    return point.model_copy(update={"seed": int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")})


def level_point(
    point: LoadPoint, level: float, read_timeout: float | None = None, service_s: float | None = None
) -> LoadPoint:
    """The load at one level of a point's search; `service_s` is the longest request of the levels that held.

    The load's requests or duration are the least: an open loop lasts long enough for its queue to show, and in a closed
    loop every slot has two requests.
    """
    asked = point.capacity
    assert asked is not None, "a point without a capacity has no levels"
    changes: dict[str, Any] = {"capacity": None, "sla": asked.sla, "read_timeout": read_timeout or point.read_timeout}
    if asked.request_rate is not None:
        named = {"name": f"{point.name}-{level:.15g}rps", "request_rate": level}
        return lengthened(point, level, service_s).model_copy(update={**changes, **named})
    slots = int(level)
    turns = (point.conversation.turns if point.conversation else None) or 1
    requests = None if point.requests is None else max(point.requests, 2 * slots * turns)
    named = {"name": f"{point.name}-c{slots}", "concurrency": slots, "requests": requests}
    return point.model_copy(update={**changes, **named})


def sent_hash(point: LoadPoint) -> str:
    """Returns the identity of what a point sends: of a capacity what is searched, else its trace's hash."""
    return search_hash(point) if point.capacity else make_trace(point, point.name).hash


def search_hash(point: LoadPoint) -> str:
    """Identity of what is searched: what level 1 sends, and what a level must meet. The range is no part of it."""
    asked = point.capacity
    assert asked is not None, "a point without a capacity has no search"
    level = level_point(point, 1).model_copy(update={"requests": point.requests, "duration": point.duration})
    facts = [make_trace(level, point.name).hash, asked.quantity.metric, sorted(map(str, asked.sla))]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def capacity_result(
    point_id: str,
    config: ServerConfig,
    point: LoadPoint,
    environment: Environment,
    searches: Sequence[LevelSearch],
    shown: Sequence[tuple[float, Run]],
) -> Result:
    """The result of a point whose capacity was searched: the estimates, beside the metrics at the highest level that
    holds.

    `shown`: the runs that the searches are shown by, with their levels.
    """
    asked = point.capacity
    assert asked is not None, "a point without a capacity has no searches"
    capacity = Capacity(asked, tuple(searches), arrival_spread(point) > 0)
    runs = [run for _, run in shown]
    everything = make_result(point_id, config, point, environment, runs)
    estimates = {capacity.quantity.metric: [search.estimate for search in capacity.searches]}
    top = capacity.holds if any(level == capacity.holds for level, _ in shown) else shown[-1][0] if shown else None
    at_top = make_result(point_id, config, point, environment, [run for level, run in shown if level == top])
    return dataclasses.replace(
        everything,
        capacity=capacity,
        summaries=tuple(
            summary.with_scalars({name: values[place] for name, values in estimates.items()})
            for place, summary in enumerate(everything.summaries)
        ),
        metrics=at_top.metrics.with_scalars({capacity.quantity.metric: capacity.value}),
        invalid_reasons=_invalid(capacity, at_top),
    )


def _invalid(capacity: Capacity, at_top: Result) -> tuple[str, ...]:
    """A level that could not be offered only bounds the answer, unless it was the lowest."""
    lowest = [search for search in capacity.searches if search.ended == "invalid" and search.holds is None]
    if lowest:
        return tuple(search.stopped_by.reason for search in lowest if search.stopped_by)
    return at_top.invalid_reasons if not capacity.searches else ()


class CapacitySide:
    """One server of a point, and its searches: a run is one whole search."""

    def __init__(self, server: LlmServer, planned: PlannedTest, keep: Callable[[LlmServer, Run, float], None]) -> None:
        """`keep` gets every execution of a level as it ends, an interrupted one too, and the level."""
        self.server = server
        self._planned = planned
        self._searcher = Searcher(server, planned.point, partial(keep, server), planned.workers)

    @property
    def count(self) -> int:
        return len(self._searcher.searches)

    @property
    def is_done(self) -> bool:
        """True if a search found no level that holds: another would offer the same lowest level."""
        return any(search.estimate is None for search in self._searcher.searches)

    def run(self, view: View) -> Awaitable[None]:
        if view.live.show is None:
            return self._searcher.run(lambda tried, level, repeat: None)
        return self._searcher.run(lambda *level: partial(self._show, view, *level))

    def result(self, name: str, point: LoadPoint, environment: Environment) -> Result:
        searches, shown = self._searcher.capacity.searches, self._searcher.runs
        return capacity_result(name, self.server.config, point, environment, searches, shown)

    def stored(self, environment: Environment) -> StoredSide:
        shown = self._searcher.runs
        return StoredSide(
            environment,
            runs=tuple(run for _, run in shown),
            levels=tuple(level for level, _ in shown),
            searches=self._searcher.capacity.searches,
        )

    def _show(self, view: View, tried: int, level: float, repeat: int, *counts: int) -> None:
        """`counts` are those of the level's requests: done, in all, and failed."""
        done, total, failed = counts
        asked, number = self._planned.point.capacity, self.count + 1
        unit = " req/s" if asked and asked.request_rate else " in flight"
        again = f" (repeat {repeat})" if repeat else ""
        trouble = f", {failed} failed" if failed else ""
        view.live.line(
            f"{view.live.head}{view.name}: search {number}/{max(self._planned.runs, number)}, level {tried + 1} of "
            f"at most {most_levels(asked) if asked else 0}: {level:g}{unit}{again}, {done}/{total} requests{trouble}"
        )
