"""What the faults share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path) as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many of the faults that ran keep each property; a failed row's message begins its lines with the others."""
    ran = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    faults = [report for report in ran if "::test_fault[" in report.nodeid and report.when == "call"]
    broken = Counter(letter for report in faults for letter in _broken(report))
    if faults:
        kept = ", ".join(f"({letter}) {len(faults) - broken[letter]}" for letter in "abcde")
        terminalreporter.write_line(f"{len(faults)} faults; kept: {kept}")


def _broken(report: pytest.TestReport) -> set[str]:
    """Letters of the properties that a row did not keep; all of them where it came to no outcome."""
    message = "" if report.passed else report.longreprtext.partition(" s it had said:")[0]
    return set(re.findall(r"\(([a-e])\) ", message)) or (set() if report.passed else set("abcde"))
