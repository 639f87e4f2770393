"""Imported files as results: requests go through our own metrics, and what is not known stays None. Pure.

In a closed loop the first request of every slot is the lead-in, as in our own runs: the burst of the start is in none
of our figures, though it is in the tools'. Where only statistics were kept it cannot be taken off, and a note says so.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from pytest_llmperf import __version__
from pytest_llmperf.definitions import METRICS
from pytest_llmperf.interchange.readers.shared.fields import LARGEST, ImportFileError
from pytest_llmperf.interchange.readers.shared.imported import Imported, ImportedPoint
from pytest_llmperf.interchange.readers.shared.unknown import RATES, because
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.summary import Distribution, Summary, distribution, summarize, summarize_runs
from pytest_llmperf.metrics.trust.validity import invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ENGINE_MODELS
from pytest_llmperf.records import ClientHealth, RequestRecord, Run
from pytest_llmperf.telemetry.environment import Environment

_NOWHERE = "http://imported.invalid"
"""A URL that no server has (RFC 2606): the file does not say what is to be asked again."""
_DUE = "the file tells when requests were sent and not when they were due: see service_ttft and service_e2e"
_FROM_DUE = tuple(name for name, metric in METRICS.items() if "due" in metric.needs)
_CLIENT = ClientHealth(
    stamps="user",
    cpu_share=None,
    receive_lag_p50_us=None,
    receive_lag_p99_us=None,
    receive_lag_max_us=None,
    send_late_p50_us=None,
    send_late_p99_us=None,
    coalesced_share=None,
    clock_step_ns=0,
    connect_ms=None,
)


def imported_results(found: Imported, name: str, environment: Environment) -> tuple[Result, ...]:
    """One per load of the file; `name` takes the place of a server's. ImportFileError where a file names no load."""
    loads = _loads(found.points, name)
    return tuple(_result(found, *each, name, environment) for each in zip(found.points, loads, strict=True))


def _loads(points: Sequence[ImportedPoint], name: str) -> list[LoadPoint]:
    """The points' loads, each with a name of its own: a file may hold several at the same load."""
    loads: list[LoadPoint] = []
    for load in [_load(point, name) for point in points]:
        earlier = sum(load.name == other.name.partition("#")[0] for other in loads)
        loads.append(load.model_copy(update={"name": f"{load.name}#{earlier + 1}"}) if earlier else load)
    return loads


def imported_environment(slug: str) -> Environment:
    """The environment of an import, as far as the user gives it: no file holds the rest."""
    return Environment(
        slug=slug,
        simulated=False,
        engine="openai",
        engine_version=None,
        gpus=(),
        driver=None,
        cpu="unknown",
        cpu_cores=0,
        memory_gib=None,
        host="unknown",
        kernel="unknown",
        python="unknown",
        llmperf=__version__,
    )


def _result(found: Imported, point: ImportedPoint, load: LoadPoint, name: str, environment: Environment) -> Result:
    runs = tuple(_run(place, records, load, name) for place, records in enumerate(point.runs))
    unknown = unknown_metrics(point)
    if runs:
        summaries = tuple(_as_stated(summarize(run, load), point, unknown) for run in runs)
        metrics = _as_stated(summarize_runs(runs, load), point, unknown)
    else:
        summaries, metrics = (), _without(_summary(point), unknown)
    reasons = invalid_reasons(runs, load) if runs else ()
    return Result(
        point_id=f"{name}-{load.name}",
        server=ENGINE_MODELS["openai"].model_validate(
            {"engine": "openai", "name": name, "model": found.model or "unknown", "url": _NOWHERE}
        ),
        load=load,
        environment=environment,
        runs=runs,
        summaries=summaries,
        metrics=metrics,
        invalid_reasons=reasons or (() if metrics.ok else ("no request succeeded",)),
        imported=tuple(import_notes(found, point, load)),
    )


def unknown_metrics(point: ImportedPoint) -> Mapping[str, str]:
    """Reasons, by metric, for leaving it out."""
    fixed_slots = point.request_rate is None and point.shape is None
    closed = fixed_slots or any(record.due_ns is not None for run in point.runs for record in run)
    return {**point.unknown, **({} if closed else because(_DUE, *_FROM_DUE))}


def import_notes(found: Imported, point: ImportedPoint, load: LoadPoint) -> list[str]:
    """Facts that a reader of the figures must know."""
    reasons: dict[str, list[str]] = {}
    for metric, reason in unknown_metrics(point).items():
        reasons.setdefault(reason, []).append(metric)
    left_out = [f"left out {', '.join(metrics)}: {reason}" for reason, metrics in reasons.items()]
    client = f"imported from {found.source}: whether its client was the bottleneck is not known"
    newer = [found.version_note] if found.version_note else []
    shape = [f"the load was no fixed concurrency or rate: {point.shape}"] if point.shape else []
    return [client, *newer, *shape, *point.notes, *_lead_in_note(point, load), *left_out]


def _lead_in_note(point: ImportedPoint, load: LoadPoint) -> list[str]:
    slots = load.concurrency
    if slots is None or point.totals is not None:
        return []
    if not point.runs:
        return ["the first request of each slot is in the figures; in those of our own runs it is not"]
    if any(_has_lead_in(records) or _takes_lead_in(records, load) for records in point.runs):
        return [f"the first {slots} requests (one per slot) are the lead-in, in none of our figures"]
    return [f"of so few requests none was taken off as lead-in: {slots} slots, {len(point.runs[0])} requests"]


