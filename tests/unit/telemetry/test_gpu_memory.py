"""Memory in use on GPUs; NVML itself is stood in for where there is none."""

from __future__ import annotations

import sys
import types

import pytest

from pytest_llmperf.telemetry.gpu import Gpu
from pytest_llmperf.telemetry.gpu_memory import MemoryWatch, memory_readable

GPUS = (Gpu("0", "NVIDIA H200"), Gpu("GPU-1", "NVIDIA H200"))


@pytest.fixture
def nvml(monkeypatch):
    """Two GPUs, of which the second is the fuller one."""
    module = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(used=3e10 if handle == 0 else 4e10),
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_the_fullest_gpu_counts(nvml):
    assert memory_readable(GPUS) is None
    with MemoryWatch(GPUS) as watch:
        pass
    assert watch.peak_gb == pytest.approx(40.0)


def test_without_gpus_nothing_is_told(nvml):
    with MemoryWatch(()) as watch:
        pass
    assert watch.peak_gb is None
    assert memory_readable(()) == "there is no GPU"


def test_a_driver_that_does_not_answer(nvml):
    def fail():
        raise RuntimeError("Driver Not Loaded")

    nvml.nvmlInit = fail
    assert memory_readable(GPUS) == "NVML does not answer: Driver Not Loaded"
    with MemoryWatch(GPUS) as watch:
        pass
    assert watch.peak_gb is None


def test_without_the_module_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install 'pytest-llmperf[gpu]'" in (memory_readable(GPUS) or "")
