"""Files that a session, a command or a search leaves in its folder, and where the user asked for them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_llmperf import clock
from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.boundary.files import inside, write_at, write_whole
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.errors import LlmPerfError, PlanError
from pytest_llmperf.history.database import open_history
from pytest_llmperf.history.session import HistoryPoint, session_of
from pytest_llmperf.interchange import analyze
from pytest_llmperf.interchange.exports import EXPORTS
from pytest_llmperf.metrics.frame import write_parquet
from pytest_llmperf.metrics.stats.histogram import Histogram
from pytest_llmperf.report.json.search import search_csv, search_document
from pytest_llmperf.report.media import html_report, report_document
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.search.result import SearchResult

_SHARE = 50
"""A session spends at most this part of its time on reports that are replaced by later ones."""


def missing_for_html() -> str | None:
    """Says what a page needs and is not installed; None when nothing is missing."""
    missing = [name for name in ("plotly", "jinja2") if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(missing)}: pip install 'pytest-llmperf[report]'" if missing else None


def write_report(folder: RunFolder, extra: Path | None = None, searches: Sequence[SearchResult] = ()) -> None:
    """Writes `report.json` into the folder (or its spare), and the same at `extra`. OSError when that fails."""
    document = _document(folder, searches)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    folder.store(lambda path: write_whole(path, text), "report.json")
    if extra:
        write_at(extra, text)


def remove_reports(folder: RunFolder, *others: Path) -> None:
    """Takes away what an earlier session left where this one will write: read after a crash, it would be believed."""
    for path in (folder.output / "report.json", *others):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def set_aside(folder: Path | None, *others: Path) -> list[Path]:
    """Renames an earlier session's reports to `report.json.old` and so on, and returns them by their new names.

    A session that ends before it writes its own would leave them to be believed. `folder` is its output, or the link to
    the newest one, which is taken away; that of a session which is writing there is left alone. Raises OSError.
    """
    reports = [path.resolve() for path in others]
    if folder and (folder / "report.json").is_file():
        with contextlib.suppress(PlanError), RunFolder(folder).claimed():
            if folder.is_symlink():
                folder.unlink()
            else:
                reports.append(folder / "report.json")
    return [path.replace(path.with_name(f"{path.name}.old")) for path in reports if path.is_file()]


class RunningReport:
    """The report of a session that goes on, so that whatever ends it, what was measured is there."""

    def __init__(self, folder: RunFolder, searches: Mapping[str, SearchResult]) -> None:
        self._folder, self._searches = folder, searches
        self._wrote_s = float("-inf")
        self._took_s = 0.0

    def write(self, *, always: bool = False) -> None:
        """Writes it; unless `always`, only where that takes less than a fiftieth of the time since the last one."""
        begun_s = clock.monotonic()
        if always or begun_s - self._wrote_s > _SHARE * self._took_s:
            with_failure_noted(self._folder, "report.json", lambda: write_report(self._folder, None, self._found()))
            self._wrote_s = clock.monotonic()
            self._took_s = self._wrote_s - begun_s

    def _found(self) -> tuple[SearchResult, ...]:
        return tuple(self._searches.values())


def with_failure_noted(folder: RunFolder, what: str, write: Callable[[], object]) -> bool:
    """Writes a report; True if it could, else a note says why not. One report's fault costs neither another nor
    pytest's summary.
    """
    try:
        write()
    except OSError as error:
        folder.add_note(f"{what} was not written: {error.strerror} ({error.filename or folder.output})")
    except LlmPerfError as error:
        folder.add_note(f"{what} was not written: {foreign(str(error))}")
    except Exception as error:
        folder.add_note(
            f"{what} was not written: {type(error).__name__}: {foreign(str(error))} (a fault of pytest-llmperf)"
        )
    else:
        return True
    return False


def write_history(
    folder: RunFolder,
    path: Path,
    searches: Sequence[SearchResult] = (),
    labels: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Keeps the session in a history; one that is there already is brought up to date. HistoryError where it fails.

    `labels` are parameters to add, by test; that of `name` takes the place of the point's name.
    """
    session = session_of(_document(folder, searches), str(folder.report_path))
    points = tuple(_labelled(point, labels.get(point.test, {})) for point in session.points)
    with open_history(path, write=True) as history:
        history.add(replace(session, points=points))
    folder.written.append(f"history: {path}")


def _labelled(point: HistoryPoint, labels: Mapping[str, str]) -> HistoryPoint:
    return replace(point, name=labels.get("name", point.name), parameters={**point.parameters, **labels})


def _document(folder: RunFolder, searches: Sequence[SearchResult]) -> dict[str, Any]:
    origin = {"session": folder.session, "commit": folder.commit}
    outcomes = list(folder.outcomes.values())
    return report_document(outcomes, folder.started, folder.dialect, folder.notes, searches, origin)


def write_exports(folder: RunFolder, names: Sequence[str]) -> None:
    """Writes other tools' files, in a folder per test: `export/<test>/profile_export_aiperf.json` and so on."""
    measured = [(test, o.result) for test, o in folder.outcomes.items() if o.result and o.result.runs]
    if not names or not measured:
        return
    for test, result in measured:
        texts = [EXPORTS[name](result) for name in names if name in EXPORTS]
        for name, text in chain.from_iterable(files.items() for files in texts):
            write_whole(inside(folder.made(), "export", file_name(test), name), text)
        if "parquet" in names:
            table = io.BytesIO()
            write_parquet(result.runs, table)
            write_whole(inside(folder.made(), "export", file_name(test), "requests.parquet"), table.getvalue())
    for sweep, text in analyze.analyze_files(measured).items() if "genai-perf" in names else ():
        write_whole(inside(folder.made(), "export", file_name(sweep), analyze.FILE), text)
    folder.written.append(f"exports: {folder.output / 'export'}")


def write_html(
    folder: RunFolder,
    path: Path,
    baselines: Mapping[str, Mapping[str, Histogram]],
    searches: Sequence[SearchResult] = (),
) -> None:
    """Writes the report as one file; `baselines` are the histograms that tests were compared with."""
    write_at(path, html_report(list(folder.outcomes.values()), folder.started, folder.notes, baselines, searches))
    folder.written.append(f"HTML report: {path}")


def write_search(
    result: SearchResult,
    folder: RunFolder,
    json_path: Path | None = None,
    csv_path: Path | None = None,
    html_path: Path | None = None,
) -> Iterator[Path]:
    """Writes the result as JSON and CSV, the best plan, and the report of all points; yields what was written."""
    document = json.dumps(search_document(result), indent=1, allow_nan=False) + "\n"
    name = f"search-{file_name(result.name)}"
    texts = {f"{name}.json": document, f"{name}.csv": search_csv(result)}
    if result.plan:
        texts[f"{name}.best.yaml"] = f"# {result.answer}\n{result.plan}"
    for file, text in texts.items():
        if path := folder.store(partial(write_whole, content=text), file):
            yield path
    asked = {json_path: document, csv_path: search_csv(result)}
    if html_path:
        asked[html_path] = html_report([], folder.started, searches=[result])
    for where, text in asked.items():
        if where is not None and with_failure_noted(folder, str(where), partial(write_at, where, text)):
            yield where
    if folder.outcomes:
        write_report(folder)
