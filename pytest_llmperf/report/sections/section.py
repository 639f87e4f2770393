"""The form that every section of the report has, and what sections are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.histogram import Histogram
from pytest_llmperf.runner.outcomes import Outcome
from pytest_llmperf.search.result import SearchResult

Baselines = Mapping[str, Mapping[str, Histogram]]
"""Histograms of each test's baseline by metric; a test that has none is left out."""
Shown = Table | Text | str
"""A piece of terminal output; a plain text is a line that is not broken."""
Answer = tuple[str, str, str]
"""A line at the head of the page: anchor and text of its link, and what follows them."""


class ReportContent(NamedTuple):
    """Everything that a report is made of."""

    outcomes: Sequence[Outcome]
    searches: Sequence[SearchResult] = ()
    dialect: str | None = None
    """Name of the tool under whose definitions metrics are reported beside ours."""
    baselines: Baselines = {}  # noqa: RUF012

    @property
    def measured(self) -> list[tuple[str, Result]]:
        """Test id and result of every point with a run."""
        return [(one.test, one.result) for one in self.outcomes if one.result is not None and one.result.runs]


class Section(NamedTuple):
    """One section: its numbers, and how each medium shows them; None where a medium does not have it."""

    key: str
    """Anchor on the page."""
    title: str
    view: Callable[[ReportContent], Any]
    """The numbers that all media show; empty where there is nothing to show."""
    terminal: Callable[[Any, int], Iterator[Shown]] | None = None
    """Output for a terminal of so many columns."""
    verbosity: int = 0
    """Verbosity from which a terminal shows it."""
    json: Callable[[Any], Mapping[str, Any]] | None = None
    """Keys of the report document; those of an empty view too."""
    html: str | None = None
    """Body on the page: a jinja2 template, filled with what `page` returns."""
    page: Callable[[Any], Mapping[str, Any]] = lambda view: {"view": view}
    answers: Callable[[Any], Iterable[Answer]] = lambda view: ()