def _load(point: ImportedPoint, name: str) -> LoadPoint:
    if not point.names_load:
        raise ImportFileError(f"{name} does not say its load; give --concurrency N, or --request-rate R")
    records = [record for run in point.runs for record in run if record.ok]
    prompts = [record.input_tokens for record in records if record.input_tokens]
    answers = [record.output_tokens for record in records if record.output_tokens]
    lengths: dict[str, Any] = {"output_tokens": statistics.mode(answers)} if answers else {}
    try:
        return LoadPoint(
            name=f"import-{_level(point)}",
            input_tokens=statistics.mode(prompts) if prompts else None,
            concurrency=None if point.request_rate else point.concurrency,
            request_rate=point.request_rate,
            max_in_flight=point.max_in_flight,
            requests=_sent(point) or None,
            warmup_requests=0,
            ignore_eos=False,
            **lengths,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ImportFileError(f"{name}: no load of ours: {first['loc'][0]} is {first['input']!r:.60}") from error


def _level(point: ImportedPoint) -> str:
    if point.shape is not None:
        return "-".join(re.findall(r"[a-z0-9.]+", point.shape.lower())[:6])
    return f"c{point.concurrency}" if point.request_rate is None else f"{point.request_rate:.15g}rps"


def _sent(point: ImportedPoint) -> int:
    if point.totals is not None:
        return point.totals.ok + point.totals.failed + point.totals.cancelled
    return len(point.runs[0]) if point.runs else point.ok + point.failed


def _run(place: int, records: Sequence[RequestRecord], load: LoadPoint, name: str) -> Run:
    for number, record in enumerate(records, start=1):
        _check(record, f"{name}: request {number} in the order of sending")
    begun = [record.sent_ns for record in records if record.sent_ns is not None]
    if not begun:
        raise ImportFileError(f"{name}: no request in it was sent")
    return Run(
        index=place,
        started_ns=min(begun),
        ended_ns=max(record.end_ns for record in records),
        trace_hash=f"imported: {name}",
        records=_phased(records, load),
        client=_CLIENT,
    )


def _check(record: RequestRecord, where: str) -> None:
    """Raises ImportFileError of times that run backwards or that no clock shows, and of counts that nothing has."""
    moments = [moment for moment in (record.sent_ns, *record.chunk_ns) if moment is not None]
    if moments != sorted(moments) or (record.sent_ns or 0) > record.end_ns:
        raise ImportFileError(f"{where} got an answer before it was sent")
    counts = (record.input_tokens, record.output_tokens)
    numbers = (*moments, record.end_ns, record.due_ns, record.first_output_ns, *counts)
    wrong = [number for number in numbers if number is not None and not 0 <= number < LARGEST]
    if wrong:
        raise ImportFileError(f"{where} holds {wrong[0]}, which is no time and no count")


def _has_lead_in(records: Sequence[RequestRecord]) -> bool:
    """Our own files say which requests are the lead-in."""
    return any(record.phase == "lead-in" for record in records)


def _takes_lead_in(records: Sequence[RequestRecord], load: LoadPoint) -> bool:
    """True if the first requests are taken for lead-in; not in a sample, whose first ones nobody knows."""
    return load.concurrency is not None and load.requests == len(records) >= 2 * load.concurrency


def _phased(records: Sequence[RequestRecord], load: LoadPoint) -> tuple[RequestRecord, ...]:
    """Numbered, with lead-in; in an open loop the moment of sending stands for the one due, to count rates by."""
    lead = load.concurrency or 0
    if _has_lead_in(records) or not _takes_lead_in(records, load):
        lead = 0
    return tuple(
        replace(
            record,
            index=place,
            phase="lead-in" if place < lead else record.phase,
            due_ns=record.sent_ns if load.concurrency is None and record.due_ns is None else record.due_ns,
        )
        for place, record in enumerate(records)
    )


def _as_stated(summary: Summary, point: ImportedPoint, unknown: Mapping[str, str]) -> Summary:
    """The summary as far as the file goes: of a sample, its latencies beside the counts and rates of all requests."""
    totals = point.totals
    if totals is None:
        return _without(summary, unknown)
    sent = totals.ok + totals.failed + totals.cancelled
    known = {**dict.fromkeys(RATES), **totals.rates, "error_rate": totals.failed / sent if sent else None}
    return replace(
        _without(summary.with_scalars(known), unknown),
        sent=sent,
        ok=totals.ok,
        failed=totals.failed,
        cancelled=totals.cancelled,
        window_s=None,
    )


def _without(summary: Summary, unknown: Mapping[str, str]) -> Summary:
    return replace(
        summary,
        distributions={n: distribution([]) if n in unknown else v for n, v in summary.distributions.items()},
        scalars={n: None if n in unknown else v for n, v in summary.scalars.items()},
    )


def _summary(point: ImportedPoint) -> Summary:
    """The summary of statistics without requests. Latencies count from sending: they are service times."""
    sent = point.ok + point.failed
    known = {**point.known, **{f"service_{name}": point.known[name] for name in ("ttft", "e2e") if name in point.known}}
    nothing: Distribution = distribution([])
    scalars = {name: None for name, metric in METRICS.items() if metric.kind == "scalar"}
    return Summary(
        distributions={n: known.get(n, nothing) for n, metric in METRICS.items() if metric.kind == "distribution"},
        scalars={**scalars, "error_rate": point.failed / sent if sent else None},
        sent=sent,
        ok=point.ok,
        failed=point.failed,
        cancelled=0,
        window_s=None,
        token_sources=(),
    )
