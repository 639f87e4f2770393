"""A point against its baseline: what is compared with what, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from statistics import geometric_mean
from typing import Any

from pytest_llmperf.definitions import OFFERED, Quantity, parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.answers import ChangedAnswer, is_accuracy
from pytest_llmperf.gate.baselines.fingerprint import changes, circumstances, soft_args
from pytest_llmperf.gate.baselines.model import (
    RENEW_HINT,
    Baseline,
    StoredReference,
    StoredSession,
    differences,
    per_run,
    sample_sizes,
)
from pytest_llmperf.gate.rules import DEFAULT, DUET, STRICT, Rules, Verdict
from pytest_llmperf.gate.verdict import MetricVerdict, PerRun, PointVerdict, Series
from pytest_llmperf.metrics.capacity.answer import coarsened
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.margins import (
    Prior,
    default_margins,
    duet,
    elsewhere,
    fewest_requests,
    tolerance,
)
from pytest_llmperf.plan.load.capacity import CAPACITIES
from pytest_llmperf.plan.load.point import GateProfile, LoadPoint
from pytest_llmperf.units import counted

_SHA = 9
"""Characters of a commit that are shown."""
RULES: Mapping[GateProfile, Rules] = {"default": DEFAULT, "strict": STRICT, "report-only": DEFAULT}


@dataclass(frozen=True, slots=True)
class Against:
    """The stored baseline that a point was held against: how much it is made of, and the state of the project."""

    sessions: int
    runs: int
    last: datetime
    """Start of its newest session."""
    commit: str | None
    """Commit of the project at that session; None outside git."""
    now: str | None
    """Commit of the project as it is measured now; None outside git."""

    @property
    def sentence(self) -> str:
        """`baseline of 2026-11-20 14:03 UTC at 1a2b3c4d5: 3 sessions, 11 runs`."""
        at = f" at {self.commit[:_SHA]}" if self.commit else ""
        sessions = counted(self.sessions, "session")
        return f"baseline of {self.last:%Y-%m-%d %H:%M} UTC{at}: {sessions}, {self.runs} runs"

    @property
    def provisional(self) -> str:
        """Sentence on a baseline of one session; else empty."""
        note = "the baseline is provisional: with one session, how much sessions differ is assumed, not measured"
        return note if self.sessions < 2 else ""

    @property
    def git_log(self) -> str:
        """Command that lists what changed between the two; empty outside git, and where nothing was committed."""
        if self.commit is None or self.now is None or self.commit == self.now:
            return ""
        return f"git log --oneline {self.commit[:_SHA]}..{self.now[:_SHA]}"


@dataclass(frozen=True, slots=True)
class Regression:
    """The verdict of a point against its baseline, or in a duet against the old server."""

    point: PointVerdict
    notes: tuple[str, ...] = ()
    """Soft differences between then and now (engine version, arguments), for the reader."""
    duet: tuple[str, str] | None = None
    """Names of the old and the new server; None where a stored baseline was the reference."""
    changed: tuple[ChangedAnswer, ...] = ()
    """Answers of the output guard that are new."""
    against: Against | None = None
    """The stored baseline; None in a duet."""

    @property
    def verdict(self) -> Verdict:
        """The worst metric's; IMPROVED when one did and all others at least pass."""
        return self.point.verdict

    @property
    def metrics(self) -> tuple[MetricVerdict, ...]:
        """Verdicts against the rolling baseline, then against the anchor where that is another."""
        return self.point.metrics

    @property
    def sentences(self) -> tuple[str, ...]:
        """One line per gated metric: its name, its verdict, and what decided it."""
        return tuple(f"{metric.series.quantity}: {metric.verdict}: {metric.reason}" for metric in self.metrics)


