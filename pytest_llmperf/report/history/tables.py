"""Tables and lines that `llmperf history` prints. No I/O."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.markup import escape
from rich.table import Column, Table

from pytest_llmperf.boundary.text import cell, visible
from pytest_llmperf.definitions import ACCURACIES, HEADLINE, Quantity, quantity_names
from pytest_llmperf.gate.baselines.trend import LEAST_SESSIONS
from pytest_llmperf.history.analysis import Difference, Trend
from pytest_llmperf.history.database import FoundPoint
from pytest_llmperf.report.text import Name, heading, left, make_table, number, right, styled, two_lines
from pytest_llmperf.units import counted, signed_percent

_BAR = 40
"""Columns of the widest bar of a trend."""
_COMPRESSA = ("ID", "Name", "Date", "Description")
_CUT = 10
"""Characters of a parameter's value in compressa-perf's list."""


def list_table(found: Sequence[FoundPoint], *, metrics: bool, parameters: bool) -> Table:
    """One row per point, the newest first."""
    broken = Column("point"), Column("environment")
    columns = *right("no."), *left("session"), Column("measured"), *left("commit"), *broken, *left("verdict")
    table = make_table("history", *columns, *(right(*map(_head, HEADLINE)) if metrics else ()))
    if parameters:
        table.add_column("parameters", overflow="fold")
    for one in found:
        point = one.point
        table.add_row(
            *(
                str(one.number),
                one.session[:8],
                f"{point.measured or one.started:%Y-%m-%d %H:%M}",
                (one.commit or "")[:9],
            ),
            *(Name(point.name), Name(point.environment or "-"), styled(point.verdict)),
            *((number(point.values.get(str(quantity))) for quantity in HEADLINE) if metrics else ()),
            *((_text("\n".join(_pairs(point.parameters))),) if parameters else ()),
        )
    return table


def _head(quantity: Quantity) -> str:
    return two_lines(heading(quantity))


def _text(text: str) -> str:
    return escape(visible(text))


def _pairs(parameters: Mapping[str, str]) -> Iterator[str]:
    return (f"{name}: {value}" for name, value in parameters.items())


def compressa_table(found: Sequence[FoundPoint], *, metrics: bool, parameters: bool) -> Table:
    """The list as compressa-perf prints it, with a label over each column."""
    table = make_table("", *left(*_COMPRESSA[:1]), Column("Name", overflow="fold"), *left(*_COMPRESSA[2:]))
    for header, shown in (("Parameters", parameters), ("Metrics", metrics)):
        if shown:
            table.add_column(header, no_wrap=True)
    for one in found:
        point = one.point
        cells = [str(one.number), _text(point.name), f"{one.started:%Y-%m-%d %H:%M:%S}", _text(description(one))]
        if parameters:
            cells.append(
                _text("\n".join(f"{name}: {value[:_CUT]}" for name, value in compressa_parameters(one).items()))
            )
        if metrics:
            cells.append(_text("\n".join(f"{name}: {value:.4f}" for name, value in compressa_metrics(one).items())))
        table.add_row(*cells)
    return table


def description(one: FoundPoint) -> str:
    """The user's description of an experiment; empty for points of plans."""
    return one.point.parameters.get("description", "")


def compressa_metrics(one: FoundPoint) -> dict[str, float]:
    """Metrics by compressa-perf's names, in seconds and per second; empty where the session has no such dialect."""
    metrics = one.point.dialect.get("metrics", {}) if one.point.dialect.get("name") == "compressa" else {}
    known = metrics.items() if isinstance(metrics, Mapping) else ()
    return {name: metric["value"] for name, metric in known if metric.get("value") is not None}


def compressa_parameters(one: FoundPoint) -> dict[str, str]:
    """Parameters under compressa-perf's names; what a plan does not say is absent."""
    given, values = one.point.parameters, one.point.values
    names = {
        "num_workers": given.get("num_workers", given.get("load.concurrency")),
        "num_tasks": given.get("num_tasks", given.get("load.requests")),
        "openai_url": given.get("server.url"),
        "max_tokens": given.get("load.output_tokens"),
        "model_name": given.get("server.model"),
        "avg_n_input": values.get("input_tokens_mean"),
        "avg_n_output": values.get("output_tokens_mean"),
    }
    return {name: str(value) for name, value in names.items() if value is not None}


