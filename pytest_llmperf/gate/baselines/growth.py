"""Makes baselines and extends them: recorded, appended to by sessions that pass, accepted by a person. Pure."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pytest_llmperf.definitions import METRICS, Quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.fingerprint import identity, soft_args
from pytest_llmperf.gate.baselines.model import (
    HISTOGRAMS,
    QUANTITIES,
    Baseline,
    StoredRun,
    StoredSession,
    assert_comparable,
)
from pytest_llmperf.gate.load_facts import measured_how
from pytest_llmperf.metrics.answers import answers_of
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.histogram import histogram
from pytest_llmperf.metrics.summary import Summary, metric_values, rounded
from pytest_llmperf.records import Run

RECORDED_RUNS = 5
"""Runs to measure for a baseline's first session: with fewer there is nothing to gate against."""
APPENDED_RUNS = 3
"""Runs that a later session adds. Not more, or sessions that had to be rerun would count for more than quiet ones."""
ROLLING_SESSIONS = 8
ANCHOR_SESSIONS = 5
"""Sessions from which on the spread between sessions can be estimated instead of assumed."""


def stored_session(
    result: Result, started: datetime, git_sha: str | None, launches: Sequence[int] | None = None
) -> StoredSession:
    """The part of a result that a baseline keeps. `launches`: number of runs of each server launch, in order; None: one
    launch.

    BaselineError when the result has no run, ValueError when the launches do not add up to its runs.
    """
    runs = tuple(map(stored_run, result.summaries, result.runs))
    if not runs:
        raise BaselineError(f"{result.point_id} has no run, so there is nothing to make a baseline of")
    launches = (len(runs),) if launches is None else launches
    if sum(launches) != len(runs) or min(launches) < 1:
        raise ValueError(f"launches of {list(launches)} runs do not add up to {len(runs)} runs")
    rest = iter(runs)
    started = started.astimezone(UTC).replace(microsecond=0)
    digest = hashlib.blake2s(repr([sorted(run.values.items(), key=str) for run in runs]).encode()).hexdigest()[:6]
    return StoredSession(
        id=f"{started:%Y-%m-%dT%H:%M:%SZ}-{digest}",
        started=started,
        git_sha=git_sha,
        environment=result.environment,
        args=soft_args(result),
        launches=tuple(tuple(itertools.islice(rest, count)) for count in launches),
        measuring=measured_how(result),
        answers=answers_of(result.runs),
    )


def stored_run(summary: Summary, run: Run | None) -> StoredRun:
    """The part of one run that a baseline keeps; its histograms too, where its requests are known."""
    samples = metric_values(run, HISTOGRAMS) if run else {}
    quantities = [Quantity(m.name, "mean" if m.kind == "distribution" else None) for m in METRICS.values()]
    return StoredRun(
        values={quantity: rounded(summary.value(quantity)) for quantity in QUANTITIES},
        n={quantity.metric: summary.n(quantity) for quantity in quantities},
        histograms={name: histogram(values) for name, values in samples.items()},
    )


def recorded(
    path: Path, test: str, result: Result, session: StoredSession, margins: Mapping[Quantity, float]
) -> Baseline:
    """A baseline of this one session, all of its runs: rolling and anchor. It should have RECORDED_RUNS.

    It is also what accepting a session makes: nothing of an earlier baseline lives on, since its level is no longer
    the one to keep.
    """
    return Baseline(
        path=path,
        test=test,
        point_id=result.point_id,
        identity=identity(result),
        load=result.load.as_dict(),
        margins=dict(margins),
        rolling=(session,),
        anchor=(session,),
    )


def appended(baseline: Baseline, result: Result, session: StoredSession) -> Baseline:
    """Appends the first APPENDED_RUNS runs of a session that passed; the oldest sessions beyond ROLLING_SESSIONS leave.

    The anchor takes sessions too until it has ANCHOR_SESSIONS; then it stays as it is until a person accepts another. A
    session that is in the file already changes nothing. BaselineError when a hard fact differs.
    """
    assert_comparable(baseline, result)
    if session.id in {held.id for held in baseline.sessions}:
        return baseline
    before = itertools.accumulate(map(len, session.launches), initial=0)
    pairs = zip(session.launches, before, strict=False)
    kept = tuple(launch[: APPENDED_RUNS - done] for launch, done in pairs if done < APPENDED_RUNS)
    answers = session.answers and replace(session.answers, outputs=session.answers.outputs[:APPENDED_RUNS])
    first = replace(session, launches=kept, answers=answers)
    if answers and answers.texts:
        baseline = _without_texts(baseline)
    anchor = baseline.anchor if len(baseline.anchor) >= ANCHOR_SESSIONS else (*baseline.anchor, first)
    return trimmed(replace(baseline, rolling=(*baseline.rolling, first), anchor=anchor))


def _without_texts(baseline: Baseline) -> Baseline:
    """Texts of answers are kept of one session, the newest."""
    sides = (
        tuple(replace(s, answers=s.answers and replace(s.answers, texts={})) for s in side)
        for side in (baseline.rolling, baseline.anchor)
    )
    rolling, anchor = sides
    return replace(baseline, rolling=rolling, anchor=anchor)


def without_session(baseline: Baseline, session: str) -> Baseline | None:
    """The baseline without the session of this id, for a comparison with that session; None where it has no other."""
    rolling, anchor = (
        tuple(held for held in side if held.id != session) for side in (baseline.rolling, baseline.anchor)
    )
    return replace(baseline, rolling=rolling, anchor=anchor or rolling) if rolling else None


def trimmed(baseline: Baseline) -> Baseline:
    """Drops rolling sessions beyond the window, as after a merge of two branches that both appended."""
    newest = sorted(baseline.rolling, key=lambda session: (session.started, session.id))[-ROLLING_SESSIONS:]
    return replace(baseline, rolling=tuple(newest))


def promoted(baseline: Baseline) -> Baseline:
    """The newest rolling sessions, at most ANCHOR_SESSIONS, become the anchor: their level is accepted."""
    return replace(baseline, anchor=baseline.rolling[-ANCHOR_SESSIONS:])
