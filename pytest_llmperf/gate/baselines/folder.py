"""A folder of baselines: what is in it, and what no test asks for any more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.boundary.files import leads_inside, read_text
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baselines.file import (
    held_test,
    is_baseline,
    read_baseline,
    stored_path,
    stored_text,
    write_baseline,
)
from pytest_llmperf.gate.baselines.migration import is_old, migrated
from pytest_llmperf.gate.baselines.model import Baseline, baseline_path, former_path
from pytest_llmperf.gate.baselines.parse import damaged


@dataclass(frozen=True, slots=True)
class Measured:
    """The environments and tests that a report covers."""

    slugs: tuple[str, ...]
    tests: tuple[str, ...]


def baseline_files(folder: Path) -> tuple[Path, ...]:
    """All files that may be baselines, sorted; none where there is no such folder. Links are followed by nobody."""
    found = (path for path in folder.rglob("*.json") if not path.name.startswith("."))
    return tuple(sorted(path for path in found if not path.is_symlink() and path.is_file()))


def unused(folder: Path, slugs: Iterable[str], tests: Iterable[str]) -> tuple[Path, ...]:
    """Files of the environments `slugs` that none of the `tests` (node ids) is the test of; only for a full run.

    Count skipped tests in: they are still there. Other environments' files are left out, since another machine's
    suite may select other tests, and so is what is no baseline.
    """
    environments, ids = sorted(slug for slug in set(slugs) if leads_inside(folder, folder / slug / "x")), tuple(tests)
    asked = {stored_path(folder, slug, test) for slug in environments for test in ids}
    files = (path for slug in environments for path in baseline_files(folder / slug) if path not in asked)
    return tuple(path for path in files if is_baseline(path))


def read_measured(report: Path) -> Measured:
    """Environments and tests of a report.json. BaselineError when it is none."""
    try:
        data = json.loads(read_text(report))
        found = Measured(tuple(data["environments"]), tuple(point["test"] for point in data["points"]))
        for slug in found.slugs:
            baseline_path(Path(), slug, "")
    except FileNotFoundError as error:
        raise BaselineError(f"there is no report {report}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BaselineError(f"{report} is no report of pytest-llmperf ({error!r})") from error
    if not any("::" in test for test in found.tests):
        raise BaselineError(f"{report} is not of a pytest run, so it does not tell which tests there are")
    return found


def find_baseline(folder: Path, name: str) -> Baseline:
    """The baseline at a path, or of a point: its id (`tp2-short`), its test's node id, or the file's name.

    BaselineError names those to choose from where there is none, or several.
    """
    if Path(name).is_file():
        return read_baseline(Path(name))
    files = baseline_files(folder)
    found = [path for path in files if path.stem == name or path.stem.endswith(f"-{name}")]
    found = found or [
        path for path in files if (test := held_test(path)) and (test == name or test.endswith(f"[{name}]"))
    ]
    if len(found) == 1:
        return read_baseline(found[0])
    choice = "\n  ".join(map(str, found or files)) or f"none in {folder}"
    problem = f"{len(found)} baselines are called" if found else "there is no baseline called"
    raise BaselineError(f"{problem} {name!r}; give one of these paths:\n  {choice}")


def migrate(path: Path) -> Path | None:
    """Bring one file up to date: its schema, and the name that an earlier version gave it.

    Returns the file as it is then; None where there was nothing to do. BaselineError when it is damaged, or when the
    test has a file of the new name already.
    """
    try:
        text = stored_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(damaged(path, error)) from error
    held = migrated(text, path) if is_old(text) else read_baseline(path)
    target = _renamed(held)
    if target != path and target.exists():
        raise BaselineError(f"{path} and {target} are both baselines of {held.test}; remove one of them")
    if is_old(text):
        write_baseline(held)
    if target != path:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        except OSError as error:
            raise BaselineError(f"{path} cannot be renamed to {target}: {error}") from error
    return target if is_old(text) or target != path else None


def _renamed(held: Baseline) -> Path:
    """The path that the file should have. One that is not at an earlier version's path was put there by a person,
    and stays.
    """
    former = former_path(Path(), held.identity.environment, held.test)
    if former.is_absolute() or ".." in former.parts or held.path.parts[-len(former.parts) :] != former.parts:
        return held.path
    folder = Path(*held.path.parts[: -len(former.parts)])
    return baseline_path(folder, held.identity.environment, held.test)
