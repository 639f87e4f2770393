"""A folder of baselines: what is in it, and what no test asks for any more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baseline_file import read_baseline, write_baseline
from pytest_llmperf.gate.baseline_parse import damaged
from pytest_llmperf.gate.baselines import Baseline, baseline_path
from pytest_llmperf.gate.migration import is_old, migrated


@dataclass(frozen=True, slots=True)
class Measured:
    """What a report says was asked for."""

    slugs: tuple[str, ...]
    tests: tuple[str, ...]


def baseline_files(folder: Path) -> tuple[Path, ...]:
    """All files that may be baselines, sorted; none where there is no such folder."""
    return tuple(sorted(path for path in folder.rglob("*.json") if not path.name.startswith(".")))


def unused(folder: Path, slugs: Iterable[str], tests: Iterable[str]) -> tuple[Path, ...]:
    """Files of the environments `slugs` that none of the `tests` (node ids) is the test of; only for a full run.

    Count skipped tests in: they are still there. Other environments' files are left out, since another machine's
    suite may select other tests.
    """
    environments, ids = set(slugs), tuple(tests)
    asked = {baseline_path(folder, slug, test) for slug in environments for test in ids}
    return tuple(path for slug in sorted(environments) for path in baseline_files(folder / slug) if path not in asked)


def read_measured(report: Path) -> Measured:
    """Environments and tests of a report.json. BaselineError when it is none."""
    try:
        data = json.loads(report.read_text(encoding="utf-8"))
        found = Measured(tuple(data["environments"]), tuple(point["test"] for point in data["points"]))
    except FileNotFoundError as error:
        raise BaselineError(f"there is no report {report}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
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
    found = found or [path for path in files if any(path == baseline_path(folder, p.name, name) for p in path.parents)]
    if len(found) == 1:
        return read_baseline(found[0])
    choice = "\n  ".join(map(str, found or files)) or f"none in {folder}"
    problem = f"{len(found)} baselines are called" if found else "there is no baseline called"
    raise BaselineError(f"{problem} {name!r}; give one of these paths:\n  {choice}")


def migrate(path: Path) -> bool:
    """Bring a schema 1 file up to date in place; whether there was anything to do. BaselineError when it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(damaged(path, error)) from error
    if not is_old(text):
        read_baseline(path)
        return False
    write_baseline(migrated(text, path))
    return True
