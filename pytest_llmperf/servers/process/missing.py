"""Requirements of servers that a machine may lack: a program, or the folder of a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple


class Lack(NamedTuple):
    """One thing that a server needs and this machine does not have."""

    reason: str
    """A clause that begins with `needs`."""
    key: str = ""
    """The plan's key that names it: a typo as likely as not. Empty where none does: a program by its usual name."""


def missing_program(program: str, key: str = "") -> Lack | None:
    """Returns the lack of `program`, a name on PATH or a path that `key` of the plan names; None when it can be run."""
    return None if shutil.which(program) else Lack(f"needs the executable {program!r}, which was not found", key)


def missing_executable(config: Any) -> Lack | None:
    """Returns the lack of the configuration's `executable`; its usual name counts as named by nobody."""
    usual = type(config).model_fields["executable"].default
    return missing_program(config.executable, "" if config.executable == usual else "executable")


def missing_model(model: str) -> Lack | None:
    """Returns the lack of a model by a path that leads nowhere; None when it is there, or a name and no path."""
    absent = model.startswith("/") and not Path(model).exists()
    return Lack(f"needs the model folder {model}, which does not exist", "model") if absent else None


def missing_program_or_model(config: Any) -> Lack | None:
    """Returns the first lack of its `executable` and its `model`; None when both are there."""
    return missing_executable(config) or missing_model(config.model)
