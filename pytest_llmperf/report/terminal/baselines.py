"""Tables and lines about stored baselines, which `llmperf baseline` prints. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain

from rich.markup import escape
from rich.table import Column, Table

from pytest_llmperf.definitions import HEADLINE_LATENCIES, OUTPUT_RATE, Quantity
from pytest_llmperf.gate.baselines.model import QUANTITIES, Baseline, StoredRun, StoredSession
from pytest_llmperf.gate.baselines.trend import LEAST_SESSIONS, change_points
from pytest_llmperf.metrics.stats.histogram import lower_edge, merged, picture
from pytest_llmperf.report.text import Name, left, make_table, simulated_label
from pytest_llmperf.units import signed_percent

_SHOWN = (*HEADLINE_LATENCIES, Quantity("e2e", "p99"))
_PICTURES = ("ttft", "itl")


def list_table(baselines: Iterable[Baseline], now: datetime) -> Table:
    """One row per baseline."""
    table = make_table(
        "baselines", "environment", "point", *left("sessions", "anchor", "anchor age", "last session", "commit", "")
    )
    for held in baselines:
        last = held.sessions[-1]
        table.add_row(
            *(Name(held.identity.environment), Name(held.point_id), sessions_by_runs(held.rolling)),
            *(sessions_by_runs(held.anchor), _age(held.anchor[-1].started, now), f"{last.started:%Y-%m-%d %H:%M}"),
            *(escape((last.git_sha or "")[:9]), "provisional" if held.provisional else ""),
        )
    return table


def sessions_by_runs(sessions: Sequence[StoredSession]) -> str:
    """`5 × 3`; `2 (8 runs)` where sessions have different numbers of runs."""
    counts = [len(session.runs) for session in sessions]
    same = len(set(counts)) == 1
    return f"{len(counts)} × {counts[0]}" if same else f"{len(counts)} ({sum(counts)} runs)"


def _age(then: datetime, now: datetime) -> str:
    seconds = max((now - then).total_seconds(), 0)
    return f"{seconds / 86400:.0f} d" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} h"


def facts(baseline: Baseline) -> Iterator[str]:
    """Lines that say what was measured, and where."""
    hard, last = baseline.identity, baseline.sessions[-1]
    label = simulated_label(last.environment.simulated)
    yield f"{baseline.test}"
    yield f"file         {baseline.path}"
    yield f"environment  {hard.environment}{label}: {', '.join(hard.gpus) or 'no GPU'}, {last.environment.cpu}"
    yield f"engine       {hard.engine} {last.environment.engine_version or '(version unknown)'}, model {hard.model}"
    yield f"arguments    {_arguments({**hard.output_args, **last.args})}"
    yield f"load         {hard.load_shape} to {hard.load['endpoint']}, trace {hard.trace_hash[:12]}"
    if found := baseline.imported:
        yield f"imported     from {found.tool}: {', '.join(found.files)}"
        yield from (f"             {note}" for note in found.notes)
        yield from (f"             without {metric}: {reason}" for metric, reason in found.left_out.items())
    provisional = "; provisional: one session does not tell how much sessions differ" if baseline.provisional else ""
    yield f"rolling      {sessions_by_runs(baseline.rolling)}{provisional}"
    yield f"anchor       {sessions_by_runs(baseline.anchor)}, the last of {baseline.anchor[-1].started:%Y-%m-%d %H:%M}"


def _arguments(args: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(args.items())) or "none"


def sessions_table(baseline: Baseline) -> Table:
    """One row per session: the range of its runs' values of every gated quantity."""
    quantities = sorted({*(baseline.margins or _SHOWN), OUTPUT_RATE}, key=QUANTITIES.index)
    headers = (f"{quantity}\n{quantity.unit}" for quantity in quantities)
    figures = (Column(header, justify="right", overflow="fold") for header in headers)
    table = make_table("per session: least to largest of the runs", *left("session", "commit", "in"), *figures)
    rolling, anchor = ({s.id for s in baseline.reference(name)} for name in ("rolling", "anchor"))
    for session in baseline.sessions:
        held = [name for name, ids in (("rolling", rolling), ("anchor", anchor)) if session.id in ids]
        table.add_row(
            *(f"{session.started:%Y-%m-%d %H:%M} × {len(session.runs)}", escape((session.git_sha or "")[:9])),
            *("\n".join(held), *(_range(session.runs, quantity) for quantity in quantities)),
        )
    return table


def _range(runs: Sequence[StoredRun], quantity: Quantity) -> str:
    values = [value for run in runs if (value := run.values.get(quantity)) is not None]
    if not values:
        return "none"
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}\n– {high}"


def pictures(baseline: Baseline) -> Iterator[str]:
    """The distributions of all rolling runs, a line each; nothing of files that have no histograms."""
    runs = list(chain.from_iterable(session.runs for session in baseline.rolling))
    for name in _PICTURES:
        found = merged(run.histograms.get(name, {}) for run in runs)
        if found:
            low, high = lower_edge(min(found)), lower_edge(max(found) + 1)
            yield f"{name:5}{low:9.4g} ms {picture(found)} {high:.4g} ms   n={sum(found.values())}"


def trend_lines(baseline: Baseline) -> Iterator[str]:
    """Lines on when a gated metric's level changed over the stored sessions; or that they are too few to tell."""
    sessions = baseline.sessions
    if len(sessions) < LEAST_SESSIONS:
        yield f"{baseline.point_id}: {len(sessions)} of the {LEAST_SESSIONS} sessions that a trend needs"
        return
    lines = [line for q, margin in baseline.margins.items() for line in _steps(sessions, q, margin)]
    nothing = f"no change over {len(sessions)} sessions" if baseline.margins else "no metric is gated"
    yield from lines or [f"{baseline.point_id}: {nothing}"]


def _steps(sessions: Sequence[StoredSession], quantity: Quantity, margin: float) -> Iterator[str]:
    held = [(session, _measured(session, quantity)) for session in sessions]
    held = [(session, values) for session, values in held if values]
    series = [values for _, values in held]
    for step in change_points(series, margin, "higher" if quantity.better == "higher" else "lower"):
        session = held[step.first][0]
        commit = f" at {session.git_sha[:9]}" if session.git_sha else ""
        change = signed_percent(quantity.change(step.log_step))
        yield (f"{quantity.title} {change} since {session.started:%Y-%m-%d %H:%M}{commit} (p = {step.p_value:.1g})")


def _measured(session: StoredSession, quantity: Quantity) -> list[float]:
    """Values of its runs; those without one have no part in a trend."""
    return [value for run in session.runs if (value := run.values.get(quantity)) is not None and value > 0]
