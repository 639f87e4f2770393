"""What a person wants from a server's log: the first error, not the last line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# vLLM puts "(EngineCore pid=17) ERROR 11-21 03:04:05 [core.py:12] " before each line of a traceback too.
_PREFIX = re.compile(
    r"^(?:\x1b\[[0-9;]*m)*(?:\([^)]*pid=\d+\)(?:\x1b\[[0-9;]*m)*\s*)?"
    r"(?:(?:ERROR|CRITICAL|WARNING|INFO|DEBUG)[ :]+(?:[\d-]+ [\d:.]+ )?(?:\[[^\]]*\] ?)?)?"
)
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit|Fault)\b.*")
_USAGE_ERROR = re.compile(r"^[\w .-]+: error: .*")
_ERROR_LEVEL = re.compile(r"^(?:\x1b\[[0-9;]*m)*(?:\([^)]*pid=\d+\)\s*)?(?:ERROR|CRITICAL|E\d{4})\b")
_READ_LIMIT = 4 << 20


def read_log(path: Path) -> list[str]:
    """Lines of the log; of a very long one the first 4 MiB, where the first error is. Empty when there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_READ_LIMIT).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def log_tail(path: Path, lines: int = 40) -> str:
    """The last lines of the log."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - 64 * 1024))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def first_error(lines: Sequence[str]) -> str | None:
    """The line that names the root cause: the exception of the first traceback, else the first error line."""
    bare = [_PREFIX.sub("", line) for line in lines]
    for number, line in enumerate(bare):
        if line.startswith("Traceback (most recent call last)"):
            return _exception_of(bare[number + 1 :]) or line
        if _USAGE_ERROR.match(line):
            return line.strip()
    return next((_PREFIX.sub("", line).strip() for line in lines if _ERROR_LEVEL.match(line)), None)


def _exception_of(after: Sequence[str]) -> str | None:
    return next((line.strip() for line in after if _EXCEPTION.match(line)), None)
