"""Tables for people: one row per point, grouped by what may be compared."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pytest_llmperf.definitions import PERCENTILES, Quantity, parse_quantity
from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.metrics.dialects import dialect_metrics
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.report.json.document import outcome_comparisons, outcome_curves, regression_verdict, sla_verdict
from pytest_llmperf.report.terminal.comparison import comparison_tables, reasons
from pytest_llmperf.report.text import STYLES, number
from pytest_llmperf.report.views.capacity import capacity_table
from pytest_llmperf.report.views.curves import COLUMNS, Curve
from pytest_llmperf.report.views.server_side import has_server_side, server_side_table
from pytest_llmperf.report.views.sweeps import sweep_groups
from pytest_llmperf.report.views.verdicts import describe
from pytest_llmperf.runner.describe import counted
from pytest_llmperf.runner.outcomes import Outcome, RunFolder

_WIDE = 110
"""Columns of a terminal from which everything has room; below, tables leave out what matters least."""
_COLUMNS: tuple[tuple[str, str], ...] = (
    ("TTFT\np50 ms", "ttft_p50"),
    ("TTFT\np99 ms", "ttft_p99"),
    ("ITL\np50 ms", "itl_p50"),
    ("ITL\np99 ms", "itl_p99"),
    ("E2E\np50 ms", "e2e_p50"),
    ("\nreq/s", "request_throughput"),
    ("out\ntok/s", "output_token_throughput"),
)
_ONLY_WIDE = ("e2e_p50", "request_throughput")
_SHORT = {"INCONCLUSIVE": "IN DOUBT", "NO BASELINE": "NONE"}
"""In a table's narrow column."""


def summary(session: RunFolder, width: int, color: bool, verbosity: int) -> str:
    """The whole terminal summary; with -v the full statistics of every point too, with -q only trouble and paths."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=max(width, 80), force_terminal=color, no_color=not color, highlight=False)
    measured = [outcome for outcome in session.outcomes.values() if outcome.result and outcome.result.runs]
    if verbosity >= 0:
        for title, group in _groups(measured):
            console.print(_table(title, group, console.width))
        for line in _capacities(measured):
            console.print(line, soft_wrap=isinstance(line, str))
        for sweeps in sweep_groups([(outcome.test, outcome.result) for outcome in measured if outcome.result]):
            for line in sweeps.answers:
                console.print(escape(line), soft_wrap=True)
        for curve in outcome_curves(measured):
            console.print(_curve_table(curve))
        for found in outcome_comparisons(measured):
            for table in comparison_tables(found, number, console.width):
                console.print(table)
            for line in (found.answer, *reasons(found), *(f"note: {note}" for note in found.notes)):
                console.print(escape(line), soft_wrap=True)
        results = [outcome.result for outcome in measured if outcome.result]
        if has_server_side(results):
            console.print(server_side_table(results, number))
    if verbosity > 0:
        for outcome in measured:
            assert outcome.result is not None
            console.print(metrics_table(outcome.result, console.width))
            if outcome.result.reference is not None:
                console.print(metrics_table(outcome.result.reference, console.width))
            if session.dialect:
                console.print(dialect_table(outcome.result, session.dialect, console.width))
    for line in [
        *_skipped(session.outcomes.values()),
        *_resumed(session.outcomes.values()),
        *_how_to_continue(session.outcomes.values()),
        *_remarks(session.outcomes.values()),
        *session.notes,
        *session.written,
        f"report: {session.output / 'report.json'}",
    ]:
        console.print(escape(line), soft_wrap=True)
    return buffer.getvalue()


def _capacities(outcomes: Iterable[Outcome]) -> Iterator[Table | str]:
    """Of every point that was searched a table, and the answer; of a duet the old server's first."""
    for result in (outcome.result for outcome in outcomes if outcome.result is not None):
        for side in filter(None, (result.reference, result)):
            if side.capacity is not None:
                yield capacity_table(side.point_id, side.capacity, number)
                yield escape(f"{side.point_id}: {side.capacity.sentence}")


