"""GPUs of a suite's servers, seen by the real NVML bindings on a stand-in library."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from perf_suite import run_outside_ci

from tests.standins.nvml import nvml_environment

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the stand-in NVML needs a C compiler")

FREE = "85899345920 0 - NVIDIA H100 80GB HBM3"
BUSY = "85899345920 42949672960 - NVIDIA H100 80GB HBM3"
COMMAND = f"{sys.executable} -m pytest_llmperf.embedded --model {{model}} --port {{port}} --step modelled"
PLAN = f"""
model: tiny
runs: 1
servers:
  one: {{engine: command, gpus: 1, command: [sh, -c, "env | grep CUDA_; exec {COMMAND}"]}}
loads:
  short: {{input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 10}}
sla: {{error_rate: "<= 0"}}
"""


@pytest.fixture
def gpus(suite, monkeypatch):
    """Gives this machine GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("TMPDIR", str(suite.pytester.path))
    suite.write(plan=PLAN, test=TEST)

    def have(*devices: str) -> None:
        for name, value in nvml_environment(suite.pytester.path, devices).items():
            monkeypatch.setenv(name, value)

    return have


TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    result = load_driver.run(llm_server, load_point)
    sla.check(result)
    assert [gpu.uuid for gpu in llm_server.gpus] == ["GPU-free"]
"""


def test_a_server_gets_the_gpu_that_is_free(suite, gpus):
    gpus(f"GPU-busy {BUSY}", f"GPU-free {FREE}")
    done = run_outside_ci(suite.pytester.path, "--llmperf-output=out")
    assert done.returncode == 0, done.stdout
    assert "1 server, 2 GPUs" in done.stdout
    lines = (suite.output / "servers" / "one.log").read_text().splitlines()
    assert {"CUDA_VISIBLE_DEVICES=1", "CUDA_DEVICE_ORDER=PCI_BUS_ID"} <= {*lines}


def test_busy_gpus_fail_the_test_and_are_named(suite, gpus):
    gpus(f"GPU-busy {BUSY}")
    done = run_outside_ci(suite.pytester.path, "--llmperf-output=out")
    assert done.returncode == 1
    assert "server 'one' needs 1 of 1 GPUs, and 0 free: GPU 0 is busy: 40.0 of 80.0 GiB in use" in done.stdout
    assert run_outside_ci(suite.pytester.path, "--llmperf-gpu-busy=60%", "--collect-only").returncode == 0


def test_a_server_on_all_gpus_is_calibrated(suite, gpus):
    gpus(f"GPU-free {FREE}")
    (suite.pytester.path / "plan.yaml").write_text(PLAN.replace("gpus: 1,", "gpus: 1, replicas: auto,"))
    command = [sys.executable, "-m", "pytest_llmperf", "calibrate", "plan.yaml", "--output=out"]
    done = subprocess.run(command, cwd=suite.pytester.path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "one-short: 2 launches of 3 runs" in done.stdout
