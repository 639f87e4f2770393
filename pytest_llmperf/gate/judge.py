"""All that concerns verdicts in a session: margins and rules, limits, baselines read and to be written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.answers import answer_margins, answer_verdicts, changed_answers, guard_hint
from pytest_llmperf.gate.baselines.file import read_baseline, read_stored, stored_path
from pytest_llmperf.gate.baselines.folder import unused
from pytest_llmperf.gate.baselines.growth import RECORDED_RUNS, recorded, without_session
from pytest_llmperf.gate.baselines.model import HISTOGRAMS, Baseline, StoredSession
from pytest_llmperf.gate.regression import (
    RULES,
    Regression,
    against,
    bound_notes,
    duet_rules,
    gated_margins,
    gated_series,
    series_of_two,
    ungated_notes,
)
from pytest_llmperf.gate.rules import DUET, Rules
from pytest_llmperf.gate.sla import check_sla
from pytest_llmperf.gate.verdict import MetricVerdict, Reference, Series, judge
from pytest_llmperf.metrics.answers import Answers, answers_of
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.metrics.stats.histogram import Histogram, merged
from pytest_llmperf.metrics.stats.noise import Noise, noise
from pytest_llmperf.metrics.trust.length import drift_remarks, length_remarks, run_errors, typical_errors
from pytest_llmperf.metrics.trust.regimes import regime_remarks
from pytest_llmperf.plan.load.point import GateProfile, LoadPoint
from pytest_llmperf.units import counted

Recording = Literal["nothing", "missing", "everything"]
"""The results that become baselines without a comparison: none, those of points that have none, or all."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """The reasons why the gates cannot decide yet, and whether the run that may decide needs another launch of the
    server.
    """

    reasons: tuple[str, ...] = ()
    relaunch: bool = False


class Judge:
    """Judges results by limits and against baselines; Holm's correction counts all that was gated in the session."""

    def __init__(
        self,
        folder: Path,
        *,
        profile: GateProfile | None = None,
        margins: Mapping[str, float] | None = None,
        recording: Recording = "nothing",
        commit: str | None = None,
    ) -> None:
        """`folder` holds the baselines; `profile` wins over a plan's, `margins` are replaced one by one by a plan's.

        `commit` is that of the project under test.
        """
        self.folder, self.recording = folder, recording
        self._commit = commit
        self._profile, self._margins = profile, dict(margins or {})
        self._own: dict[str, Mapping[str, float]] = {}
        self._to_come: dict[str, int] = {}
        """Number of metrics that will be compared, by test that will be compared with a baseline and was not yet."""
        self._gated: dict[str, tuple[Series, ...]] = {}
        self._checked: tuple[Result, tuple[SlaCheck, ...]] | None = None

    def expect(self, test: str, point: LoadPoint, own: Mapping[str, float], gates: frozenset[str]) -> None:
        """Adds a test that is going to be judged by these gates (names of fixtures); `own` are its marker's margins."""
        self._own[test] = own
        if "baseline" in gates:
            self._to_come[test] = len(self.margins_of(test, point))

    def settle(self, test: str) -> None:
        """Takes in that what a test was expected to compare and has not is compared no more, as when it is over."""
        self._to_come.pop(test, None)

    def file(self, test: str, result: Result) -> Path:
        """The test's baseline in the result's environment; it need not exist."""
        return stored_path(self.folder, result.environment.slug, test)

    def stored_requests(self, test: str, result: Result) -> int | None:
        """Returns the requests per run of the test's baseline, which it is compared with or added to; None without."""
        if self.recording == "everything":
            return None
        try:
            return read_baseline(self.file(test, result)).requests
        except BaselineError:
            return None

    def is_recording(self, test: str, result: Result) -> bool:
        """True if the result is to become the baseline, without a comparison; that of a duet never is."""
        if result.reference is not None or self.recording == "nothing":
            return False
        return self.recording == "everything" or not self.file(test, result).exists()

    def runs_wanted(self, test: str, result: Result) -> int:
        """Returns the least number of runs: 3 for a duet, 5 to record a baseline, else 1."""
        if result.capacity and result.capacity.value is None:
            return 1
        if result.reference is not None:
            return DUET.baseline_runs
        return RECORDED_RUNS if self.is_recording(test, result) else 1

    def profile_of(self, point: LoadPoint) -> GateProfile:
        """The name of the rules that a load is judged by."""
        return self._profile or point.gate or "default"

    def margins_of(self, test: str, point: LoadPoint) -> dict[Quantity, float]:
        """The gated quantities and the tolerated change of each: the marker's margin, the plan's, the ini's, the
        default.
        """
        return gated_margins(point, self._given_margins(test, point))

    def _given_margins(self, test: str, point: LoadPoint) -> dict[str, float]:
        return {**self._margins, **point.margins, **self._own.get(test, {})}

    def regression(self, test: str, result: Result, own: str | None = None) -> Regression:
        """The result against its baseline. BaselineError says why nothing can be compared.

        `own` is the id of the result's own session, which the baseline may hold already: it is left out.
        One of a duet is held against the old server's, and no file is read.
        """
        return self._with_length(test, self._held_against(test, result, own), result)

    def _held_against(self, test: str, result: Result, own: str | None) -> Regression:
        margins, profile = self.margins_of(test, result.load), self.profile_of(result.load)
        if old := result.reference:
            series, notes = series_of_two(old, result, margins, apart=False)
            sides = (old.server.name, result.server.name)
            notes = (*notes, *bound_notes(result, margins, series, profile))
            regression = self._judged(test, series, duet_rules(profile), notes, sides)
            return self._with_answers(test, regression, result, {"duet": [answers_of(old.runs)]}, duet_rules(profile))
        stored = read_stored(self.folder, result.environment.slug, test)
        stored = (without_session(stored, own) if own else None) or stored
        series, notes = gated_series(stored, result, margins)
        notes = (*notes, *bound_notes(result, margins, series, profile))
        regression = self._judged(test, series, RULES[profile], notes)
        regression = replace(regression, against=against(stored, self._commit))
        held = {session.id: session.answers for session in stored.anchor}
        then: dict[Reference, list[Answers | None]] = {"rolling": [session.answers for session in stored.rolling]}
        if held.keys() != {session.id for session in stored.rolling}:
            then["anchor"] = list(held.values())
        return self._with_answers(test, regression, result, then, RULES[profile])

    def _with_answers(
        self,
        test: str,
        regression: Regression,
        result: Result,
        then: Mapping[Reference, Sequence[Answers | None]],
        rules: Rules,
    ) -> Regression:
        """The regression with the verdicts on answers; `then` are the sessions' answers by reference."""
        if result.load.answers is None:
            return regression
        now, margins = answers_of(result.runs), answer_margins(result.load, self._given_margins(test, result.load))
        verdicts = tuple(
            verdict
            for reference, sessions in then.items()
            for verdict in answer_verdicts(reference, sessions, now, result.load, margins, rules)
        )
        changed = tuple(changed_answers(next(iter(then.values())), now))
        hint = guard_hint(verdicts, any(one.then is not None for one in changed))
        notes = (*regression.notes, *([hint] if hint else []))
        return replace(regression, point=regression.point.with_more(verdicts), notes=notes, changed=changed)

    def regression_apart(self, name: str, old: Result, new: Result) -> Regression:
        """Two results that were measured one after the other, from files; every run of both is taken as it is."""
        series, notes = series_of_two(old, new, self.margins_of(name, new.load), apart=True)
        rules = duet_rules(self.profile_of(new.load))
        return self._judged(name, series, rules, notes, (old.server.name, new.server.name))

    def _with_length(self, test: str, found: Regression, result: Result) -> Regression:
        """The regression with what makes its runs worth little, where it is in doubt or a FAIL."""
        if result.capacity is not None or found.verdict not in ("INCONCLUSIVE", "FAIL"):
            return found
        margins = self.margins_of(test, result.load)
        errors = run_errors(result.runs, margins)
        sds = {m.series.quantity: m.estimate.run_sd for m in found.metrics if m.estimate}
        own = typical_errors(errors, sds)
        short = length_remarks(result.runs, own, margins) if found.verdict == "INCONCLUSIVE" else ()
        metrics = tuple(replace(m, noise=_noise_of(m, own.get(m.series.quantity))) for m in found.metrics)
        regimes = regime_remarks(result.runs) if result.is_one_closed_loop else ()
        notes = (*found.notes, *short, *regimes, *drift_remarks(errors, margins))
        return replace(found, point=replace(found.point, metrics=metrics), notes=notes)

    def _judged(
        self,
        test: str,
        series: tuple[Series, ...],
        rules: Rules,
        notes: Sequence[str],
        duet: tuple[str, str] | None = None,
    ) -> Regression:
        self._gated[test] = series
        self._to_come.pop(test, None)
        point = judge(self._gated, rules, sum(self._to_come.values()))[test]
        return Regression(point, (*notes, *ungated_notes(point)), duet)

    def histograms(self, test: str, result: Result, before: datetime) -> dict[str, Histogram]:
        """The baseline's latencies by metric, of all rolling runs but those of the session begun at `before`."""
        try:
            stored = read_baseline(self.file(test, result))
        except BaselineError:
            return {}
        begun = before.astimezone(UTC).replace(microsecond=0)
        runs = [run for session in stored.rolling if session.started != begun for run in session.runs]
        pooled = {name: merged(run.histograms.get(name, {}) for run in runs) for name in HISTOGRAMS}
        return {name: histogram for name, histogram in pooled.items() if histogram}

    def sla(self, result: Result) -> tuple[SlaCheck, ...]:
        """Every limit of the result's load; computed once for the result that was asked for last."""
        if self._checked is None or self._checked[0] is not result:
            rules = RULES[self.profile_of(result.load)]
            self._checked = result, check_sla(result.load.sla, result, rules.limit_runs)
        return self._checked[1]

    def failed_requests(self, result: Result) -> tuple[str, ...]:
        """Sentences on a broken limit of failed requests: a server is fast while it refuses. Empty where none is.

        In a duet those of the old server count too, by its name.
        """
        broken = [check for check in self.sla(result) if check.limit.metric == "error_rate" and not check.ok]
        found = (*(check.describe() for check in broken), *result.failures) if broken else ()
        if (old := result.reference) is None:
            return found
        return (*(f"{old.server.name}: {line}" for line in self.failed_requests(old)), *found)

    def doubt(self, test: str, result: Result, gates: frozenset[str]) -> Doubt:
        """Returns why the verdicts of these gates need one more run, if they do."""
        if result.incomparable or (result.capacity and result.capacity.value is None):
            self.settle(test)
            return Doubt()
        if "baseline" in gates:
            if self.is_recording(test, result):
                self.settle(test)
            wanted = self.runs_wanted(test, result)
            if wanted > len(result.runs):
                why = f"a duet, which takes {wanted} runs of both servers"
                return Doubt((why if result.reference else f"a baseline, which takes {wanted} runs",))
            if self.is_recording(test, result):
                return Doubt()
        open_ = [check.describe() for check in self.sla(result) if check.undecided] if "sla" in gates else []
        if "baseline" not in gates:
            return Doubt(tuple(open_))
        try:
            point = self.regression(test, result).point
        except BaselineError:
            self.settle(test)
            return Doubt(tuple(open_))
        gated = [f"{m.series.quantity}: {m.reason}" for m in point.metrics if m.undecided] if point.run_again else []
        return Doubt((*open_, *gated), point.relaunch)

    def recorded(self, test: str, result: Result, session: StoredSession) -> Baseline:
        """Returns the baseline that the result makes, to be written once its test has passed.

        Raises BaselineError for fewer than 5 runs, as where a budget was spent: nothing could be compared with them.
        """
        if len(result.runs) < RECORDED_RUNS:
            has = counted(len(result.runs), "run")
            raise BaselineError(f"the result has {has}; a baseline takes {RECORDED_RUNS}, so nothing was recorded")
        scores = answer_margins(result.load, self._given_margins(test, result.load))
        margins = {**self.margins_of(test, result.load), **scores}
        return recorded(self.file(test, result), test, result, session, margins)

    def holds(self, test: str, result: Result, session: str) -> bool:
        """True if the test's baseline was made by this very session and no other. Raises BaselineError when it is
        damaged.
        """
        return without_session(read_baseline(self.file(test, result)), session) is None

    def unused(self, slugs: Collection[str], tests: Collection[str]) -> Iterator[str]:
        """Yields a sentence on each baseline beside those of these tests that none of them asks for."""
        folders = {stored_path(self.folder, slug, test).parent for slug in slugs for test in tests}
        for path in unused(self.folder, slugs, tests):
            if path.parent in folders:
                yield f"no test asks for baseline {path}; remove it with `llmperf baseline prune`"


def _noise_of(metric: MetricVerdict, own_error: float | None) -> Noise | None:
    series, estimate = metric.series, metric.estimate
    sides = (series.baseline, series.candidate)
    then, now = ([sum(value is not None for value in runs) for runs in side if runs] for side in sides)
    return None if estimate is None else noise(estimate, series.prior, then, now, own_error)
