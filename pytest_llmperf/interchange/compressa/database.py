"""compressa-perf's SQLite file: experiments with parameters, metrics and a row per request, in seconds throughout."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pytest_llmperf.boundary.files import open_file
from pytest_llmperf.errors import LlmPerfError

_HEAD = b"SQLite format 3\x00"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS Experiments (id INTEGER PRIMARY KEY AUTOINCREMENT, experiment_name TEXT NOT NULL,
    experiment_date DATETIME DEFAULT CURRENT_TIMESTAMP, description TEXT);
CREATE TABLE IF NOT EXISTS Parameters (id INTEGER PRIMARY KEY AUTOINCREMENT, experiment_id INTEGER NOT NULL,
    key TEXT NOT NULL, value TEXT NOT NULL, FOREIGN KEY (experiment_id) REFERENCES Experiments(id));
CREATE TABLE IF NOT EXISTS Metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, experiment_id INTEGER NOT NULL,
    metric_name TEXT NOT NULL, metric_value REAL NOT NULL, timestamp DATETIME DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (experiment_id) REFERENCES Experiments(id));
CREATE TABLE IF NOT EXISTS Measurements (id INTEGER PRIMARY KEY AUTOINCREMENT, experiment_id INTEGER NOT NULL,
    n_input INTEGER NOT NULL, n_output INTEGER NOT NULL, ttft REAL NOT NULL, start_time REAL NOT NULL,
    end_time REAL NOT NULL, status TEXT NOT NULL, FOREIGN KEY (experiment_id) REFERENCES Experiments(id))
"""
_FIRST_YEAR = 2020
_MOST_ROWS = 10_000_000
_DATE = "%Y-%m-%d %H:%M:%S"


class CompressaError(LlmPerfError):
    """A database of compressa-perf cannot be read or written; the message names the file."""


class StoredRequest(NamedTuple):
    """One request; times are seconds of the epoch."""

    n_input: int
    n_output: int
    ttft: float
    start_time: float
    end_time: float
    status: str
    """`success` or `failed`."""


@dataclass(frozen=True, slots=True)
class StoredExperiment:
    """One experiment."""

    number: int
    name: str
    date: datetime
    """Local time, as the tool writes it."""
    description: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    measurements: tuple[StoredRequest, ...]


def is_database(path: Path) -> bool:
    """True if a file is SQLite with the tool's tables."""
    with open_file(path) as file:
        if file.read(len(_HEAD)) != _HEAD:
            return False
    with _opened(path) as sql:
        names = {name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {"Experiments", "Measurements"} <= names


def read_experiments(path: Path) -> Iterator[StoredExperiment]:
    """Yields the experiments in the file, the oldest first. CompressaError says what cannot be read."""
    with _opened(path) as sql:
        (count,) = sql.execute("SELECT count(*) FROM Measurements").fetchone()
        if count > _MOST_ROWS:
            raise CompressaError(f"{path}: {count:,} measurements; {_MOST_ROWS:,} are the most that are read")
        facts = "SELECT id, experiment_name, experiment_date, description FROM Experiments ORDER BY id"
        for number, name, date, description in sql.execute(facts).fetchall():

            def rows(columns: str, table: str, number: int = number) -> list[tuple[object, ...]]:
                query = f"SELECT {columns} FROM {table} WHERE experiment_id = ? ORDER BY id"
                return sql.execute(query, (number,)).fetchall()

            yield StoredExperiment(
                number=int(number),
                name=str(name),
                date=_date(str(date)),
                description=str(description or ""),
                parameters={str(key): str(value) for key, value in rows("key, value", "Parameters")},
                metrics={str(key): _number(value) for key, value in rows("metric_name, metric_value", "Metrics")},
                measurements=tuple(map(_measurement, rows(", ".join(StoredRequest._fields), "Measurements"))),
            )


def _date(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.year < _FIRST_YEAR:
        raise ValueError(f"an experiment's date is {text!r}, before there were any")
    return moment


def _measurement(row: tuple[object, ...]) -> StoredRequest:
    """SQLite keeps any value in any column, so each is looked at."""
    *numbers, status = row
    n_input, n_output, ttft, start_time, end_time = map(_number, numbers)
    return StoredRequest(int(n_input), int(n_output), ttft, start_time, end_time, str(status))


def _number(value: object) -> float:
    found = float(str(value))
    if not math.isfinite(found):
        raise ValueError(f"{found} is no number that could have been measured")
    return found


def add_experiment(
    path: Path,
    name: str,
    date: datetime,
    description: str,
    parameters: Mapping[str, str],
    metrics: Mapping[str, float],
    measurements: Sequence[StoredRequest],
) -> int:
    """Adds an experiment to the file, which is made where it is not there; returns its number. CompressaError."""
    moment = date.astimezone().strftime(_DATE)
    with _opened(path, "rwc") as sql, sql:
        for statement in _SCHEMA.split(";"):
            sql.execute(statement)
        facts = (name, moment, description)
        number = sql.execute(
            "INSERT INTO Experiments (experiment_name, experiment_date, description) VALUES (?, ?, ?)", facts
        ).lastrowid
        sql.executemany(
            "INSERT INTO Parameters (experiment_id, key, value) VALUES (?, ?, ?)",
            [(number, *pair) for pair in parameters.items()],
        )
        sql.executemany(
            "INSERT INTO Metrics (experiment_id, metric_name, metric_value, timestamp) VALUES (?, ?, ?, ?)",
            [(number, *pair, moment) for pair in metrics.items()],
        )
        columns = ", ".join(("experiment_id", *StoredRequest._fields))
        sql.executemany(
            f"INSERT INTO Measurements ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(number, *one) for one in measurements],
        )
    assert number is not None
    return number


@contextlib.contextmanager
def _opened(path: Path, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """The file as a connection; `mode` is SQLite's, by default for reading alone."""
    address = f"file:{quote(str(path.absolute()))}?mode={mode}"
    try:
        with contextlib.closing(sqlite3.connect(address, timeout=30, uri=True)) as sql:
            sql.execute("PRAGMA trusted_schema = OFF")
            yield sql
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise CompressaError(f"{path}: {error}") from error