def _groups(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Outcome]]]:
    """Points whose numbers may stand side by side: one environment, one set of output-changing arguments."""
    for title, group in itertools.groupby(sorted(outcomes, key=_group_title), key=_group_title):
        yield title, list(group)


def _group_title(outcome: Outcome) -> str:
    assert outcome.result is not None
    facts, args = outcome.result.environment, outcome.result.server.output_args
    label = "SIMULATED step times, " if facts.simulated else ""
    locked = ", ".join(f"{name}={value}" for name, value in args.items())
    return f"{label}{facts.slug}{f' ({locked})' if locked else ''}"


def _table(title: str, outcomes: Sequence[Outcome], width: int) -> Table:
    columns = [(header, name) for header, name in _COLUMNS if width >= _WIDE or name not in _ONLY_WIDE]
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\npoint", overflow="fold", min_width=12)
    for header in ("failed\n/sent", *(header for header, _ in columns)):
        table.add_column(header, justify="right", no_wrap=True)
    for header in ("\nSLA", "base-\nline"):
        table.add_column(header, no_wrap=True)
    for outcome in outcomes:
        table.add_row(*_row(outcome, [name for _, name in columns]))
        if outcome.result is not None and outcome.result.reference is not None:
            table.add_row(*_reference_row(outcome.result.reference, [name for _, name in columns]))
    return table


def _curve_table(curve: Curve) -> Table:
    """How one phase scales with the length of the prompt."""
    title = f"{curve.phase} by prompt length: {curve.server}-{curve.load}"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("input tokens", *(header for header, _ in COLUMNS[curve.phase])):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for point in curve.points:
        label = "" if point.valid else "[bold red]INVALID[/]"
        table.add_row(str(point.input_tokens), *map(number, point.values.values()), label)
    return table


def _row(outcome: Outcome, quantities: Iterable[str]) -> Iterator[str]:
    result = outcome.result
    assert result is not None
    yield escape(outcome.point_id)
    yield f"{result.metrics.failed}/{result.metrics.sent}"
    for name in quantities:
        yield number(result.metrics.value(parse_quantity(name)))
    verdicts = (sla_verdict(outcome), regression_verdict(outcome)) if result.valid else ("INVALID", "INVALID")
    for verdict in verdicts:
        style = STYLES.get(verdict)
        yield f"[{style}]{_SHORT.get(verdict, verdict)}[/]" if style else "-"


def _reference_row(old: Result, quantities: Iterable[str]) -> Iterator[str]:
    """The old server of a duet, which is not judged."""
    yield escape(f"  against {old.server.name}")
    yield f"{old.metrics.failed}/{old.metrics.sent}"
    for name in quantities:
        yield number(old.metrics.value(parse_quantity(name)))
    yield from ("-", "-" if old.valid else f"[{STYLES['INVALID']}]INVALID[/]")


