"""What a machine may lack to start a server: a program, or the folder of a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple


class Lack(NamedTuple):
    """What a server needs and this machine does not have."""

    reason: str
    """A clause that begins with `needs`."""
    key: str = ""
    """The plan's key that names it: a typo as likely as not. Empty where none does: a program by its usual name."""


def missing_program(program: str, key: str = "") -> Lack | None:
    """What is said of `program`, a name on PATH or a path, where it cannot be run; `key` of the plan names it."""
    return None if shutil.which(program) else Lack(f"needs the executable {program!r}, which was not found", key)


def missing_executable(config: Any) -> Lack | None:
    """The configuration's `executable` where it cannot be run; its usual name is named by nobody."""
    usual = type(config).model_fields["executable"].default
    return missing_program(config.executable, "" if config.executable == usual else "executable")


def missing_model(model: str) -> Lack | None:
    """The model where it is a path that leads nowhere; None when it is there, or a name and no path at all."""
    absent = model.startswith("/") and not Path(model).exists()
    return Lack(f"needs the model folder {model}, which does not exist", "model") if absent else None


def missing_program_or_model(config: Any) -> Lack | None:
    """The first of its `executable` and its `model` that is missing; None when both are there."""
    return missing_executable(config) or missing_model(config.model)
