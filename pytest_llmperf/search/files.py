"""What a search leaves on disk."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from pytest_llmperf.file_names import file_name
from pytest_llmperf.report.search_document import search_csv, search_document
from pytest_llmperf.search.result import SearchResult
from pytest_llmperf.session import Session


def missing_for_html() -> str | None:
    """What a page needs and is not installed; None when nothing is missing."""
    missing = [name for name in ("plotly", "jinja2") if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(missing)}: pip install 'pytest-llmperf[report]'" if missing else None


def write_search(
    result: SearchResult,
    session: Session,
    json_path: Path | None = None,
    csv_path: Path | None = None,
    html_path: Path | None = None,
) -> Iterator[Path]:
    """Result as JSON and CSV, the best plan, and the report of all points; gives what was written."""
    document = json.dumps(search_document(result), indent=1, allow_nan=False) + "\n"
    name = f"search-{file_name(result.name)}"
    texts = {f"{name}.json": document, f"{name}.csv": search_csv(result)}
    if result.plan:
        texts[f"{name}.best.yaml"] = f"# {result.answer}\n{result.plan}"
    files = {session.output / name: text for name, text in texts.items()}
    if json_path:
        files[json_path] = document
    if csv_path:
        files[csv_path] = search_csv(result)
    if html_path:
        from pytest_llmperf.report.html.page import html_report  # its libraries are of an extra

        files[html_path] = html_report([], session.started, searches=[result])
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        yield path
    if session.outcomes:
        session.write_report(None)
