"""The text of a baseline file to a Baseline, schema llmperf.baseline/2. Pure.

Files are edited by hand and merged by git, so everything that is read is checked: a baseline that was misread would be
a wrong verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from pytest_llmperf import __version__
from pytest_llmperf.definitions import METRICS, STATISTICS, Metric, Quantity, parse_quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.fingerprint import Identity
from pytest_llmperf.gate.baselines.model import HISTOGRAMS, RENEW_HINT, Baseline, Provenance, StoredRun, StoredSession
from pytest_llmperf.gate.load_facts import hard_facts, measuring_facts
from pytest_llmperf.metrics.answers import Answers
from pytest_llmperf.metrics.summary import contradiction
from pytest_llmperf.telemetry.environment import Environment

SCHEMA_NAME = "llmperf.baseline"
SCHEMA_VERSION = 2
_SMALLEST, _LARGEST = 1e-9, 1e12
"""Bounds of a value that is not 0, in its metric's unit."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Run(_Part):
    requests: dict[str, NonNegativeInt]
    scalars: dict[str, float | None]
    distributions: dict[str, dict[str, float]]
    histograms: dict[str, dict[int, PositiveInt]]


class _Answers(_Part):
    scores: dict[str, dict[str, Annotated[float, Field(ge=0, le=1)]]]
    outputs: list[dict[str, str]]
    texts: dict[str, str]


class _Session(_Part):
    id: str = Field(min_length=1)
    started: AwareDatetime
    git_sha: str | None
    environment: Environment
    args: dict[str, Any]
    launches: list[list[_Run]]
    measuring: dict[str, Any] = {}
    imported: Provenance | None = None
    answers: _Answers | None = None


class _File(_Part):
    schema_: str = Field(alias="schema")
    llmperf: str
    test: str
    point_id: str
    identity: Identity
    load: dict[str, Any]
    margins: dict[str, float]
    rolling: list[str]
    anchor: list[str]
    sessions: list[_Session]


