"""Draws the README picture from a real run: `pytest … --color=yes | python scripts/terminal_screenshot.py OUT.svg`."""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.text import Text


def main(target: str) -> None:
    console = Console(record=True, width=104, file=io.StringIO())
    for line in sys.stdin.read().splitlines():
        console.print(Text.from_ansi(line))
    console.save_svg(target, title="pytest perf_tests")


if __name__ == "__main__":
    main(sys.argv[1])
