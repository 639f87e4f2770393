"""The table of docs/reliability.md, from the rows: `python tests/faults/table.py` writes it, a test compares it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- rows of tests/faults -->\n", "<!-- end of rows -->\n"


def table() -> str:
    """One table per test file, titled by its docstring."""
    return "\n".join(_section(path.stem) for path in sorted(HERE.glob("test_*.py")) if path.stem != "test_table")


def _section(name: str) -> str:
    module = importlib.import_module(name)
    lines = [f"### {module.__doc__}", "", "| fault | the session says | exit code |", "|---|---|---|"]
    lines += [f"| {fault.what} | {' … '.join(map(_cell, fault.says))} | {fault.exit} |" for fault in module.FAULTS]
    return "\n".join([*lines, ""])


def _cell(said: str) -> str:
    return said.strip().replace("|", "\\|").replace("\n", " ")


def page(text: str) -> str:
    """The page's text with the table of today."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    PAGE.write_text(page(PAGE.read_text()))