def csv_text(found: Iterable[FoundPoint]) -> str:
    """One line per point: what it is, every metric that any of them has, and its parameters as `k=v; k=v`."""
    held = list(found)
    names = [name for name in quantity_names() if any(name in one.point.values for one in held)]
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    facts = ("number", "session", "started", "measured", "commit", "test", "point", "environment", "engine", "verdict")
    table.writerow((*facts, "reasons", "parameters", *names))
    for one in held:
        point = one.point
        measured = point.measured.isoformat() if point.measured else ""
        row = (
            *(one.number, one.session, one.started.isoformat(), measured, one.commit or ""),
            *(point.test, point.name, point.environment or "", point.engine or "", point.verdict),
            *(" ".join(point.reasons), "; ".join(f"{k}={v}" for k, v in point.parameters.items())),
            *(point.values.get(name, "") for name in names),
        )
        table.writerow(map(cell, row))
    return file.getvalue()


def facts(one: FoundPoint) -> Iterator[str]:
    """Lines on a point: name, session, environment, verdict, parameters."""
    point = one.point
    yield f"point        {one.number}: {visible(point.name)}"
    yield f"test         {visible(point.test)}"
    yield f"session      {one.session}, {one.started:%Y-%m-%d %H:%M:%S} UTC, commit {one.commit or 'unknown'}"
    yield f"environment  {visible(point.environment or 'unknown')}, {visible(point.engine or 'engine unknown')}"
    yield f"verdict      {point.verdict}{': ' + ', '.join(point.reasons) if point.reasons else ''}"
    yield from (f"  {visible(line)}" for line in _pairs(point.parameters))


def score_lines(points: Sequence[FoundPoint]) -> Iterator[str]:
    """Scores of answers, one line each: those of one point, or of two as the change in points; none where none has."""
    for name in ACCURACIES:
        values = [one.point.values.get(name) for one in points]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            continue
        change = f" ({100 * (known[-1] - known[0]):+.1f} points)" if len(known) > 1 else ""
        yield f"{name}: {' -> '.join(f'{value:.1%}' for value in known)}{change}"


def runs_table(one: FoundPoint) -> Table:
    """One row per run."""
    table = make_table("per run", *right("run", "launch"), *left("valid"), *right(*map(_head, HEADLINE)))
    for run in one.point.runs:
        values = (number(run.values.get(str(quantity))) for quantity in HEADLINE)
        table.add_row(str(run.number), str(run.launch), "yes" if run.valid else "no", *values)
    return table


def differences_table(before: FoundPoint, after: FoundPoint, found: Iterable[Difference]) -> Table:
    """One row per metric; changes are of the value, with their 90 % interval."""
    title = f"{before.number} {visible(before.point.name)} -> {after.number} {visible(after.point.name)}"
    headers = right("before", "after", "change", "90 % interval")
    table = make_table(title, *left("metric", "unit"), *headers, *left(""))
    for one in found:
        low, high = one.interval
        colour = {"worse": "bold red", "better": "green", "unclear": "yellow"}.get(one.verdict)
        word = f"[{colour}]{one.verdict}[/]" if colour else one.verdict
        change = (signed_percent(one.change), f"{signed_percent(low)} to {signed_percent(high)}")
        table.add_row(str(one.quantity), one.quantity.unit, number(one.before), number(one.after), *change, word)
    return table


def trend_table(trend: Trend, last: int) -> Table:
    """One row per session, with a bar from zero; a line is drawn where the level changed."""
    unit, shown = trend.quantity.unit, trend.levels[-last:]
    title = f"{visible(trend.name)}, {trend.quantity} in {unit}, {visible(trend.environment or 'environment unknown')}"
    table = make_table(title, *right("no."), *left("measured", "commit", "verdict"), *right("value"), *left(""))
    most = max(level.mean for level in shown)
    starts = {step.after.number for step in trend.steps}
    for level in shown:
        if level.number in starts and table.row_count:
            table.add_section()
        bar = "█" * max(1, round(_BAR * level.mean / most)) if most else ""
        moment = f"{level.measured:%Y-%m-%d %H:%M}"
        table.add_row(
            *(str(level.number), moment, (level.commit or "")[:9], styled(level.verdict)), number(level.mean), bar
        )
    return table


def step_lines(trend: Trend) -> Iterator[str]:
    """Lines on the steps of a metric's level; one that says so where there is none, or where sessions are too few to
    tell.
    """
    for step in trend.steps:
        word = "worse" if step.worse else "better"
        commits = f", git log {step.commits}" if step.commits else ""
        yield (
            f"{signed_percent(step.change)} ({word}) since {step.after.measured:%Y-%m-%d %H:%M}, "
            f"point {step.after.number}{commits} (p = {step.p_value:.1g})"
        )
    if not trend.steps:
        few = "" if len(trend.levels) >= LEAST_SESSIONS else f"; {LEAST_SESSIONS} are needed to tell a change of level"
        yield f"no change of level over {counted(len(trend.levels), 'session')}{few}"
