"""What every fault of the table must keep, and how it is checked.

(a) the message names cause and cure, without a traceback; (b) the session ends; (c) nothing is left behind; (d) what
was measured is on disk; (e) the exit code is right, and no point passes that should not.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sandbox import PATIENCE_S, Outcome, Sandbox, Session

_BROKEN = ("Traceback (most recent call last)", "INTERNALERROR", "ExceptionGroup")


@dataclass(frozen=True)
class Fault:
    """One row of docs/reliability.md, and one test."""

    key: str
    what: str
    """The fault, for the table."""
    run: Callable[[Sandbox], Session]
    """Arranges it and starts the session that meets it."""
    says: tuple[str, ...]
    """(a) Parts of the message: the cause, and the cure where there is one."""
    keeps: int = 0
    """(d) Number of requests that the report and the requests on disk have at least."""
    points: int = 1
    """(d) Number of points that the report has at least."""
    exit: int = 1
    """(e) The exit code; with 0 the points pass."""
    passes: bool = False
    """(e) Whether points pass though the session fails: what is wrong is none of theirs."""
    has_report: bool = True
    """(d) Whether the session must have a report; a command has none, and one that is killed need not."""
    hides: str = ""
    """A secret that is nowhere: not in the terminal, and in no file but the plan."""
    leaves: Mapping[str, str] = field(default_factory=dict)
    """Files that are as they were, by path in the folder."""
    marks: tuple[Any, ...] = ()
    """A skip, where the machine cannot have the fault."""

    @property
    def checks(self) -> str:
        """Letters of the properties that the row looks at: some faults have nothing to say, or nothing to lose."""
        return f"{'a' if self.says else ''}bc{'d' if self.has_report else ''}e"


def rows(faults: Sequence[Fault]) -> list[Any]:
    """For `pytest.mark.parametrize`."""
    return [pytest.param(fault, id=fault.key, marks=fault.marks) for fault in faults]


def check(fault: Fault, sandbox: Sandbox) -> Outcome:
    """Runs the row and asserts all five properties, each named in its message."""
    outcome = fault.run(sandbox).end()
    problems = [f"({name}) {problem}" for name, problem in _problems(fault, outcome)]
    assert not problems, "\n".join([*problems, f"after {outcome.seconds:.1f} s it had said:", outcome.text])
    return outcome


def _problems(fault: Fault, outcome: Outcome) -> list[tuple[str, str]]:
    found = [("a", f"nowhere said: {part!r}") for part in fault.says if part not in outcome.text]
    found += [("a", f"there is a {word!r}") for word in _BROKEN if word in outcome.text]
    if outcome.exit is None:
        return [*found, ("b", f"it had not ended after {PATIENCE_S:g} s")]
    if outcome.left:
        found.append(("c", f"left behind: {', '.join(outcome.left)}"))
    if fault.has_report and outcome.report is None:
        found.append(("d", "there is no report.json"))
    if fault.has_report and min(_reported(outcome), outcome.requests) < fault.keeps:
        found.append(("d", f"{_reported(outcome)} requests in the report and {outcome.requests} on disk"))
    if fault.has_report and len(outcome.points) < fault.points:
        found.append(("d", f"the report has {len(outcome.points)} points"))
    if outcome.exit != fault.exit:
        found.append(("e", f"the exit code is {outcome.exit}, not {fault.exit}"))
    if fault.hides and (shown := [path.name for path in _files(outcome.folder) if _holds(path, fault.hides)]):
        found.append(("a", f"the secret is in {', '.join(sorted(shown))}"))
    changed = [name for name, text in fault.leaves.items() if _text(outcome.folder / name) != text]
    found += [("c", f"{name} is not as it was") for name in changed]
    passed = [point["id"] for point in outcome.points if point["passed"]]
    if bool(passed) != (fault.passes or (fault.exit == 0 and fault.has_report)):
        found.append(("e", f"these points passed: {passed}"))
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in ("plan.yaml", "conftest.py")]


def _holds(path: Path, secret: str) -> bool:
    """In any form that a text may have it in."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    basic = base64.b64encode(f"me:{secret}".encode()).decode()
    forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], basic}
    return any(form.encode() in data for form in forms)


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _reported(outcome: Outcome) -> int:
    """Number of requests that the report counts."""
    return sum(point["metrics"]["requests"]["sent"] for point in outcome.points if point.get("metrics"))
