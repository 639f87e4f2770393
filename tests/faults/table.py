"""The table of docs/reliability.md, from the rows: `python tests/faults/table.py` writes it, a test compares it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

PROPERTIES = "abcde"
HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- rows of tests/faults -->\n", "<!-- end of rows -->\n"


def table() -> str:
    """The figures, then one table per test file, titled by its docstring."""
    modules = [
        importlib.import_module(path.stem) for path in sorted(HERE.glob("test_*.py")) if path.stem != "test_table"
    ]
    return "\n".join([_figures(modules), *map(_section, modules)])


def _figures(modules: list[ModuleType]) -> str:
    """Numbers of rows by kind, and of those that check each property."""
    kinds = {str(module.__doc__): module.FAULTS for module in modules}
    kinds["**all**"] = [fault for module in modules for fault in module.FAULTS]
    head = " | ".join(f"({letter})" for letter in PROPERTIES)
    lines = [f"| kind | faults | {head} |", f"|---|{'---:|' * (1 + len(PROPERTIES))}"]
    for kind, faults in kinds.items():
        counts = (sum(letter in fault.checks for fault in faults) for letter in PROPERTIES)
        lines.append(f"| {kind} | {len(faults)} | {' | '.join(map(str, counts))} |")
    return "\n".join([*lines, ""])


def _section(module: ModuleType) -> str:
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
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "engines")]
    PAGE.write_text(page(PAGE.read_text()))
