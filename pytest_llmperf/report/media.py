"""The report in each medium: terminal, JSON and HTML walk over the same list of sections. Pure: data in, text out."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from rich.markup import escape

from pytest_llmperf import __version__
from pytest_llmperf.boundary.text import READABLE
from pytest_llmperf.definitions import METRICS
from pytest_llmperf.report.html.templating import render_page
from pytest_llmperf.report.sections import answers, appendix, capacity, comparison, points, search, server_side, sweeps
from pytest_llmperf.report.sections.section import Baselines, ReportContent
from pytest_llmperf.report.terminal.remarks import answer_lines, remark_lines
from pytest_llmperf.report.text import Screen, few, fitting, styled
from pytest_llmperf.report.views.names import distinguished
from pytest_llmperf.report.views.standing import headline
from pytest_llmperf.runner.outcomes import Outcome, RunFolder
from pytest_llmperf.search.result import SearchResult

SCHEMA = "llmperf.report/1"
SECTIONS = (
    points.OVERVIEW,
    capacity.CAPACITY,
    sweeps.SWEEPS,
    sweeps.TRADEOFFS,
    sweeps.CURVES,
    answers.ANSWERS,
    comparison.TABLES,
    comparison.COMPARISON,
    search.SEARCH,
    server_side.SERVER_SIDE,
    server_side.REPLICAS,
    points.POINTS,
    appendix.ENVIRONMENT,
    appendix.DEFINITIONS,
)
"""Every section, in the order in which each medium shows those that it has."""
_BASELINES = 4
"""Baselines that the summary names one by one."""
_REMARK_ROWS = 7
"""Rows of a terminal for remarks on points, without -v; what is said of the session is never left out."""


def summary(folder: RunFolder, width: int, color: bool, verbosity: int, encoding: str = "utf-8") -> str:
    """The whole terminal summary, as far as `encoding` goes.

    The answer comes last. With -v the full statistics of every point too, with -q only trouble and paths.
    """
    buffer = io.TextIOWrapper(io.BytesIO(), encoding, READABLE, newline="")
    console = Screen(file=buffer, width=max(width, 80), force_terminal=color, no_color=not color)
    outcomes = distinguished(list(folder.outcomes.values()))
    content = ReportContent(outcomes, dialect=folder.dialect)
    for section in SECTIONS:
        if section.terminal and verbosity >= section.verbosity and (view := section.view(content)):
            for piece in section.terminal(view, console.width):
                console.print(escape(piece) if isinstance(piece, str) else piece, soft_wrap=isinstance(piece, str))
    remarks = list(remark_lines(outcomes, verbosity))
    shown = remarks if verbosity > 0 else fitting(remarks, _REMARK_ROWS, console.width)
    for line in (*shown, *folder.notes, *_written(folder)):
        console.print(escape(line), soft_wrap=True)
    for word, line in answer_lines(points.OVERVIEW.view(content), console.width):
        console.print(f"{styled(word)} {escape(line)}" if word else escape(line), soft_wrap=True)
    console.print(escape(f"report: {folder.report_path}"), soft_wrap=True)
    buffer.seek(0)
    return buffer.read()


def _written(folder: RunFolder) -> Iterator[str]:
    """Lines on the written files, with many baselines summed up."""
    baselines = [line for line in folder.written if " baseline " in line]
    yield from few(baselines, _BASELINES, "baselines")
    yield from (line for line in folder.written if line not in baselines)


def report_document(
    outcomes: Sequence[Outcome],
    started: datetime,
    dialect: str | None = None,
    notes: Sequence[str] = (),
    searches: Sequence[SearchResult] = (),
    origin: Mapping[str, str | None] = MappingProxyType({}),
) -> dict[str, Any]:
    """The whole report as plain data.

    `dialect` adds a block with that tool's metrics to every point; `origin` are the session's id and commit.
    """
    environments = {o.result.environment.slug: o.result.environment.as_dict() for o in outcomes if o.result}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "llmperf": __version__,
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        **origin,
        "environment": next(iter(environments.values()), {}),
        "environments": environments,
        "definitions": {metric.key: metric.definition for metric in METRICS.values()},
        "notes": list(notes),
    }
    content = ReportContent(outcomes, searches, dialect)
    for section in SECTIONS:
        if section.json:
            document |= section.json(section.view(content))
    return document


def html_report(
    outcomes: Sequence[Outcome],
    started: datetime,
    notes: Sequence[str] = (),
    baselines: Baselines | None = None,
    searches: Sequence[SearchResult] = (),
) -> str:
    """The whole file. ImportError without plotly or jinja2 (the `report` extra)."""
    content = ReportContent(distinguished(outcomes), searches, baselines=baselines or {})
    shown = [(section, view) for section in SECTIONS if section.html and (view := section.view(content))]
    listed = points.by_gravity(points.OVERVIEW.view(content))
    found = [one.standing for one in search.SEARCH.view(content)]
    return render_page(
        [(section.key, section.title, section.html or "", section.page(view)) for section, view in shown],
        started,
        verdict=found[0] if found and not outcomes else headline([point.standing for point in listed]),
        worst=[point for point in listed if point.standing.kind in ("bad", "doubt")],
        answers=[list(section.answers(view)) for section, view in shown],
        environments=appendix.ENVIRONMENT.view(content),
        notes=notes,
    )