def gated_margins(point: LoadPoint, margins: Mapping[str, float]) -> dict[Quantity, float]:
    """The gated quantities of a point with their margins: the defaults and the given ones, without an open loop's
    throughput and without scores.

    For a capacity search the capacity alone: all other numbers are of a level that may be another in every session.
    """
    if point.capacity is not None:
        quantity = point.capacity.quantity
        given = margins.get(str(quantity), margins.get("capacity"))
        return {quantity: tolerance(quantity).margin if given is None else given}
    margins = {name: margin for name, margin in margins.items() if name not in CAPACITIES}
    open_loop = not point.closed_loop
    merged = {**default_margins(open_loop), **margins}
    quantities = {parse_quantity(name): margin for name, margin in merged.items()}
    offered = OFFERED if open_loop else ()
    return {q: m for q, m in quantities.items() if q.metric not in offered and not is_accuracy(q)}


def gated_series(
    baseline: Baseline, result: Result, margins: Mapping[Quantity, float]
) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """The series to compare, with the rolling baseline and with the anchor, and notes on soft differences.

    BaselineError when a hard fact differs, or when goodput is gated and counted by other limits then.
    """
    notes = differences(baseline, result).sentences
    _assert_same_goodput(baseline, result, margins)
    if baseline.imported and margins and not any(held_by(baseline.rolling, quantity) for quantity in margins):
        names = ", ".join(map(str, margins))
        raise BaselineError(f"baseline {baseline.path} is imported and has nothing of what is gated ({names})")
    rolling = _against("rolling", baseline, result, margins)
    same = {session.id for session in baseline.anchor} == {session.id for session in baseline.rolling}
    return (*rolling, *(() if same else _against("anchor", baseline, result, margins))), notes


def against(baseline: Baseline, commit: str | None) -> Against:
    """Size, age and commit of the rolling baseline, for the reader of a comparison made at `commit`."""
    last, sessions = baseline.rolling[-1], baseline.rolling
    return Against(len(sessions), sum(len(one.runs) for one in sessions), last.started, last.git_sha, commit)


def _assert_same_goodput(baseline: Baseline, result: Result, margins: Mapping[Quantity, float]) -> None:
    """BaselineError where goodput is gated and some session's counts requests by another `slo`."""
    now = result.load.slo
    then = next((s.measuring["slo"] for s in baseline.sessions if s.measuring.get("slo", now) != now), None)
    if then is not None and any(quantity.metric == "goodput" for quantity in margins):
        raise BaselineError(
            f"baseline {baseline.path} is not comparable: goodput counts by slo, which was {then}, is {dict(now)}. If "
            f"the change is meant, {RENEW_HINT}"
        )


def _against(
    reference: StoredReference, baseline: Baseline, result: Result, margins: Mapping[Quantity, float]
) -> tuple[Series, ...]:
    sessions = baseline.reference(reference)
    moved = differences(baseline, result, reference).elsewhere
    left_out = baseline.imported.left_out if baseline.imported else {}
    series = (_series(reference, quantity, margin, sessions, result, moved) for quantity, margin in margins.items())
    imported = baseline.imported is not None
    return tuple(replace(one, left_out=left_out.get(one.quantity.metric, ""), imported=imported) for one in series)


def ungated_notes(point: PointVerdict) -> list[str]:
    """Sentences on percentiles that are not gated though some of the runs compared have enough requests for them."""
    ungated = [(m.series, m.reason) for m in point.metrics if m.verdict == "NOT GATED" and not m.series.left_out]
    sentences = (
        f"{series.quantity} is not gated: {reason}"
        for series, reason in ungated
        if 0 < fewest_requests(series.quantity) <= max(series.requests, default=0)
    )
    return list(dict.fromkeys(sentences))


def held_by(sessions: Sequence[StoredSession], quantity: Quantity) -> bool:
    """True if any run of these sessions has a value."""
    return any(value is not None for runs in per_run(sessions, quantity) for value in runs)


