"""The history's file: SQLite with a write-ahead log, so that sessions may write while others do and a crash costs none.

A file of an older version is brought up to date when it is opened; one of a newer version is refused.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pytest_llmperf import clock
from pytest_llmperf.history.session import HistoryError, HistoryPoint, HistorySession, stored_point

_APPLICATION = 0x6C6C6D70
"""The file's application id ("llmp"): what has another one is another program's."""
_APPLICATION_AT = slice(68, 72)
"""Place of the application id in an SQLite file."""
_LOCK_TIMEOUT_S = 30.0
"""Longest wait for another writer."""
_MIGRATIONS = (
    """
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY, started TEXT NOT NULL, commit_id TEXT, version TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE points (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
        test TEXT NOT NULL, name TEXT NOT NULL, environment TEXT, engine TEXT, measured TEXT, verdict TEXT NOT NULL,
        reasons TEXT NOT NULL, parameters TEXT NOT NULL, "values" TEXT NOT NULL, dialect TEXT NOT NULL,
        UNIQUE (session, test)
    );
    CREATE INDEX points_by_name ON points (name, measured);
    CREATE TABLE runs (
        point INTEGER NOT NULL REFERENCES points ON DELETE CASCADE,
        number INTEGER NOT NULL, launch INTEGER NOT NULL, valid INTEGER NOT NULL, "values" TEXT NOT NULL,
        PRIMARY KEY (point, number)
    ) WITHOUT ROWID;
    """,
)
"""Each brings a file from the version before it to its own, counted from 1."""
VERSION = len(_MIGRATIONS)


class FoundPoint(NamedTuple):
    """A point with what its session adds."""

    number: int
    """Number by which commands name the point."""
    session: str
    started: datetime
    """Start of its session."""
    commit: str | None
    point: HistoryPoint


class History:
    """An open history."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._sql, self.path = connection, path

    def add(self, session: HistorySession) -> None:
        """Stores a session; one that is there already is replaced, its points keep their ids. All of it, or nothing."""
        with self._writing():
            self._add_session(session)
            for point in session.points:
                self._add_point(session.id, point)

    def take_over(self, session: HistorySession) -> None:
        """Stores what another file holds of a session. A point that is here stays as it is, unless theirs is a later
        state of it: a copy may be older.
        """
        with self._writing():
            self._add_session(session)
            held = {found.point.test: found.point for found in self.of_session(session.id)}
            for point in session.points:
                if point.test not in held or _state(point) > _state(held[point.test]):
                    self._add_point(session.id, point)

    def _add_session(self, session: HistorySession) -> None:
        self._sql.execute(
            "INSERT INTO sessions (id, started, commit_id, version) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET commit_id = coalesce(commit_id, excluded.commit_id)",
            (session.id, _text(session.started), session.commit, session.version),
        )

    def _add_point(self, session: str, point: HistoryPoint) -> None:
        facts = asdict(point)
        del facts["runs"]
        facts["measured"] = point.measured and _text(point.measured)
        row = {"session": session} | {k: json.dumps(v) if isinstance(v, dict | tuple) else v for k, v in facts.items()}
        columns = ", ".join(f'"{name}"' for name in row)
        changed = ", ".join(f'"{name}" = excluded."{name}"' for name in row)
        (point_id,) = self._sql.execute(
            f"INSERT INTO points ({columns}) VALUES ({', '.join('?' * len(row))}) "
            f"ON CONFLICT (session, test) DO UPDATE SET {changed} RETURNING id",
            tuple(row.values()),
        ).fetchone()
        self._sql.execute("DELETE FROM runs WHERE point = ?", (point_id,))
        rows = [(point_id, run.number, run.launch, run.valid, json.dumps(run.values)) for run in point.runs]
        self._sql.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", rows)

    def sessions(self) -> Iterator[HistorySession]:
        """Yields all sessions, the oldest first."""
        for row in self._rows("SELECT * FROM sessions ORDER BY started, id"):
            yield self._session(row)

    def older(self, than: datetime) -> list[tuple[str, datetime, int]]:
        """Returns id, start and number of points of the sessions that began before, the oldest first."""
        query = (
            "SELECT s.id, s.started, count(p.id) FROM sessions s LEFT JOIN points p ON p.session = s.id "
            "GROUP BY s.id ORDER BY s.started, s.id"
        )
        with _errors(self.path):
            found = [(id, _moment(started), points) for id, started, points in self._rows(query)]
        return [one for one in found if one[1] < than]

    def session(self, start: str) -> HistorySession:
        """Returns the session whose id begins with `start`. Raises HistoryError unless that is exactly one."""
        rows = self._rows("SELECT * FROM sessions WHERE substr(id, 1, ?) = ?", len(start), start)
        if len(rows) != 1:
            many = f"{len(rows)} sessions begin" if rows else "no session begins"
            raise HistoryError(f"{self.path}: {many} with {start!r}; `llmperf history list` shows their ids")
        return self._session(rows[0])

    def _session(self, row: tuple[Any, ...]) -> HistorySession:
        points = tuple(found.point for found in self.of_session(row[0]))
        with _errors(self.path):
            return HistorySession(row[0], _moment(row[1]), row[2], row[3], points)

    def point(self, number: int) -> FoundPoint:
        """Returns a point by its number, with its runs. Raises HistoryError when there is none."""
        for found in self._points("p.id = ?", number):
            return found
        raise HistoryError(f"{self.path}: no point {number}; `llmperf history list` shows their numbers")

    def named(self, name: str) -> Iterator[FoundPoint]:
        """Yields all points of this name, or of the test with this node id, with their runs, the oldest first.

        A point that a later session resumed is there once: its runs were made once.
        """
        where = "(p.name = ? OR p.test = ?) AND p.measured IS NOT NULL"
        yield from self._points(f"{where} {_ONCE}", name, name)

    def of_session(self, session: str) -> Iterator[FoundPoint]:
        """Yields the points of a session, by its whole id, with their runs."""
        yield from self._points("p.session = ? ORDER BY p.id", session)

    def everything(self) -> Iterator[FoundPoint]:
        """Yields all points that were measured, with their runs, as `named` does."""
        yield from self._points(f"p.measured IS NOT NULL {_ONCE}")

    def newest(self, *, name: str = "", parameters: Mapping[str, str] | None = None) -> Iterator[FoundPoint]:
        """Yields points without their runs, the newest first, whose name or test holds `name`.

        `parameters` must have these values; their keys may be cut to the last parts (`concurrency` for
        `load.concurrency`).
        """
        wanted = (parameters or {}).items()
        where = "(instr(p.name, ?) OR instr(p.test, ?)) ORDER BY s.started DESC, p.id DESC"
        for found in self._points(where, name, name, runs=False):
            if all(_has(found.point.parameters, key, value) for key, value in wanted):
                yield found

    def _points(self, where: str, *given: object, runs: bool = True) -> Iterator[FoundPoint]:
        query = f"SELECT {_COLUMNS} FROM points p JOIN sessions s ON s.id = p.session WHERE {where}"
        with _errors(self.path):
            for row in self._sql.execute(query, given):
                yield _found(row, self._runs(row[0]) if runs else (), self.path)

    def _runs(self, point: int) -> tuple[dict[str, Any], ...]:
        rows = self._rows('SELECT number, launch, valid, "values" FROM runs WHERE point = ? ORDER BY number', point)
        names = ("number", "launch", "valid", "values")
        return tuple(dict(zip(names, (*facts, json.loads(values)), strict=True)) for *facts, values in rows)

    def _rows(self, query: str, *given: object) -> list[tuple[Any, ...]]:
        with _errors(self.path):
            return self._sql.execute(query, given).fetchall()

    def delete(self, sessions: Iterable[str]) -> None:
        """Deletes sessions by their whole ids, with their points, and gives the space back."""
        with self._writing():
            self._sql.executemany("DELETE FROM sessions WHERE id = ?", [(one,) for one in sessions])
        with _errors(self.path):
            self._sql.execute("VACUUM")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Does all of the block or nothing, after other writers."""
        with _errors(self.path):
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._sql.execute("ROLLBACK")
                raise
            self._sql.execute("COMMIT")


def is_history(path: Path) -> bool:
    """True if a file is a history, by its first bytes. OSError."""
    with path.open("rb") as file:
        head = file.read(_APPLICATION_AT.stop)
    return head.startswith(b"SQLite format 3") and head[_APPLICATION_AT] == _APPLICATION.to_bytes(4, "big")


def found_points(session: HistorySession) -> list[FoundPoint]:
    """Returns the points of a session that is in no history, numbered from 1."""
    return [FoundPoint(n, session.id, session.started, session.commit, one) for n, one in enumerate(session.points, 1)]


def _state(point: HistoryPoint) -> tuple[float, int, bool]:
    """Sorts states of a point of a session by time: an interrupted one has fewer runs, or no verdict."""
    return (point.measured.timestamp() if point.measured else 0.0, len(point.runs), point.verdict != "ERROR")


def _text(moment: datetime) -> str:
    """A moment as it is stored: in UTC, so that texts are in the order of time."""
    return moment.astimezone(UTC).isoformat()


_ONCE = (
    "AND p.id = (SELECT q.id FROM points q JOIN sessions t ON t.id = q.session "
    "WHERE q.name = p.name AND q.test = p.test AND q.environment IS p.environment AND q.measured = p.measured "
    "ORDER BY (SELECT count(*) FROM runs WHERE point = q.id) DESC, q.verdict = 'ERROR', t.started, q.id LIMIT 1) "
    "ORDER BY p.measured, p.id"
)
"""The state with all runs of a point that sessions resumed, in the first of them that had it."""
_COLUMNS = (
    "p.id, p.session, s.started, s.commit_id, p.test, p.name, p.environment, p.engine, p.measured, p.verdict, "
    'p.reasons, p.parameters, p."values", p.dialect'
)


def _found(row: tuple[Any, ...], runs: tuple[dict[str, Any], ...], path: Path) -> FoundPoint:
    number, session, started, commit, *plain, reasons, parameters, values, dialect = row
    facts = dict(zip(("test", "name", "environment", "engine", "measured", "verdict"), plain, strict=True))
    texts = {"reasons": reasons, "parameters": parameters, "values": values, "dialect": dialect}
    read = {name: json.loads(text) for name, text in texts.items()}
    point = stored_point({**facts, **read, "runs": runs}, f"{path}: point {number}")
    return FoundPoint(number, session, _moment(started), commit, point)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a session's start, {text!r}, has no time zone")
    return moment


def _has(parameters: Mapping[str, str], key: str, value: str) -> bool:
    return any(held == value for name, held in parameters.items() if name == key or name.endswith(f".{key}"))


@contextlib.contextmanager
def open_history(path: Path, *, write: bool = False) -> Iterator[History]:
    """Opens a history; `write` makes it where there is none. HistoryError where it cannot be read or written."""
    if not write and not path.is_file():
        raise HistoryError(f"there is no history {path}; sessions are kept in --llmperf-history")
    with _errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
    with contextlib.closing(connection):
        with _errors(path):
            # Triggers and views in a foreign file's schema run no functions.
            connection.execute("PRAGMA trusted_schema = OFF")
            _bring_up_to_date(connection, path)
            connection.execute("PRAGMA foreign_keys = ON")
        yield History(connection, path)


def _bring_up_to_date(sql: sqlite3.Connection, path: Path) -> None:
    sql.execute("BEGIN")  # one moment for all three: another session may be making the tables right now
    (version,), (application,) = (
        sql.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")
    )
    empty = not sql.execute("SELECT 1 FROM sqlite_master").fetchone()
    sql.execute("COMMIT")
    if not empty and application != _APPLICATION:
        raise HistoryError(f"{path} is a SQLite file of another program, no history of llmperf")
    if version > VERSION:
        raise HistoryError(f"{path} is of a newer llmperf: its version is {version}, and this one reads {VERSION}")
    if version == VERSION:
        return
    _use_wal(sql)
    sql.execute("BEGIN IMMEDIATE")
    try:
        # Another session may have done it while this one waited.
        (version,) = sql.execute("PRAGMA user_version").fetchone()
        for statement in ";".join(_MIGRATIONS[version:]).split(";"):
            sql.execute(statement)
        sql.execute(f"PRAGMA application_id = {_APPLICATION}")
        sql.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        sql.execute("ROLLBACK")
        raise
    sql.execute("COMMIT")


def _use_wal(sql: sqlite3.Connection) -> None:
    """Lets readers read while a session is written. SQLite does not wait for the lock that this takes, so we do."""
    give_up_s = clock.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            sql.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if clock.monotonic() > give_up_s:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Gives SQLite's and the system's errors their file."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError, TypeError) as error:
        raise HistoryError(f"history {path}: {error}") from error