def parse_baseline(text: str, path: Path) -> Baseline:
    """The baseline that a file with this text holds; `path` is for the messages. BaselineError as of read_baseline."""
    try:
        name, version = schema_of(parse_json(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BaselineError(damaged(path, error)) from error
    if name == SCHEMA_NAME and 0 < version < SCHEMA_VERSION:
        raise BaselineError(
            f"baseline {path} has schema {name}/{version}, this version ({__version__}) reads {SCHEMA_VERSION}; "
            f"bring it up to date with `llmperf baseline migrate {path}`"
        )
    if (name, version) != (SCHEMA_NAME, SCHEMA_VERSION):
        raise BaselineError(
            f"baseline {path} has schema '{name}/{version}'; this version ({__version__}) reads "
            f"{SCHEMA_NAME}/{SCHEMA_VERSION}; upgrade pytest-llmperf, or {RENEW_HINT}"
        )
    try:
        return _baseline(_File.model_validate_json(text, strict=True), path)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BaselineError(damaged(path, f"{where}: {problem['msg']}")) from error
    except ValueError as error:
        raise BaselineError(damaged(path, error)) from error


def parse_json(text: str) -> Any:
    """ValueError for what is no JSON, and for numbers that are none (NaN, 1e999)."""
    return json.loads(text, parse_constant=_no_number, parse_float=_finite)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def schema_of(data: Any) -> tuple[str, int]:
    """Name and version; ValueError, KeyError or TypeError where there is none."""
    name, _, version = str(data["schema"]).partition("/")
    return name, int(version)


def damaged(path: Path, problem: object) -> str:
    reason = f"no {problem}" if isinstance(problem, KeyError) else str(problem)
    if isinstance(problem, OSError) and problem.strerror:
        reason = problem.strerror
    return f"baseline {path} is damaged ({reason}); restore it from git, or {RENEW_HINT}"


def _baseline(file: _File, path: Path) -> Baseline:
    how = measuring_facts(file.load, file.identity.engine)
    sessions = {held.id: _session(held, how) for held in file.sessions}
    if len(sessions) < len(file.sessions):
        raise ValueError("two sessions have the same id")
    if not sessions:
        raise ValueError("it holds no run")
    if unused := sessions.keys() - {*file.rolling, *file.anchor}:
        raise ValueError(f"session {min(unused)} is neither rolling nor anchor")
    return Baseline(
        path=path,
        test=file.test,
        point_id=file.point_id,
        identity=replace(file.identity, load=hard_facts(file.load)),
        load=file.load,
        margins={parse_quantity(name): margin for name, margin in file.margins.items()},
        rolling=_named(file.rolling, sessions, "rolling"),
        anchor=_named(file.anchor, sessions, "anchor"),
    )


def _named(ids: list[str], sessions: Mapping[str, StoredSession], what: str) -> tuple[StoredSession, ...]:
    """The sessions of a reference, oldest first (git may have merged them in any order)."""
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"{what} names {'a session twice' if ids else 'no session'}")
    if missing := [name for name in ids if name not in sessions]:
        raise ValueError(f"{what} names the session {missing[0]}, which is not there")
    return tuple(sorted((sessions[name] for name in ids), key=lambda session: (session.started, session.id)))


def _session(file: _Session, how: Mapping[str, Any]) -> StoredSession:
    """`how` the load of the file was measured: what sessions of earlier versions do not hold themselves."""
    launches = tuple(tuple(map(_run, runs)) for runs in file.launches)
    if not launches or not all(launches):
        raise ValueError(f"session {file.id} has a launch without runs, or none")
    facts = (file.id, file.started, file.git_sha, file.environment, file.args, launches)
    given = file.answers
    answers = None if given is None else Answers(given.scores, tuple(given.outputs), given.texts)
    return StoredSession(*facts, {**how, **file.measuring}, file.imported, answers)


def _run(file: _Run) -> StoredRun:
    values: dict[Quantity, float | None] = {}
    counts: dict[str, int] = {}
    for metric in METRICS.values():
        if metric.kind == "scalar":
            values[Quantity(metric.name)] = _scalar(file, metric)
            counts[metric.name] = file.requests["sent" if metric.n_of == "sent" else "ok"]
        else:
            row = _row(file, metric)
            counts[metric.name] = int(row["n"])
            values.update((Quantity(metric.name, stat), row.get(stat)) for stat in STATISTICS)
    return StoredRun(values, counts, _histograms(file, counts))


def _scalar(file: _Run, metric: Metric) -> float | None:
    if missing := {"ok", "sent"} - file.requests.keys():
        raise ValueError(f"a run's requests have no {min(missing)!r}")
    if metric.name not in file.scalars and metric.since <= SCHEMA_VERSION:
        raise ValueError(f"a run has no {metric.key!r}")
    value = file.scalars.get(metric.name)
    if value is not None and value < 0:
        raise ValueError(f"{metric.key} is {value:g}, which cannot be negative")
    _check_size(metric.key, value or 0.0)
    return value


def _row(file: _Run, metric: Metric) -> dict[str, float]:
    """Statistics and n of a distribution; only n = 0 where the sample is empty."""
    row = file.distributions.get(metric.key)
    if row is None and metric.since > SCHEMA_VERSION:
        return {"n": 0}
    if row is None or not float(row.get("n", 0.5)).is_integer() or row["n"] < 0:
        raise ValueError(f"a run has no {metric.key!r} with its n")
    expected = {*STATISTICS, "n"} if row["n"] else {"n"}
    if wrong := row.keys() ^ expected:
        raise ValueError(f"{metric.key} of {row['n']:g} values: {min(wrong)!r} is missing or too much")
    negative = [stat for stat, value in row.items() if value < 0]
    if negative and not metric.may_be_negative:
        raise ValueError(f"{metric.key} {negative[0]} is {row[negative[0]]:g}, which cannot be negative")
    _check_row(metric.key, row)
    return row


def _check_row(key: str, row: Mapping[str, float]) -> None:
    """ValueError where no sample has these statistics together: somebody edited one of them."""
    for stat, value in row.items():
        if stat != "std":  # of equal values it is what rounding leaves
            _check_size(f"{key} {stat}", value)
    if problem := contradiction(row, row.get("mean")):
        raise ValueError(f"{key}: {problem}")


def _check_size(what: str, value: float) -> None:
    if value and not _SMALLEST <= abs(value) <= _LARGEST:
        raise ValueError(f"{what} is {value:g}, which nothing measures")


def _histograms(file: _Run, counts: Mapping[str, int]) -> dict[str, dict[int, int]]:
    if not file.histograms:
        return {}
    for name in HISTOGRAMS:
        if sum(file.histograms.get(METRICS[name].key, {"": -1}).values()) != counts[name]:
            raise ValueError(f"the histogram of {name} does not hold the {counts[name]} values of the run")
    return {name: file.histograms[METRICS[name].key] for name in HISTOGRAMS}
