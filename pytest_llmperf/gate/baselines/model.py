"""The data of a baseline: sessions of runs, rolling and anchor. Pure; `growth` makes them, `file` reads and writes
them.

A rolling baseline follows what is measured, so it follows a slow drift too. The anchor does not: it is what a person
last accepted, and every session is held against both.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pytest_llmperf.boundary.file_names import file_name
from pytest_llmperf.definitions import Quantity, parse_quantity, quantity_names
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.fingerprint import Identity, changes, circumstances, identity, soft_args
from pytest_llmperf.gate.load_facts import changed_load, measured_how, measured_otherwise, unknown_before
from pytest_llmperf.metrics.answers import Answers, answers_of
from pytest_llmperf.metrics.result import Result
from pytest_llmperf.metrics.stats.agreement import agreement
from pytest_llmperf.metrics.stats.histogram import Histogram
from pytest_llmperf.telemetry.environment import Environment
from pytest_llmperf.units import counted

HISTOGRAMS = ("ttft", "itl", "e2e")
_SENT_OTHERWISE = (
    "what is sent changed though no key of the load did: the contents of a file of prompts, a trace or a tokenizer, or "
    "the version of pytest-llmperf (it was {})"
)
RENEW_HINT = "make this session the baseline with --llmperf-accept"

StoredReference = Literal["rolling", "anchor"]
QUANTITIES = tuple(map(parse_quantity, quantity_names()))


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run as it is kept."""

    values: Mapping[Quantity, float | None]
    """The run's value of every quantity, to six significant digits; None where its sample was empty."""
    n: Mapping[str, int]
    """Sample size by metric; of a rate, the requests that it is made of."""
    histograms: Mapping[str, Histogram]
    """Histograms in ms by metric of HISTOGRAMS; empty in files that were migrated from schema 1, which had none."""


Launches = tuple[tuple[StoredRun, ...], ...]
"""Runs by server launch."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The tool and files of a session that another tool measured (`llmperf import --baseline`)."""

    tool: str
    """The tool's name and version."""
    files: tuple[str, ...]
    """Names of the files, a run each."""
    left_out: Mapping[str, str]
    """Reasons, by metric, for a missing value: its definition is another, or the files do not hold it."""
    notes: tuple[str, ...]
    """Consequences of the tool's own definitions for the other metrics."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One pytest session's measurement of a point: commit, environment, server, and its runs."""

    id: str
    """Id that is unique in the file: the session's start, and a digest of its measurements."""
    started: datetime
    """Aware, UTC, whole seconds."""
    git_sha: str | None
    """Commit of the project under test; None outside git."""
    environment: Environment
    """The machine's facts, with the engine's version and the tool's (`llmperf`)."""
    args: Mapping[str, Any]
    """The server's arguments that do not change outputs."""
    launches: Launches
    """Runs by server launch; there is at least one launch, and each has at least one run."""
    measuring: Mapping[str, Any] = field(default_factory=dict)
    """The way of measuring (load_facts.measured_how); earlier versions stored a part of it only."""
    imported: Provenance | None = None
    """None: measured by this package."""
    answers: Answers | None = None
    """Scores and digests of its answers; None where the load does not look at them."""

    @property
    def runs(self) -> tuple[StoredRun, ...]:
        return tuple(itertools.chain.from_iterable(self.launches))


@dataclass(frozen=True, slots=True)
class Baseline:
    """The content of a baseline file. A session may be in both `rolling` and `anchor`; each has at least one, oldest
    first.
    """

    path: Path
    test: str
    """The pytest node id."""
    point_id: str
    identity: Identity
    load: Mapping[str, Any]
    """The load point that was recorded; the trace hash and keys beside it (load_facts) are what is compared."""
    margins: Mapping[Quantity, float]
    """Tolerated worsening of what was gated when it was recorded: 0.05 is 5 %."""
    rolling: tuple[StoredSession, ...]
    anchor: tuple[StoredSession, ...]

    def reference(self, name: StoredReference) -> tuple[StoredSession, ...]:
        return self.rolling if name == "rolling" else self.anchor

    @property
    def sessions(self) -> tuple[StoredSession, ...]:
        """All of them once, oldest first."""
        held = {session.id: session for session in (*self.anchor, *self.rolling)}
        return tuple(sorted(held.values(), key=lambda session: (session.started, session.id)))

    @property
    def imported(self) -> Provenance | None:
        """The source of its figures when another tool measured them, else None; such a baseline never grows."""
        return self.rolling[-1].imported

    @property
    def provisional(self) -> bool:
        """One session says nothing about how much sessions differ."""
        return len(self.rolling) < 2

    @property
    def requests(self) -> int | None:
        """Requests per run of its load; None where something else sets the length of a run."""
        found = self.load.get("requests")
        return found if type(found) is int and found > 0 else None

    @property
    def runs(self) -> tuple[Mapping[Quantity, float | None], ...]:
        """Values of all rolling runs."""
        return tuple(run.values for session in self.rolling for run in session.runs)


