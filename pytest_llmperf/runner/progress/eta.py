"""Progress of a session and the time left, learnt from the runs that it has measured so far. Pure.

What nothing is known of is left out, and the estimate says that it is a lower bound then: a first run of a closed loop
takes as long as the server takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

_LEAST_SHARE = 0.1
"""Share of a run's requests from which its own pace says more than other runs do."""


@dataclass(frozen=True, slots=True)
class PointWork:
    """One point that is to be measured."""

    test: str
    server: str
    engine: str
    load: str
    runs: int
    """Runs that are known to come; a gate in doubt adds more."""
    run_s: float | None = None
    """Seconds of a run by its load alone; None where they depend on the server."""
    open_ended: bool = False
    """True if it ends when its runs agree, after `runs` at the latest."""


class TimeLeft(NamedTuple):
    """Time until the session's end."""

    seconds: float
    whole: bool
    """True if all parts of it could be estimated; else `seconds` is a lower bound."""


class CurrentRun(NamedTuple):
    """The run that is being made."""

    test: str
    elapsed_s: float
    share: float
    """Share of its requests that have ended, 0..1."""


@dataclass(slots=True)
class Eta:
    """Keeps what is planned, begun and ended, and estimates what is left."""

    works: dict[str, PointWork] = field(default_factory=dict)
    """Points by test id."""
    _took: dict[str, list[float]] = field(default_factory=dict)
    _settled: set[str] = field(default_factory=set)
    _starts: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds that starting took, by engine and server."""

    def plan(self, work: PointWork) -> None:
        """A point that is known for the first time; else nothing changes."""
        self.works.setdefault(work.test, work)

    def started(self, engine: str, server: str, seconds: float) -> None:
        """A server is up after so long."""
        self._starts[engine, server] = seconds

    def ran(self, test: str, seconds: float) -> None:
        """A run of a point has ended; what it took holds its warm-up and what was done over."""
        self._took.setdefault(test, []).append(seconds)
        self._grow(test, len(self._took[test]))

    def more(self, test: str) -> None:
        """A gate wants one more run of a point."""
        self._grow(test, self.runs_of(test) + 1)

    def _grow(self, test: str, runs: int) -> None:
        if work := self.works.get(test):
            self.works[test] = replace(work, runs=max(work.runs, runs))

    def settle(self, test: str) -> None:
        """Takes note that no more runs will be made for this test."""
        self._settled.add(test)
        if work := self.works.get(test):
            self.works[test] = replace(work, runs=self.runs_of(test))

    def runs_of(self, test: str) -> int:
        """Number of the test's runs that have ended."""
        return len(self._took.get(test, ()))

    @property
    def runs(self) -> tuple[int, int]:
        """Number of runs that have ended, and of those that are known to be made in all."""
        return sum(map(self.runs_of, self.works)), sum(work.runs for work in self.works.values())

    @property
    def points(self) -> tuple[int, int]:
        """Points that have all the runs they are known to need, and all points."""
        done = sum(self._is_done(work) for work in self.works.values())
        return done, len(self.works)

    def _is_done(self, work: PointWork) -> bool:
        return work.test in self._settled or self.runs_of(work.test) >= work.runs

    def left(self, now: CurrentRun | None = None) -> TimeLeft:
        """Runs that are still to be made, and servers to be started for them."""
        open_ = [work for work in self.works.values() if not self._is_done(work)]
        parts = [*(self._work_left(work, now) for work in open_), *self._starts_left(open_)]
        return TimeLeft(sum(part.seconds for part in parts), all(part.whole for part in parts))

    def _work_left(self, work: PointWork, now: CurrentRun | None) -> TimeLeft:
        count, run_s = work.runs - self.runs_of(work.test), self._run_s(work)
        if now is None or now.test != work.test:
            return TimeLeft(count * (run_s or 0.0), run_s is not None and not work.open_ended)
        if now.share >= _LEAST_SHARE:
            run_s = now.elapsed_s / now.share if run_s is None else run_s
            current = now.elapsed_s / now.share - now.elapsed_s
        else:
            current = max(0.0, (run_s or 0.0) - now.elapsed_s)
        return TimeLeft(current + (count - 1) * (run_s or 0.0), run_s is not None and not work.open_ended)

    def _run_s(self, work: PointWork) -> float | None:
        """Seconds of a run: by its own runs, else by those of the same load on other servers, else by the load
        itself.
        """
        same = [s for w in self.works.values() if w.load == work.load for s in self._took.get(w.test, ())]
        return _mean(self._took.get(work.test, ())) or _mean(same) or work.run_s

    def _starts_left(self, works: Sequence[PointWork]) -> Iterator[TimeLeft]:
        for engine, server in dict.fromkeys((work.engine, work.server) for work in works):
            if (engine, server) not in self._starts:
                known = _mean([seconds for (kind, _), seconds in self._starts.items() if kind == engine])
                yield TimeLeft(known or 0.0, known is not None)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
