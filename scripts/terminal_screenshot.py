"""Draws the README picture of a real run: `pytest … | python scripts/terminal_screenshot.py OUT.svg COMMAND`.

COMMAND is shown before the output that is read, which has colours with `--color=yes`.
"""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.text import Text


def main(target: str, command: str) -> None:
    console = Console(record=True, width=104, file=io.StringIO())
    console.print(Text(f"$ {command}"))
    for line in sys.stdin.read().splitlines():
        console.print(Text.from_ansi(line))
    console.save_svg(target, title=command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
