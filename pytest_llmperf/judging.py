"""What a session gates: margins and rules as options, plans and markers give them, and the verdicts over all points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baseline_file import assert_holds, read_baseline, stored_path
from pytest_llmperf.gate.baselines import HISTOGRAMS
from pytest_llmperf.gate.bounds import bound_notes
from pytest_llmperf.gate.compliance import SlaCheck
from pytest_llmperf.gate.growth import without_session
from pytest_llmperf.gate.histogram import Histogram, merged
from pytest_llmperf.gate.regression import (
    RULES,
    Regression,
    duet_rules,
    duet_series,
    gated_margins,
    gated_series,
)
from pytest_llmperf.gate.rules import Rules
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.gate.verdict import PointVerdict, Series, judge
from pytest_llmperf.load_spec import GateProfile, LoadPoint
from pytest_llmperf.result import Result


@dataclass(slots=True)
class Judging:
    """Mutable on purpose: Holm's correction counts all that was gated in the session."""

    folder: Path
    """Of the baselines."""
    profile: GateProfile | None
    """The option's, which wins over a plan's."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """The ini file's, which a plan's and a marker's replace one by one."""
    own: dict[str, Mapping[str, float]] = field(default_factory=dict)
    """By test: the marker's margins."""
    to_come: dict[str, int] = field(default_factory=dict)
    """By test that will be held against a baseline and was not yet: how many metrics that will be."""
    _gated: dict[str, tuple[Series, ...]] = field(default_factory=dict)

    def file(self, test: str, slug: str) -> Path:
        """The test's baseline in the environment called `slug`; it need not exist."""
        return stored_path(self.folder, slug, test)

    def profile_of(self, point: LoadPoint) -> GateProfile:
        return self.profile or point.gate or "default"

    def margins_of(self, test: str, point: LoadPoint) -> dict[Quantity, float]:
        """What is gated and how much change is tolerated: the marker's margin, the plan's, the ini's, the default."""
        return gated_margins(point, {**self.margins, **point.margins, **self.own.get(test, {})})

    def expect(self, test: str, point: LoadPoint) -> None:
        """Says that the test will be held against a baseline."""
        self.to_come[test] = len(self.margins_of(test, point))

    def regression(self, test: str, result: Result, own: str | None = None) -> Regression:
        """The result against its baseline. BaselineError says why nothing can be compared.

        `own` is the id of the result's own session, which the baseline may hold already: it is left out.
        One of a duet is held against the old server's, and no file is read.
        """
        margins, profile = self.margins_of(test, result.load), self.profile_of(result.load)
        if old := result.reference:
            series, notes = duet_series(old, result, margins)
            sides = (old.server.name, result.server.name)
            notes = (*notes, *bound_notes(result, margins, series))
            return Regression(self._judged(test, series, duet_rules(profile)), notes, sides)
        path = self.file(test, result.environment.slug)
        assert_holds(path, test)
        stored = read_baseline(path)
        stored = (without_session(stored, own) if own else None) or stored
        series, notes = gated_series(stored, result, margins)
        notes = (*notes, *bound_notes(result, margins, series))
        return Regression(self._judged(test, series, RULES[profile]), notes)

    def _judged(self, test: str, series: tuple[Series, ...], rules: Rules) -> PointVerdict:
        self._gated[test] = series
        self.to_come.pop(test, None)
        return judge(self._gated, rules, sum(self.to_come.values()))[test]

    def histograms(self, test: str, result: Result, before: datetime) -> dict[str, Histogram]:
        """The baseline's latencies by metric, of all rolling runs but those of the session begun at `before`."""
        try:
            stored = read_baseline(self.file(test, result.environment.slug))
        except BaselineError:
            return {}
        begun = before.astimezone(UTC).replace(microsecond=0)
        runs = [run for session in stored.rolling if session.started != begun for run in session.runs]
        pooled = {name: merged(run.histograms.get(name, {}) for run in runs) for name in HISTOGRAMS}
        return {name: histogram for name, histogram in pooled.items() if histogram}

    def sla(self, result: Result) -> tuple[SlaCheck, ...]:
        """Every limit of the result's load."""
        rules = RULES[self.profile_of(result.load)]
        return check_sla(result.load.sla, result, rules.most_runs)

    def doubt(self, test: str, result: Result, gates: frozenset[str]) -> Doubt:
        """Whether one more run may change a verdict of these gates (names of fixtures)."""
        open_ = [check.describe() for check in self.sla(result) if check.undecided] if "sla" in gates else []
        if "baseline" not in gates:
            return Doubt(tuple(open_))
        try:
            point = self.regression(test, result).point
        except BaselineError:
            return Doubt(tuple(open_))
        gated = [f"{m.series.quantity}: {m.reason}" for m in point.metrics if m.undecided] if point.run_again else []
        return Doubt((*open_, *gated), point.relaunch)


@dataclass(frozen=True, slots=True)
class Doubt:
    """What the gates cannot decide yet, and whether the run that may tell needs another launch of the server."""

    reasons: tuple[str, ...] = ()
    relaunch: bool = False
