"""What every fault of the table must keep, and how it is checked.

(a) the message names cause and cure, without a traceback; (b) the session ends; (c) nothing is left behind; (d) what
was measured is on disk; (e) the exit code is right, and no point passes that should not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sandbox import Outcome, Sandbox, Session

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
    within_s: float = 20.0
    """(b) Far more than it takes: the machine may be busy."""
    keeps: int = 0
    """(d) Number of requests that the report and the requests on disk have at least."""
    exit: int = 1
    """(e) The exit code; with 0 the points pass."""
    has_report: bool = True
    """(d) Whether the session must have a report; a command has none, and one that is killed need not."""
    marks: tuple[Any, ...] = ()
    """A skip, where the machine cannot have the fault."""


def rows(faults: Sequence[Fault]) -> list[Any]:
    """For `pytest.mark.parametrize`."""
    return [pytest.param(fault, id=fault.key, marks=fault.marks) for fault in faults]


def check(fault: Fault, sandbox: Sandbox) -> Outcome:
    """Runs the row and asserts all five properties, each named in its message."""
    outcome = fault.run(sandbox).end(fault.within_s)
    problems = [f"({name}) {problem}" for name, problem in _problems(fault, outcome)]
    assert not problems, "\n".join([*problems, f"after {outcome.seconds:.1f} s it had said:", outcome.text])
    return outcome


def _problems(fault: Fault, outcome: Outcome) -> list[tuple[str, str]]:
    found = [("a", f"nowhere said: {part!r}") for part in fault.says if part not in outcome.text]
    found += [("a", f"there is a {word!r}") for word in _BROKEN if word in outcome.text]
    if outcome.exit is None:
        return [*found, ("b", f"it had not ended after {fault.within_s:g} s")]
    if outcome.left:
        found.append(("c", f"left behind: {', '.join(outcome.left)}"))
    if fault.has_report and outcome.report is None:
        found.append(("d", "there is no report.json"))
    if fault.has_report and min(_reported(outcome), outcome.requests) < fault.keeps:
        found.append(("d", f"{_reported(outcome)} requests in the report and {outcome.requests} on disk"))
    if outcome.exit != fault.exit:
        found.append(("e", f"the exit code is {outcome.exit}, not {fault.exit}"))
    passed = [point["id"] for point in outcome.points if point["passed"]]
    if bool(passed) != (fault.exit == 0 and fault.has_report):
        found.append(("e", f"these points passed: {passed}"))
    return found


def _reported(outcome: Outcome) -> int:
    """Number of requests that the report counts."""
    return sum(point["metrics"]["requests"]["sent"] for point in outcome.points if point.get("metrics"))