def metrics_table(result: Result, width: int = _WIDE) -> Table:
    """The statistics of one point, in the field's usual layout; fewer of them on a narrow terminal."""
    stats = _STATS if width >= _WIDE else _FEW_STATS
    label = " (SIMULATED step times)" if result.environment.simulated else ""
    table = Table(
        title=escape(f"{result.point_id}{label}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("Statistic", no_wrap=True)
    for stat in (*stats, "n"):
        table.add_column(stat, justify="right", no_wrap=True)
    for name, header in _ROWS:
        values = result.metrics.distributions[name]
        table.add_row(header, *(number(values.stat(stat)) for stat in stats), str(values.n))
    for name, header in _RATES:
        if name == "goodput" and not result.load.slo:
            continue
        table.add_row(header, number(result.metrics.value(Quantity(name))), *("" for _ in stats))
    return table


def dialect_table(result: Result, dialect: str, width: int = _WIDE) -> Table:
    """The same point as another tool would report it, under that tool's names."""
    stats = _STATS if width >= _WIDE else _FEW_STATS
    title = f"{result.point_id} by the definitions of {dialect}"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Metric", overflow="fold")
    for stat in ("", *stats):
        table.add_column(stat, justify="right", no_wrap=True)
    for name, values in dialect_metrics(dialect, result.runs).items():
        cells = [values["value"]] if "value" in values else [values[stat] for stat in stats]
        table.add_row(f"{name} ({values['unit']})", "" if len(cells) > 1 else number(cells.pop()), *map(number, cells))
    return table


_STATS = ("mean", "min", "max", *(f"p{p}" for p in reversed(PERCENTILES) if p >= 50))
_FEW_STATS = ("mean", "max", "p99", "p90", "p50")
_ROWS = (
    ("ttft", "Time to first token (ms)"),
    ("ttst", "Time to second token (ms)"),
    ("itl", "Inter-token latency (ms)"),
    ("e2e", "Request latency (ms)"),
    ("output_tokens", "Output sequence length"),
    ("input_tokens", "Input sequence length"),
)
_RATES = (
    ("output_token_throughput", "Output token throughput (tok/s)"),
    ("request_throughput", "Request throughput (req/s)"),
    ("goodput", "Goodput (req/s)"),
    ("error_rate", "Error rate"),
)


def _skipped(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Pytest itself tells the reasons only with -rs, and a suite that measured nothing would look green."""
    points_of: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.passed is None and outcome.error and outcome.error.startswith("skipped: "):
            points_of.setdefault(outcome.error, []).append(outcome.point_id)
    for reason, points in points_of.items():
        yield f"{reason} ({', '.join(points)})"


def _resumed(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """One line for all: a suite may have resumed hundreds."""
    taken = [(outcome.taken_from.astimezone(), outcome.point_id) for outcome in outcomes if outcome.taken_from]
    if taken:
        names = ", ".join(name for _, name in taken)
        yield f"not measured again, resumed from {min(taken)[0]:%Y-%m-%d %H:%M:%S}: {names}"


def _how_to_continue(outcomes: Iterable[Outcome]) -> Iterator[str]:
    if any(outcome.passed is None and outcome.error == "interrupted" for outcome in outcomes):
        yield "interrupted: --llmperf-resume goes on, and measures again only what was not complete"


def _remarks(outcomes: Iterable[Outcome]) -> Iterator[str]:
    points_of: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.result is None:
            continue
        if outcome.passed is None and outcome.error and outcome.result.runs:
            yield f"{outcome.point_id}: {outcome.error} after {counted(len(outcome.result.runs), 'run')}"
        for remark in outcome.result.remarks:
            yield f"{outcome.point_id}: {remark}"
        for reason in outcome.result.incomparable if outcome.result.runs else ():
            yield f"INVALID {outcome.point_id}: {reason}"
        if outcome.reruns:
            runs = counted(len(outcome.reruns), "more run")
            yield f"{outcome.point_id}: {runs}, the last because of {outcome.reruns[-1]}"
        if outcome.regression:
            yield from _gate_remarks(outcome.point_id, outcome.regression)
            since = "from {} to {}".format(*duet) if (duet := outcome.regression.duet) else "since the baseline"
            for note in outcome.regression.notes:
                points_of.setdefault(f"{since}, {note}", []).append(outcome.point_id)
    for note, points in points_of.items():
        yield f"note: {note} ({', '.join(points)})"


def _gate_remarks(point_id: str, regression: Regression) -> Iterator[str]:
    """What a verdict other than FAIL leaves to be known; a FAIL has its text in the test's failure."""
    if regression.verdict in ("IMPROVED", "INCONCLUSIVE"):
        for metric in regression.metrics:
            if metric.verdict == regression.verdict:
                shown = describe(metric, regression.duet) if regression.duet else describe(metric)
                yield f"{metric.verdict} {point_id}: {shown}"
    seen = [metric for metric in regression.metrics if metric.verdict == "PASS" and metric.detectable is not None]
    if regression.verdict == "PASS" and seen:
        caught = ", ".join(f"{m.series.quantity} {m.detectable:+.1%}" for m in seen if m.series.reference != "anchor")
        yield f"{point_id}: PASS; four times in five this would have failed: {caught}"
