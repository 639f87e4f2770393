"""The GPUs that pytest may use: from NVML where its module is installed, else from the driver's /proc files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

_DRIVER = Path("/proc/driver/nvidia")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG instance of one."""

    device: str
    """Name for CUDA_VISIBLE_DEVICES: an index or a UUID."""
    name: str
    uuid: str | None = None
    """Id by which every process of the machine knows it; None where the driver does not give one."""


def driver_version() -> str | None:
    """Version of the NVIDIA kernel driver; None without one."""
    with contextlib.suppress(OSError):
        found = re.search(r"(?:Kernel Module|for \S+)\s+(\d+[\d.]*)", (_DRIVER / "version").read_text())
        return found[1] if found else None
    return None


def visible_gpus() -> tuple[Gpu, ...]:
    """The machine's GPUs, narrowed and ordered as CUDA_VISIBLE_DEVICES says; empty without a driver."""
    gpus = ask_nvml(_from_nvml) or _from_proc()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return gpus
    return _chosen(chosen, gpus)


def _chosen(devices: str, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves.

    As CUDA reads it: the first entry that does not exist (-1, for instance) hides it and all after it, and a UUID may
    be cut short where it stays unique. One that is named twice, at which CUDA hides all, counts once: a server is given
    a list of its own.
    """
    found: dict[str, Gpu] = {}
    for device in devices.split(","):
        gpu = _named(device.strip(), gpus)
        if gpu is None:
            break
        found.setdefault(gpu.uuid or gpu.device, gpu)
    return tuple(found.values())


def _named(device: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    if not device.startswith(("GPU-", "MIG-")):
        return next((gpu for gpu in gpus if gpu.device == device), None)
    found = [gpu for gpu in gpus if (gpu.uuid or "").startswith(device)]
    if found:
        return replace(found[0], device=found[0].uuid or device) if len(found) == 1 else None
    # A driver that tells no UUIDs leaves the judgement to CUDA.
    return Gpu(device, gpus[0].name, device) if gpus and not any(gpu.uuid for gpu in gpus) else None


def ask_nvml(question: Callable[[Any], T]) -> T | None:
    """Returns what `question`, called with NVML's module, finds; None without module or driver, and where it fails."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return question(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def nvml_handle(nvml: Any, gpu: Gpu) -> Any:
    """Returns NVML's handle of a GPU or MIG instance. Raises NVMLError where there is none."""
    if gpu.device.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(gpu.device))
    return nvml.nvmlDeviceGetHandleByUUID(gpu.uuid or gpu.device)


def _from_nvml(nvml: Any) -> tuple[Gpu, ...]:
    return tuple(gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _devices(nvml, index))


def _devices(nvml: Any, index: int) -> Iterable[Gpu]:
    """Yields a GPU, or in its place its MIG instances: CUDA cannot use one that is divided."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    instances = list(_mig_instances(nvml, handle))
    for instance in instances:
        uuid = nvml.nvmlDeviceGetUUID(instance)
        yield Gpu(uuid, nvml.nvmlDeviceGetName(instance), uuid)
    if not instances:
        yield Gpu(str(index), nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle))


def _mig_instances(nvml: Any, handle: Any) -> Iterator[Any]:
    try:
        places = nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if nvml.nvmlDeviceGetMigMode(handle)[0] else 0
    except nvml.NVMLError:  # older than MIG
        return
    for place in range(places):
        with contextlib.suppress(nvml.NVMLError):  # places need not be filled in order
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)


def _from_proc() -> tuple[Gpu, ...]:
    try:
        folders = sorted((_DRIVER / "gpus").iterdir())
    except OSError:
        return ()
    return tuple(
        Gpu(str(index), _information(folder, "Model") or "NVIDIA GPU", _information(folder, "GPU UUID"))
        for index, folder in enumerate(folders)
    )


def _information(folder: Path, name: str) -> str | None:
    """Returns a line's value in what the driver says of a GPU; None where it has no such line."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s*(.+)$", (folder / "information").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return None