@dataclass(frozen=True, slots=True)
class Differences:
    """Soft facts that no session of the reference had: the comparison stands, and the report names them."""

    sentences: tuple[str, ...]
    elsewhere: bool
    """True if host, driver, engine version or the way of measuring is new to the reference, and not only the
    server's arguments or its deployment: sessions then differ by more (margins.elsewhere).
    """


def baseline_path(folder: Path, slug: str, nodeid: str) -> Path:
    """`tests/test_a.py::test_serving[tp2-short]` -> `<folder>/<slug>/tests/test_a/test_serving-tp2-short.json`.

    A test outside of pytest's root folder, or in a file that is no Python, has no such folder: its name tells all.
    BaselineError where `slug`, which may come from a file, is no name.
    """
    if slug in ("", ".", "..") or "/" in slug or "\0" in slug:
        raise BaselineError(f"{slug!r} is the name of no environment, so there is no folder of its baselines")
    file, separator, _ = nodeid.partition("::")
    place = PurePosixPath(file)
    if place.is_absolute() or ".." in place.parts or place.suffix != ".py" or not separator:
        return folder / slug / f"{file_name(nodeid)}.json"
    return folder / slug / place.with_suffix("") / f"{file_name(nodeid, file + separator)}.json"


def former_path(folder: Path, slug: str, nodeid: str) -> Path:
    """The path by which earlier versions kept a test's baseline, which two tests could share."""
    file, _, name = nodeid.partition("::")
    stem = re.sub(r"[^\w.+-]+", "-", name.replace("::", ".")).strip("-")
    place = Path(file)  # empty of a test outside of pytest's root folder
    return folder / slug / (place.with_suffix("") if place.name else place) / f"{stem}.json"


def per_run(sessions: Sequence[StoredSession], quantity: Quantity) -> tuple[tuple[float | None, ...], ...]:
    """Per-run values by server launch: what the statistic takes for a session. None where a run has no value."""
    return tuple(tuple(run.values.get(quantity) for run in launch) for s in sessions for launch in s.launches)


def sample_sizes(sessions: Sequence[StoredSession], metric: str) -> tuple[int, ...]:
    """Size of the metric's sample in every run; 0 where it is not known."""
    return tuple(run.n.get(metric, 0) for session in sessions for run in session.runs)


def assert_comparable(baseline: Baseline, result: Result) -> None:
    """BaselineError when a hard fact differs, since then nothing compares."""
    assert_alike(baseline, identity(result), result.load.as_dict(), lambda: _guard_clause(baseline, result))


def assert_alike(
    baseline: Baseline, now: Identity, load: Mapping[str, Any], clause: Callable[[], str] = lambda: ""
) -> None:
    """BaselineError when a hard fact of a point (with the JSON data of its load) differs from the baseline's.

    `clause` gives one to add where an argument that changes output is among them.
    """
    facts = tuple(changes(asdict(baseline.identity), asdict(now)))
    hard = [sentence for path, sentence in facts if path != "trace_hash"]
    # Another tool sent prompts of its own: that they compare all the same is the user's claim, which the notes repeat.
    if now.trace_hash != baseline.identity.trace_hash and not baseline.imported:
        hard += changed_load(baseline.load, load) or [_SENT_OTHERWISE.format(baseline.rolling[-1].environment.llmperf)]
    if hard:
        added = clause() if any(path.startswith("output_args.") for path, _ in facts) else ""
        raise BaselineError(
            f"baseline {baseline.path} is not comparable: {'; '.join(hard)}{added}. If the change is meant, "
            f"{RENEW_HINT}"
        )


def _guard_clause(baseline: Baseline, result: Result) -> str:
    """Clause on what the output guard sees of a changed locked argument; empty where answers are not guarded."""
    then = [run for session in baseline.rolling if session.answers for run in session.answers.outputs]
    now = answers_of(result.runs)
    try:
        found = agreement(then, now.outputs if now else ())
    except ValueError:
        return ""
    return f"; by the output guard {len(found.changed)} of {found.prompts} prompts have an answer of no baseline run"


def differences(baseline: Baseline, result: Result, reference: StoredReference = "rolling") -> Differences:
    """Soft facts of the result that no session of the reference had, as differences to the newest session.

    BaselineError when a hard fact differs.
    """
    assert_comparable(baseline, result)
    if baseline.imported:
        count = counted(len(baseline.imported.files), "file")
        note = f"client and prompts changed: it was imported from {baseline.imported.tool} ({count})"
        return Differences((f"{note}; record one of your own with --llmperf-accept",), elsewhere=True)
    now, sessions = circumstances(result.environment, soft_args(result)), baseline.reference(reference)
    found = [dict(changes(circumstances(s.environment, s.args), now)) for s in sessions]
    new = {path: sentence for path, sentence in found[-1].items() if all(path in others for others in found)}
    measured, how = [s.measuring for s in sessions], measured_how(result)
    otherwise = tuple(measured_otherwise(measured, how))
    sentences = (*new.values(), *otherwise, *filter(None, [unknown_before(measured, how)]))
    return Differences(sentences, bool(otherwise) or not all(map(_is_the_servers, new)))


def _is_the_servers(path: str) -> bool:
    """True if a fact is a setting of the server's, whose change is the kind that the gate looks for."""
    return path.startswith(("args.", "deployment.")) and path != "deployment.machines"
