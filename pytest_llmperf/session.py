"""What one pytest session (or one `llmperf profile`) gathers: where output goes, and every point's outcome so far.

Outcomes are kept from the first run on and every run's requests are on disk when it ends, so that an interrupted or
crashed session loses nothing that was measured.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from pytest_llmperf.file_names import file_name
from pytest_llmperf.gate.histogram import Histogram
from pytest_llmperf.interchange import analyze
from pytest_llmperf.interchange.exports import EXPORTS
from pytest_llmperf.interchange.frame import write_parquet
from pytest_llmperf.load_spec import LoadPoint
from pytest_llmperf.records import Run
from pytest_llmperf.report.document import Outcome, report_document, request_lines
from pytest_llmperf.search.result import SearchResult

_RESULTS = "llmperf-results"


@dataclass(slots=True)
class Session:
    """Mutable on purpose: the one place that grows while tests run."""

    output: Path
    """This session's own folder; made when the first thing is written."""
    dialect: str | None = None
    """Name of the tool under whose definitions metrics are reported beside ours."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By test id, in the order in which they were begun."""
    searches: dict[str, SearchResult] = field(default_factory=dict)
    """By test id: what the searches have found, each with a folder of its own for its points."""
    _begun: set[Path] = field(default_factory=set)
    written: list[str] = field(default_factory=list)
    """Sentences about files that were written, for the summary."""
    notes: list[str] = field(default_factory=list)
    """Sentences about the session as a whole."""

    def update(self, test: str, point_id: str, **facts: Any) -> Outcome:
        """Note `facts` (fields of Outcome) about a test."""
        known = self.outcomes.get(test) or Outcome(test, point_id, None)
        self.outcomes[test] = replace(known, **facts)
        return self.outcomes[test]

    def add_rerun(self, test: str, point_id: str, why: str) -> None:
        """Note that a point is run once more."""
        known = self.outcomes[test].reruns if test in self.outcomes else ()
        self.update(test, point_id, reruns=(*known, why))

    def log_dir(self) -> Path:
        """Folder for server logs."""
        return self._folder() / "servers"

    def save_requests(self, test: str, run: Run, point: LoadPoint, level: float | None = None) -> None:
        """Append one run's requests to the point's JSONL file; of a capacity search with the `level` of the run."""
        path = self._folder() / "requests" / f"{file_name(test)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder given by the user may hold an earlier session's file: that is replaced, this session's appended to.
        mode = "a" if path in self._begun else "w"
        self._begun.add(path)
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in request_lines(run, point, level))

    def write_report(self, extra: Path | None) -> Mapping[str, Any]:
        """`report.json` in the output folder, and the same at `extra`."""
        document = report_document(
            list(self.outcomes.values()), self.started, self.dialect, self.notes, tuple(self.searches.values())
        )
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        for path in [self._folder() / "report.json", *([extra] if extra else [])]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return document

    def write_exports(self, names: Sequence[str]) -> None:
        """Other tools' files, in a folder per test: `export/<test>/profile_export_aiperf.json` and so on."""
        measured = [(test, o.result) for test, o in self.outcomes.items() if o.result and o.result.runs]
        for test, result in measured if names else ():
            folder = self._folder() / "export" / file_name(test)
            folder.mkdir(parents=True, exist_ok=True)
            texts = [EXPORTS[name](result) for name in names if name in EXPORTS]
            for name, text in chain.from_iterable(files.items() for files in texts):
                (folder / name).write_text(text, encoding="utf-8", newline="")
            if "parquet" in names:
                write_parquet(result.runs, folder / "requests.parquet")
        for sweep, text in analyze.analyze_files(measured).items() if "genai-perf" in names else ():
            path = self._folder() / "export" / file_name(sweep) / analyze.FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
        if names and measured:
            self.written.append(f"exports: {self.output / 'export'}")

    def write_html(self, path: Path, baselines: Mapping[str, Mapping[str, Histogram]]) -> None:
        """The report as one file; `baselines` are the histograms that tests were compared with."""
        from pytest_llmperf.report.html.page import html_report  # its libraries are of an extra

        text = html_report(
            list(self.outcomes.values()), self.started, self.notes, baselines, tuple(self.searches.values())
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.written.append(f"HTML report: {path}")

    def _folder(self) -> Path:
        if not self.output.exists():
            self.output.mkdir(parents=True, exist_ok=True)
            if self.output.parent.name == _RESULTS:  # the parent of a folder that the user chose is not ours
                _point_latest_at(self.output)
                _keep_out_of_git(self.output.parent)
        return self.output


def default_output(root: Path) -> Path:
    """`<root>/llmperf-results/<local time>`, not yet made."""
    base = root / _RESULTS / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return base if not base.exists() else base.with_name(f"{base.name}-{os.getpid()}")


def _point_latest_at(folder: Path) -> None:
    """A `latest` link beside the session folders; where links cannot be made, none."""
    link = folder.parent / "latest"
    with contextlib.suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(folder.name)


def _keep_out_of_git(folder: Path) -> None:
    """Results are of one machine and moment; what is there already is the user's."""
    with contextlib.suppress(FileExistsError), (folder / ".gitignore").open("x", encoding="utf-8") as file:
        file.write("# Made by pytest-llmperf: baselines are for git, results are not.\n*\n")
