"""GPUs for machines without any: builds the stand-in NVML that the real bindings then load."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

_SOURCE = Path(__file__).with_name("nvml.c")


def nvml_environment(folder: Path, devices: Iterable[str]) -> dict[str, str]:
    """Returns the variables with which a process sees `devices`, lines as nvml.c describes them."""
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)], check=True)
    listed = folder / "devices"
    listed.write_text("".join(f"{device}\n" for device in devices))
    return {"LD_LIBRARY_PATH": str(folder), "NVML_DEVICES": str(listed)}
