"""The folder that one pytest session (or one `llmperf` command) writes into, and every point's outcome so far.

Outcomes are kept from the first run on and every run's requests are on disk when it ends, so that an interrupted or
crashed session loses nothing that was measured. Reports are written by `report.files`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack
from uuid import uuid4

from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.boundary.files import inside, open_end, open_new
from pytest_llmperf.boundary.secrets import redacted
from pytest_llmperf.errors import PlanError
from pytest_llmperf.gate.regression import Regression
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.compliance import SlaCheck
from pytest_llmperf.metrics.summary import in_drain, run_window
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import RequestRecord, Run

_RESULTS = "llmperf-results"
_RECORD_FIELDS = [field.name for field in fields(RequestRecord)]
_RARE = {field.name: field.default for field in fields(RequestRecord)[_RECORD_FIELDS.index("answers") :]}
"""Facts that are in a line only where they differ from what nearly every answer has."""


class Facts(TypedDict, total=False):
    """Fields of an Outcome that become known while its test runs."""

    result: Result
    sla: tuple[SlaCheck, ...]
    regression: Regression
    error: str | None
    passed: bool | None
    taken_from: datetime | None
    reruns: tuple[str, ...]


@dataclass(slots=True)
class RunFolder:
    """Stores what is measured, test by test, and where on disk it goes."""

    output: Path
    """The folder, made when the first thing is written."""
    dialect: str | None = None
    """Name of the tool under whose definitions metrics are reported beside ours."""
    commit: str | None = None
    """Commit of the project under test; None outside git."""
    session: str = field(default_factory=lambda: uuid4().hex)
    """Id by which the history knows the session."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """Outcomes by test id, in the order in which they were begun."""
    _begun: set[Path] = field(default_factory=set)
    _spare: Path | None = None
    """Takes what `output` does not."""
    _spared: set[str] = field(default_factory=set)
    is_whole: bool = True
    """True if every file that was written below it is there."""
    _claim: int | None = None
    """Descriptor of the folder, whose lock tells other sessions that this one writes there."""
    is_new: bool = False
    """True if `claim` makes it: under another name where another session has made one of this name."""
    written: list[str] = field(default_factory=list)
    """Sentences about files that were written, for the summary."""
    notes: list[str] = field(default_factory=list)
    """Sentences about the session as a whole."""

    def note(self, test: str, point_id: str, **facts: Unpack[Facts]) -> Outcome:
        """Stores facts about a test beside those that are known already, and returns them all.

        A result without runs takes the place of none with runs: a test that is run again may come to nothing. Another
        result of a test that has ended begins it anew: what was said until then was said of other runs.
        """
        known = self.outcomes.get(test) or Outcome(test, point_id, None)
        if known.result and known.result.runs and "result" in facts and not facts["result"].runs:
            del facts["result"]
        if known.passed is not None and known.result and "result" in facts:
            known = Outcome(test, point_id, None)
        self.outcomes[test] = replace(known, **facts)
        return self.outcomes[test]

    def add_rerun(self, test: str, point_id: str, why: str) -> None:
        """Stores why a point is run once more."""
        known = self.outcomes[test].reruns if test in self.outcomes else ()
        self.note(test, point_id, reruns=(*known, why))

    def claim(self) -> None:
        """Makes the folder this session's own until `release`; of two that begin at once, each has one of its own.

        PlanError when another session writes to the folder that was asked for, or when nothing can be written there.
        """
        try:
            if self.is_new:
                self._make_own()
            folder = self.made()
            with tempfile.TemporaryFile(dir=folder):
                pass
            claim = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PlanError(
                f"output folder {self.output}: {error.strerror}; another one is chosen by --llmperf-output (--output)"
            ) from error
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            raise PlanError(
                f"output folder {self.output}: another session is writing there; wait for its end, or choose another "
                "one by --llmperf-output (--output)"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._claim = claim

    def _make_own(self) -> None:
        """Makes the folder; where another session has made one of this name meanwhile, another. Raises OSError."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.output.mkdir()
        except FileExistsError:
            self.output = self.output.with_name(f"{self.output.name}-{os.getpid()}")
            self.output.mkdir()
        _add_link_and_gitignore(self.output)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Claims the folder for as long as the block lasts. Raises PlanError as `claim` does."""
        self.claim()
        try:
            yield
        finally:
            self.release()

    @property
    def is_claimed(self) -> bool:
        """True if the folder is this session's own."""
        return self._claim is not None

    def release(self) -> None:
        """Lets other sessions write to the folder."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def log_dir(self) -> Path:
        """Folder for server logs. ServerError would be late: PlanError when it leads out of the output folder."""
        try:
            return inside(self.made(), "servers", "log").parent
        except OSError as error:
            raise PlanError(f"folder of the server logs: {error}") from error

    def save_requests(self, test: str, run: Run, point: LoadPoint, level: float | None = None) -> None:
        """Append one run's requests to the point's JSONL file; of a capacity search with the `level` of the run."""
        lines = (json.dumps(_without_secrets(line)) + "\n" for line in request_lines(run, point, level))
        data = "".join(lines).encode()
        self.store(lambda path: self._append(path, data), "requests", f"{file_name(test)}.jsonl")

    def store(self, write: Callable[[Path], None], *names: str) -> Path | None:
        """Writes a file below the folder, or where that fails (a full disk) in a spare one, which a note names.

        Returns where it is; None, with a note, where neither could be written: measuring goes on.
        """
        try:
            path = inside(self.made(), *names)
            write(path)
            return path
        except OSError as error:
            self.is_whole = False
            why = f"{'/'.join(names)}: {error.strerror} ({self.output})"
        try:
            self._spare = self._spare or Path(tempfile.mkdtemp(prefix="llmperf-"))
            path = inside(self._spare, *names)
            write(path)
        except OSError as error:
            self.add_note(f"not written: {why}; nor to {self._spare or 'a temporary folder'}: {error.strerror}")
            return None
        self._spared.add(path.name)
        self.add_note(f"not written: {why}; it is in {path}")
        return path

    @property
    def report_path(self) -> Path:
        """Path of the report, which exists once it is written."""
        folder = self._spare if self._spare and "report.json" in self._spared else self.output
        return folder / "report.json"

    def add_note(self, note: str) -> None:
        """Notes a sentence once."""
        if note not in self.notes:
            self.notes.append(note)

    def _append(self, path: Path, data: bytes) -> None:
        """A folder given by the user may hold an earlier session's file: that is replaced, this session's appended to.

        All of it or nothing: a line that is cut off would spoil the whole file for its readers.
        """
        with open_end(path) if path in self._begun else open_new(path) as file:
            self._begun.add(path)
            begin = file.seek(0, os.SEEK_END)
            try:
                file.write(data)
                file.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(begin)
                raise

    def made(self) -> Path:
        """Returns the folder, which exists from now on. Raises OSError."""
        if not self.output.is_dir():
            self.output.mkdir(parents=True, exist_ok=True)
            if self.output.parent.name == _RESULTS:  # the parent of a folder that the user chose is not ours
                _add_link_and_gitignore(self.output)
        return self.output


def _without_secrets(line: Mapping[str, Any]) -> dict[str, Any]:
    """Texts are few among the facts of a request."""
    return {name: redacted(fact) if isinstance(fact, str) else fact for name, fact in line.items()}


def default_output(root: Path) -> Path:
    """`<root>/llmperf-results/<local time>`, not yet made."""
    base = root / _RESULTS / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return base if not base.exists() else base.with_name(f"{base.name}-{os.getpid()}")


def _add_link_and_gitignore(folder: Path) -> None:
    """Points `latest` at the folder, where links can be made, and keeps results out of git; what is there stays."""
    link = folder.parent / "latest"
    with contextlib.suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(folder.name)
    with contextlib.suppress(FileExistsError), (folder.parent / ".gitignore").open("x", encoding="utf-8") as file:
        file.write("# Made by pytest-llmperf: baselines are for git, results are not.\n*\n")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A point as the report shows it: the result, its verdicts (None: not checked), and the test's own end."""

    test: str
    point_id: str
    result: Result | None
    sla: tuple[SlaCheck, ...] | None = None
    regression: Regression | None = None
    error: str | None = None
    """The error by which there is no verdict: the server died, the baseline is missing, …; None without one."""
    reruns: tuple[str, ...] = ()
    """The reason for each run after the first runs, once per run."""
    passed: bool | None = None
    """True if the test passed; None when it was interrupted."""
    taken_from: datetime | None = None
    """Time of the measurement in an earlier session; None: it was made in this one."""


def request_lines(run: Run, point: LoadPoint, level: float | None = None) -> Iterator[Mapping[str, Any]]:
    """One JSON object per request, times in ns of CLOCK_REALTIME as in RequestRecord.

    `drain` says that it ended after the window, when the load was no longer what the point asks for. Those of a
    capacity search have the `level` that they were sent at.
    """
    at = {} if level is None else {"level": level}
    window = run_window(run, point)
    for record in run.records:
        yield {"run": run.index + 1, **at, "drain": window is not None and in_drain(record, window), **_facts(record)}


def _facts(record: RequestRecord) -> dict[str, Any]:
    """The fields, without a copy of every token's time, which `asdict` makes: a microsecond of CPU each."""
    facts = {name: getattr(record, name) for name in _RECORD_FIELDS}
    usual = [name for name, default in _RARE.items() if facts[name] == default]
    if all(count == 1 for count in record.first_chunk_tokens):
        usual.append("first_chunk_tokens")
    return {name: fact for name, fact in facts.items() if name not in usual}
