"""Imported results as the baseline of a test that a report of ours holds. Pure.

The report says where the test is measured and what identifies it, none of which another tool's file holds: machine,
engine, arguments, load. What both say must agree.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_llmperf.definitions import METRICS, OFFERED, Quantity, parse_quantity
from pytest_llmperf.errors import LlmPerfError
from pytest_llmperf.gate.baselines.fingerprint import Identity
from pytest_llmperf.gate.baselines.growth import RECORDED_RUNS, stored_run
from pytest_llmperf.gate.baselines.model import (
    HISTOGRAMS,
    Baseline,
    Provenance,
    StoredRun,
    StoredSession,
    baseline_path,
)
from pytest_llmperf.gate.load_facts import hard_facts, measuring_facts
from pytest_llmperf.gate.regression import held_by
from pytest_llmperf.interchange.files import ImportedFile, shown_path
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.readers.shared.imported import Imported
from pytest_llmperf.interchange.readers.shared.unknown import because
from pytest_llmperf.interchange.results import import_notes, unknown_metrics
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.margins import default_margins
from pytest_llmperf.plan.server.base import changes_output
from pytest_llmperf.telemetry.environment import Environment
from pytest_llmperf.units import counted


class ImportBaselineError(LlmPerfError):
    """The files cannot be the baseline of the test; the message says what differs, or what is missing."""


@dataclass(frozen=True, slots=True)
class ReportedTest:
    """A test as the report of a session has it."""

    test: str
    point: Mapping[str, Any]
    environment: Environment


@dataclass(frozen=True, slots=True)
class Source:
    """A file, which is one run."""

    file: str
    found: Imported
    result: Result


def make_source(file: ImportedFile) -> Source:
    """The file as one run. ImportFileError where it holds several."""
    if len(file.results) > 1 or len(file.results[0].runs) > 1:
        held = [f"{len(result.runs) or 1} × {result.load.name.removeprefix('import-')}" for result in file.results]
        raise ImportFileError(f"{file.path} holds {', '.join(held)}; a baseline takes files of one run each")
    return Source(shown_path(file), file.found, file.results[0])


def find_target(text: str, name: str, test: str, folder: Path) -> tuple[ReportedTest, Path]:
    """The test that a report (its text, and its name for messages) calls so, and the file of its baseline.

    `test` is its node id, the point's id or that file's path. ImportBaselineError names those to choose from.
    """
    try:
        report = json.loads(text)
        measured = [point for point in report["points"] if "environment" in point]
        targets = [ReportedTest(p["test"], p, _environment(report["environments"][p["environment"]])) for p in measured]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImportBaselineError(f"{name} is no report of pytest-llmperf ({error!r})") from error
    paths = [baseline_path(folder, target.environment.slug, target.test) for target in targets]
    named = [
        (target, path)
        for target, path in zip(targets, paths, strict=True)
        if test in (target.test, target.point["id"], str(path))
    ]
    if len(named) != 1:
        known = "\n  ".join(target.test for target in targets) or "none"
        raise ImportBaselineError(f"{name} holds {len(named)} measured tests {test!r}; it holds:\n  {known}")
    return named[0]


def _environment(facts: Mapping[str, Any]) -> Environment:
    return Environment(**{**facts, "gpus": tuple(facts["gpus"])})


def imported_baseline(
    sources: Sequence[Source], target: ReportedTest, path: Path, now: datetime, model: str | None = None
) -> Baseline:
    """A run per file, as one session. ImportBaselineError where files and test are not of the same model or load.

    `model`: what the files call the test's model.
    """
    for source in sources:
        check_source(source, target, model)
    margins = _margins(target)
    session = _session(sources, target, now)
    if not any(held_by([session], quantity) for quantity in margins):
        names = ", ".join(map(str, margins))
        assert session.imported is not None
        why = "; ".join(dict.fromkeys(session.imported.left_out.values())) or "they hold no successful request"
        raise ImportBaselineError(f"the files tell nothing of what is gated ({names}): {why}")
    return Baseline(
        path=path,
        test=target.test,
        point_id=target.point["id"],
        identity=_identity(target),
        load=target.point["load"],
        margins=margins,
        rolling=(session,),
        anchor=(session,),
    )


def shortage(sources: Sequence[Source]) -> str | None:
    """A note on a baseline of too few runs; None where there are enough."""
    count = len(sources)
    if count >= RECORDED_RUNS:
        return None
    few = f"{count} file{'s are' if count > 1 else ' is'} {counted(count, 'run')}"
    return f"{few}: the gate compares with {RECORDED_RUNS} at least, and until then says NO BASELINE"


def _margins(target: ReportedTest) -> dict[Quantity, float]:
    """The defaults: what a plan says is known only where it is gated."""
    open_loop = _is_open(target)
    merged = {parse_quantity(name): margin for name, margin in default_margins(open_loop).items()}
    return {q: margin for q, margin in merged.items() if not (open_loop and q.metric in OFFERED)}


def _is_open(target: ReportedTest) -> bool:
    load = target.point["load"]
    stages = load.get("stages") or []
    return not (load.get("concurrency") or any(stage.get("concurrency") for stage in stages))


def _identity(target: ReportedTest) -> Identity:
    server = target.point["server"]
    model = server["model"]
    return Identity(
        environment=target.environment.slug,
        gpus=target.environment.gpus,
        engine=server["engine"],
        model=Path(model).name if model.startswith("/") else model,
        output_args={name: value for name, value in sorted(server["args"].items()) if changes_output(name)},
        load_shape="open loop" if _is_open(target) else "closed loop",
        trace_hash="imported",
        load=hard_facts(target.point["load"]),
    )


def check_source(source: Source, target: ReportedTest, model: str | None = None) -> None:
    """ImportBaselineError where file and test say otherwise; lengths are compared where all requests have one."""
    load, own = source.result.load, target.point["load"]
    theirs = {"concurrency": load.concurrency, "request_rate": load.request_rate}
    if load.max_in_flight is not None:  # of other files it is not known
        theirs["max_in_flight"] = load.max_in_flight
    wrong = [
        f"{name} is {value!r} in the file, {own.get(name)!r} of the test"
        for name, value in theirs.items()
        if value != own.get(name)
    ]
    if shape := source.found.points[0].shape:
        wrong.append(f"the load is no fixed concurrency or rate in the file: {shape}")
    named, asked = source.found.model, model or target.point["server"]["model"]
    if named is not None and Path(named).name != Path(asked).name:
        wrong.append(f"the model is {named!r} in the file, {asked!r} of the test (--model NAME, if that is the same)")
    length = source.result.metrics.distributions["output_tokens"]
    if length.n and isinstance(own.get("output_tokens"), int) and not length.min == length.max == own["output_tokens"]:
        wrong.append(
            f"answers have {length.min:g} to {length.max:g} tokens in the file, {own['output_tokens']} of the test"
        )
    if source.result.invalid_reasons:
        wrong += source.result.invalid_reasons
    if wrong:
        raise ImportBaselineError(f"{source.file} is no run of {target.test}: {'; '.join(wrong)}")


def _session(sources: Sequence[Source], target: ReportedTest, now: datetime) -> StoredSession:
    begun = [datetime.fromtimestamp(run.started_ns / 1e9, UTC) for s in sources for run in s.result.runs]
    started = min(begun, default=now).astimezone(UTC).replace(microsecond=0)
    args = {name: value for name, value in target.point["server"]["args"].items() if not changes_output(name)}
    imported = _provenance(sources)
    found = [
        run
        for result in (source.result for source in sources)
        for run in map(stored_run, result.summaries or [result.metrics], result.runs or [None])
    ]
    runs = tuple(_without(run, imported.left_out) for run in found)
    return StoredSession(
        id=f"{started:%Y-%m-%dT%H:%M:%SZ}-import",
        started=started,
        git_sha=None,
        environment=replace(target.environment, engine_version=None, host="unknown", kernel="unknown"),
        args=args,
        launches=(runs,),
        measuring=measuring_facts(target.point["load"], target.point["server"]["engine"]),
        imported=imported,
    )


def _provenance(sources: Sequence[Source]) -> Provenance:
    left_out = {
        metric: reason
        for source in sources
        for metric, reason in unknown_metrics(source.found.points[0]).items()
        if metric in METRICS
    }
    notes = [note for s in sources for note in import_notes(s.found, s.found.points[0], s.result.load)]
    for source in sources:
        found = source.result.metrics.distributions.items()
        holes = [name for name, v in found if v.n and None in (v.mean, v.std, v.min, v.max, *v.percentiles)]
        left_out = {**because("the file does not have all of its statistics", *holes), **left_out}
    return Provenance(
        tool=", ".join(dict.fromkeys(source.found.source for source in sources)),
        files=tuple(source.file for source in sources),
        left_out=left_out,
        notes=tuple(dict.fromkeys(note for note in notes if not note.startswith(("left out", "imported from")))),
    )


def _without(run: StoredRun, left_out: Collection[str]) -> StoredRun:
    """No value of what is left out of any of the runs."""
    gone = {*left_out}
    kinds = {name: metric.kind for name, metric in METRICS.items()}
    return StoredRun(
        values={q: None if q.metric in gone else value for q, value in run.values.items()},
        n={name: 0 if name in gone and kinds[name] == "distribution" else n for name, n in run.n.items()},
        histograms={} if gone & {*HISTOGRAMS} else run.histograms,
    )
