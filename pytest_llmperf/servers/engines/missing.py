"""Requirements that several engines share, and that a machine may lack."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def missing_program(program: str) -> str | None:
    """A sentence on why `program`, a name on PATH or a path, cannot be run; None when it can."""
    return None if shutil.which(program) else f"needs the executable {program!r}, which was not found"


def missing_model(model: str) -> str | None:
    """A sentence on why the model cannot be loaded; None when its folder is there, or when it is no absolute path."""
    absent = model.startswith("/") and not Path(model).exists()
    return f"needs the model folder {model}, which does not exist" if absent else None


def missing_program_or_model(config: Any) -> str | None:
    """The first of its `executable` and its `model` that is missing; None when both are there."""
    return missing_program(config.executable) or missing_model(config.model)
