"""Files of measured points in a session's folder, and which session is continued.

A file has its name only when it is whole and on the disk: what a crash leaves half-written goes by another name.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

from pytest_llmperf.boundary.files import inside, write_whole
from pytest_llmperf.runner.resume.stored_point import StoredPoint, StoredPointError, parse_point, point_json

_FOLDER = "points"
_SUFFIX = ".json.gz"
_MOST_TIMES = 100
"""Largest size of a point's JSON, as a multiple of its packed size; it is some ten times."""


def write_point(session: Path, name: str, stored: StoredPoint) -> None:
    """Keep a point in the session's folder under `name`, in the place of an earlier one; all of it, or nothing.

    Raises OSError.
    """
    path = inside(session, _FOLDER, f"{name}{_SUFFIX}")
    write_whole(path, gzip.compress(point_json(stored), compresslevel=6))
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:  # the new name is on the disk too then
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_points(session: Path) -> tuple[dict[str, StoredPoint], list[str]]:
    """The session's points by test, and a sentence about each file that is passed over."""
    points, passed_over = {}, []
    for path in sorted((session / _FOLDER).glob(f"*{_SUFFIX}*")):
        try:
            if path.suffix == ".partial":
                raise StoredPointError(f"{path} is not whole: its writing was interrupted")
            stored = _read(path)
            points[stored.test] = stored
        except StoredPointError as error:
            passed_over.append(f"{error}; it is passed over")
    return points, passed_over


def _read(path: Path) -> StoredPoint:
    try:
        if path.is_symlink() or not path.is_file():
            raise StoredPointError(f"{path} is no file of a session")
        return parse_point(_unpacked(path.read_bytes()), str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise StoredPointError(f"{path} cannot be read: {error}") from error


def _unpacked(packed: bytes) -> bytes:
    """Raises zlib.error where the content is far more than any point's: a few kilobytes can hold gigabytes."""
    most = _MOST_TIMES * len(packed) + (1 << 20)
    content = gzip.GzipFile(fileobj=io.BytesIO(packed)).read(most + 1)
    if len(content) > most:
        raise zlib.error(f"more than {_MOST_TIMES} times its size when unpacked")
    return content


def newest_session(results: Path) -> Path | None:
    """The session folder in `results` to which a point was written last; None without any.

    A folder that the user named sorts anywhere among those that are named by their time.
    """
    folders = [path.parent for path in results.glob(f"*/{_FOLDER}") if not path.parent.is_symlink()]
    return max(folders, key=lambda folder: ((folder / _FOLDER).stat().st_mtime_ns, folder.name), default=None)
