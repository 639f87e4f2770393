"""The GPUs that pytest may use: from NVML where its module is installed, else from the driver's /proc files."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia")


@dataclass(frozen=True, slots=True)
class Gpu:
    """`device` is what CUDA_VISIBLE_DEVICES takes: an index or a UUID."""

    device: str
    name: str


def driver_version() -> str | None:
    """Version of the NVIDIA kernel driver; None without one."""
    with contextlib.suppress(OSError):
        found = re.search(r"(?:Kernel Module|for \S+)\s+(\d+[\d.]*)", (_DRIVER / "version").read_text())
        return found[1] if found else None
    return None


def visible_gpus() -> tuple[Gpu, ...]:
    """The machine's GPUs, narrowed and ordered as CUDA_VISIBLE_DEVICES says; empty without a driver."""
    gpus = _from_nvml() or _from_proc()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return gpus
    return _chosen(chosen, gpus)


def _chosen(devices: str, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves.

    As CUDA reads it, the first index that does not exist (-1, for instance) hides it and all after it.
    """
    by_index = {gpu.device: gpu for gpu in gpus}
    valid = itertools.takewhile(
        lambda device: device in by_index or (gpus and device.startswith(("GPU-", "MIG-"))),
        (device.strip() for device in devices.split(",")),
    )
    return tuple(by_index.get(device) or Gpu(device, gpus[0].name) for device in valid)


def _from_nvml() -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(Gpu(str(index), pynvml.nvmlDeviceGetName(handle)) for index, handle in enumerate(handles))
    finally:
        pynvml.nvmlShutdown()


def _from_proc() -> tuple[Gpu, ...]:
    try:
        folders = sorted((_DRIVER / "gpus").iterdir())
    except OSError:
        return ()
    return tuple(Gpu(str(index), _model(folder)) for index, folder in enumerate(folders))


def _model(folder: Path) -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^Model:\s*(.+)$", (folder / "information").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return "NVIDIA GPU"
