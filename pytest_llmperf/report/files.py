"""Files that a session, a command or a search leaves in its folder, and where the user asked for them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.interchange import analyze
from pytest_llmperf.interchange.exports import EXPORTS
from pytest_llmperf.metrics.frame import write_parquet
from pytest_llmperf.metrics.stats.histogram import Histogram
from pytest_llmperf.report.json.search import search_csv, search_document
from pytest_llmperf.report.media import html_report, report_document
from pytest_llmperf.runner.outcomes import RunFolder
from pytest_llmperf.search.result import SearchResult


def missing_for_html() -> str | None:
    """Says what a page needs and is not installed; None when nothing is missing."""
    missing = [name for name in ("plotly", "jinja2") if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(missing)}: pip install 'pytest-llmperf[report]'" if missing else None


def write_report(folder: RunFolder, extra: Path | None = None, searches: Sequence[SearchResult] = ()) -> None:
    """Writes `report.json` into the folder, and the same at `extra`."""
    document = report_document(list(folder.outcomes.values()), folder.started, folder.dialect, folder.notes, searches)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    for path in [folder.made() / "report.json", *([extra] if extra else [])]:
        _write(path, text)


def write_exports(folder: RunFolder, names: Sequence[str]) -> None:
    """Writes other tools' files, in a folder per test: `export/<test>/profile_export_aiperf.json` and so on."""
    measured = [(test, o.result) for test, o in folder.outcomes.items() if o.result and o.result.runs]
    if not names or not measured:
        return
    for test, result in measured:
        own = folder.made() / "export" / file_name(test)
        own.mkdir(parents=True, exist_ok=True)
        texts = [EXPORTS[name](result) for name in names if name in EXPORTS]
        for name, text in chain.from_iterable(files.items() for files in texts):
            (own / name).write_text(text, encoding="utf-8", newline="")
        if "parquet" in names:
            write_parquet(result.runs, own / "requests.parquet")
    for sweep, text in analyze.analyze_files(measured).items() if "genai-perf" in names else ():
        path = folder.made() / "export" / file_name(sweep) / analyze.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    folder.written.append(f"exports: {folder.output / 'export'}")


def write_html(
    folder: RunFolder,
    path: Path,
    baselines: Mapping[str, Mapping[str, Histogram]],
    searches: Sequence[SearchResult] = (),
) -> None:
    """Writes the report as one file; `baselines` are the histograms that tests were compared with."""
    _write(path, html_report(list(folder.outcomes.values()), folder.started, folder.notes, baselines, searches))
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
    files = {folder.output / name: text for name, text in texts.items()}
    if json_path:
        files[json_path] = document
    if csv_path:
        files[csv_path] = search_csv(result)
    if html_path:
        files[html_path] = html_report([], folder.started, searches=[result])
    for path, text in files.items():
        _write(path, text)
        yield path
    if folder.outcomes:
        write_report(folder)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
