"""Folders that cost minutes to hours to make, each made once for exactly equal inputs.

A folder is made under another name and renamed when it is whole, so one that was broken off is never taken for it. A
lock keeps two processes from making the same at once: the second waits and finds it there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_llmperf.boundary.files import open_end, write_whole
from pytest_llmperf.servers.deployments.trtllm.steps import StepError, Steps

_DIGITS = 16


def cached(
    folder: Path, facts: Mapping[str, Any], files: Sequence[str], steps: Steps, make: Callable[[Path], None]
) -> Path:
    """The folder for these facts, `<folder>-<hash>`, where `make` has put `files`. The facts are in a file beside it.

    Raises StepError where a file is missing afterwards, and what `make` raises.
    """
    text = json.dumps(facts, indent=2, sort_keys=True)
    whole = folder.with_name(f"{folder.name}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}")
    whole.parent.mkdir(parents=True, exist_ok=True)
    with _locked(whole.with_name(f"{whole.name}.lock"), steps):
        if not _absent(whole, files):
            steps.say(f"made before for the same inputs: {whole}")
            return whole
        partial = whole.with_name(f"{whole.name}.partial")
        for rest in (partial, whole):
            shutil.rmtree(rest, ignore_errors=True)
        try:
            partial.mkdir()
            make(partial)
            if absent := _absent(partial, files):
                raise StepError(f"it ended well, but made no {', '.join(absent)}", "its log says what it did")
            write_whole(whole.with_name(f"{whole.name}.json"), f"{text}\n".encode())
            partial.rename(whole)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return whole


def _absent(folder: Path, files: Sequence[str]) -> list[str]:
    return [name for name in files if not (folder / name).is_file()]


@contextlib.contextmanager
def _locked(path: Path, steps: Steps) -> Iterator[None]:
    with open_end(path, is_made=True) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            steps.say("waits for another process that makes the same")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a folder's files, which tell a changed model of the same path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
