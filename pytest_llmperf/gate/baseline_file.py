"""Baseline files: the only module that opens them."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.baseline_parse import damaged, parse_baseline
from pytest_llmperf.gate.baseline_text import baseline_text
from pytest_llmperf.gate.baselines import Baseline

UPDATE_HINT = "record it with --llmperf-update-baselines"


def read_baseline(path: Path) -> Baseline:
    """BaselineError names the file, what is wrong with it and the cure; for a missing one the flag that records it."""
    if not path.exists():
        raise BaselineError(f"no baseline for this point in this environment ({path}); {UPDATE_HINT}")
    try:
        return parse_baseline(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(damaged(path, error)) from error


def write_baseline(baseline: Baseline) -> None:
    """Write the file at its path, whole or not at all (a reader never sees half of one).

    BaselineError when it could not be read again, or not be written; an old file is then as it was.
    """
    path = baseline.path
    text = baseline_text(baseline)
    parse_baseline(text, path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise BaselineError(f"baseline {path} cannot be written: {error}") from error
