"""Baseline files: the only module that opens them."""

from __future__ import annotations

import errno
import glob
import json
from pathlib import Path

from pytest_llmperf.boundary.files import inside, leads_inside, read_text, write_whole
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.model import Baseline, baseline_path, former_path
from pytest_llmperf.gate.baselines.parse import SCHEMA_NAME, damaged, parse_baseline
from pytest_llmperf.gate.baselines.text import baseline_text

MOST_SESSIONS = 200
"""Most sessions of a baseline file that is read; it grows to 13 by itself, and each takes 4 ms and 160 kB to read."""
_MOST_BYTES = 64 << 20
"""Largest baseline file that is read: one with the answers of thousands of prompts."""
_SHOWN = 3
_NONE_HERE = "no baseline for this point in this environment"
UPDATE_HINT = "record it with --llmperf-update-baselines"


def read_baseline(path: Path) -> Baseline:
    """BaselineError names the file, what is wrong with it and the cure; for a missing one the flag that records it."""
    if not path.exists():
        raise BaselineError(f"{_NONE_HERE} ({path}); {UPDATE_HINT}")
    try:
        return parse_baseline(stored_text(path), path)
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(damaged(path, error)) from error


def stored_text(path: Path) -> str:
    """The text of a baseline of any schema. OSError where the file is too large or has too many sessions."""
    text = read_text(path, _MOST_BYTES)
    _check_sessions(text, path)
    return text


def _check_sessions(text: str, path: Path) -> None:
    # Counted before it is parsed, which is what takes the time. Within a text the quotes have backslashes.
    sessions = text.count('"git_sha"')
    if sessions > MOST_SESSIONS:
        raise OSError(errno.EFBIG, f"has {sessions:,} `sessions`, more than {MOST_SESSIONS}", str(path))


def read_stored(folder: Path, slug: str, test: str) -> Baseline:
    """Reads the test's baseline in an environment, as `read_baseline` does; where there is none, BaselineError names
    those of the same name in other environments, or of test files that were moved.
    """
    path = stored_path(folder, slug, test)
    assert_holds(path, test)
    if path.exists():
        return read_baseline(path)
    others = sorted(map(str, folder.rglob(glob.escape(path.name)))) if folder.is_dir() else []
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    there = f"; of this name there is {', '.join(others[:_SHOWN])}{more}" if others else ""
    raise BaselineError(f"{_NONE_HERE} ({path}){there}; {UPDATE_HINT}")


def held_test(path: Path) -> str | None:
    """Id of the test whose baseline the file holds, of any schema; None where there is no file, or where it names
    none.
    """
    found = _held(path, "test")
    return found if isinstance(found, str) else None


def is_baseline(path: Path) -> bool:
    """True if the file holds a baseline of any schema, and no other tool's JSON."""
    return held_test(path) is not None and str(_held(path, "schema")).startswith(f"{SCHEMA_NAME}/")


def _held(path: Path, key: str) -> object:
    try:
        return json.loads(stored_text(path))[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def stored_path(folder: Path, slug: str, test: str) -> Path:
    """The test's file, which need not exist; by its former name where only that one is there and holds this test."""
    path, former = baseline_path(folder, slug, test), former_path(folder, slug, test)
    is_there = former != path and not path.exists() and leads_inside(folder / slug, former)
    return former if is_there and held_test(former) == test else path


def assert_holds(path: Path, test: str) -> None:
    """BaselineError where the file holds the baseline of another test; none, or one that cannot be read, is no such."""
    held = held_test(path)
    if held is not None and held != test:
        raise BaselineError(
            f"baseline {path} is that of {held}, not of {test}; `llmperf baseline migrate` gives every test's file its "
            "own name. If the test was renamed, write its new id into the file's `test`, or remove the file"
        )


def _root(baseline: Baseline) -> Path:
    """The folder of all baselines, out of which no link may lead; of a file that lies elsewhere its own folder."""
    parts, environment = baseline.path.parts, baseline.identity.environment
    places = [place for place, part in enumerate(parts[:-1]) if part == environment]
    return Path(*parts[: places[-1]]) if places else baseline.path.parent


def write_baseline(baseline: Baseline) -> None:
    """Write the file at its path, whole or not at all (a reader never sees half of one).

    BaselineError when it could not be read again, or not be written; an old file is then as it was.
    """
    path = baseline.path
    text = baseline_text(baseline)
    parse_baseline(text, path)
    try:
        _check_sessions(text, path)
        write_whole(inside(_root(baseline), *path.relative_to(_root(baseline)).parts), text)
    except OSError as error:
        raise BaselineError(f"baseline {path} cannot be written: {error.strerror} ({error.filename})") from error