def _series(
    reference: StoredReference,
    quantity: Quantity,
    margin: float,
    sessions: Sequence[StoredSession],
    result: Result,
    moved: bool,
) -> Series:
    prior = _prior(quantity, result)
    now = tuple(summary.n(quantity) for summary in result.summaries)
    return Series(
        quantity=quantity,
        margin=margin,
        prior=elsewhere(prior) if moved else prior,
        baseline=per_run(sessions, quantity),
        candidate=candidate(result, quantity),
        requests=(*sample_sizes(sessions, quantity.metric), *now),
        reference=reference,
    )


def _prior(quantity: Quantity, result: Result) -> Prior:
    """The metric's prior; for a capacity, widened by the distance of the two bracketing levels."""
    prior = tolerance(quantity).prior
    return prior if result.capacity is None else coarsened(prior, result.capacity.resolution)


def duet_rules(profile: GateProfile) -> Rules:
    """The rules for a point that is held against a server beside it."""
    return replace(RULES[profile], baseline_runs=DUET.baseline_runs)


def series_of_two(
    old: Result, new: Result, margins: Mapping[Quantity, float], *, apart: bool
) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """Every gated metric of the new server against the old one's, and notes on what else differs.

    All runs of a server count as one session, though it was launched anew between them: what launches differ by is then
    part of what runs differ by. `apart`: measured one after the other, so that they differ by as much as sessions do.
    """
    series = []
    for quantity, margin in margins.items():
        prior = _prior(quantity, new) if apart else duet(_prior(quantity, new))
        then, now = (tuple(summary.value(quantity) for summary in side.summaries) for side in (old, new))
        series.append(
            Series(
                quantity=quantity,
                margin=margin,
                prior=coarsened(prior, old.capacity.resolution if old.capacity else 0.0),
                baseline=(then,) if then else (),
                candidate=(now,) if now else (),
                requests=tuple(summary.n(quantity) for summary in (*old.summaries, *new.summaries)),
                reference="duet",
            )
        )
    return tuple(series), tuple(sentence for _, sentence in changes(_facts(old), _facts(new)))


def _facts(side: Result) -> dict[str, Any]:
    """The facts that may differ between the servers of a duet, because their effect is what is measured."""
    server = side.server
    return {"engine": server.engine, "model": server.model, **circumstances(side.environment, soft_args(side))}


def launch_sizes(result: Result) -> tuple[int, ...]:
    """Number of runs of each launch of the server, in order."""
    return tuple(len(list(runs)) for _, runs in groupby(result.runs, key=lambda run: run.launch))


def candidate(result: Result, quantity: Quantity) -> PerRun:
    """Per-run values by server launch."""
    runs = zip(result.runs, result.summaries, strict=True)
    launches = groupby(runs, key=lambda pair: pair[0].launch)
    return tuple(tuple(summary.value(quantity) for _, summary in launch) for _, launch in launches)


def bound_notes(
    result: Result, margins: Mapping[Quantity, float], series: Sequence[Series], profile: GateProfile = "default"
) -> list[str]:
    """Notes beside the verdict on a capacity; none of any other point.

    BaselineError where a lower bound lies below all runs of the reference, or below its mean by more than the margin:
    that is neither as good nor worse. By its mean alone a profile that only reports judges it, and warns.
    """
    capacity = result.capacity
    if capacity is None or capacity.value is None:
        return []
    notes = []
    margin, width = margins.get(capacity.quantity, 0.0), capacity.resolution
    if width > margin:
        notes.append(
            f"the capacity is known to {width:.0%} only, which is coarser than the margin of {margin:.0%}; "
            "that width is part of the interval"
        )
    if capacity.is_bound:
        held = [runs for side in series if (runs := [one for launch in side.baseline for one in launch if one])]
        mean, least = max(map(geometric_mean, held), default=0.0), min(map(min, held), default=0.0)
        if capacity.value < (least if profile == "report-only" else max(least, mean / (1 + margin))):
            raise BaselineError(
                f"{capacity.sentence}. That is below the reference's {mean:.4g}, so it cannot be told whether it got "
                "worse; widen the range, or mend what kept the client from offering more"
            )
        notes.append(f"{capacity.sentence}; what changes above that is not seen")
    return notes
