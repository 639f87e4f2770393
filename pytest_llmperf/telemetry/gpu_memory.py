"""Memory in use on GPUs while something runs: from NVML, which counts all processes of the machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

from pytest_llmperf.telemetry.gpu import Gpu, ask_nvml, nvml_handle

_EVERY_S = 0.25


def memory_readable(gpus: Sequence[Gpu]) -> str | None:
    """Reason why the memory of these GPUs cannot be read here; None when it can."""
    if not gpus:
        return "there is no GPU"
    try:
        import pynvml
    except ImportError:
        return "NVML's Python module is missing: pip install 'pytest-llmperf[gpu]'"
    try:
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return f"NVML does not answer: {error}"
    return None


class MemoryWatch:
    """Reads a few times a second, from a thread, while it is entered. Without GPUs or NVML it does nothing."""

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._gpus = tuple(gpus)
        self.peak_gb: float | None = None
        """Peak memory of the fullest GPU in 1e9 bytes; None where nothing reports it."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=ask_nvml, args=(self._watch,), daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self, nvml: Any) -> None:
        while self._gpus:
            for gpu in self._gpus:
                with contextlib.suppress(nvml.NVMLError):
                    used = nvml.nvmlDeviceGetMemoryInfo(nvml_handle(nvml, gpu)).used / 1e9
                    self.peak_gb = max(used, self.peak_gb or 0.0)
            if self._done.wait(_EVERY_S):
                return
