"""GPUs of servers that are started here, by the real NVML bindings on a stand-in library."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llmperf.errors import ServerError
from pytest_llmperf.servers.process import gpu_pool
from pytest_llmperf.telemetry.gpu import Gpu
from tests.standins.nvml import nvml_environment

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the stand-in NVML needs a C compiler")

H100 = "85899345920 {used} {pids} NVIDIA H100 80GB HBM3"
FREE = [f"GPU-{letter * 8} {H100.format(used=0, pids='-')}" for letter in "abc"]
BUSY = f"GPU-busy0000 {H100.format(used=70 << 30, pids=os.getpid())}"
MIG = [
    f"GPU-divided0 {H100.format(used=0, pids='-')}",
    "MIG-1 10000000000 0 - NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    "MIG-2 10000000000 0 - NVIDIA H100 80GB HBM3 MIG 1g.10gb",
]
PROGRAM = """
import os, sys
from pytest_llmperf.errors import ServerError
from pytest_llmperf.servers.process.gpu_pool import GpuSharing, held_gpus
from pytest_llmperf.telemetry.gpu import visible_gpus

try:
    with held_gpus(visible_gpus(), int(sys.argv[1]), GpuSharing(wait_s=float(sys.argv[2]))) as own:
        print(*(gpu.device for gpu in own), flush=True)
        sys.stdin.read()
except ServerError as error:
    print(error)
"""


class Machine:
    """Processes that ask the pool of one machine for GPUs."""

    def __init__(self, folder: Path, devices: list[str]) -> None:
        self._env = {**os.environ, **nvml_environment(folder, devices), "TMPDIR": str(folder)}
        self._env.pop("CUDA_VISIBLE_DEVICES", None)

    def ask(self, count: int, *, wait_s: float = 0, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(count), str(wait_s)],
            env=self._env | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self, count: int, **env: str) -> str:
        """What a process is told that gives its GPUs back at once."""
        return self.ask(count, **env).communicate()[0].strip()


@pytest.fixture
def machine(tmp_path):
    return lambda *devices: Machine(tmp_path, list(devices))


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_sessions_get_gpus_of_their_own(machine):
    here = machine(*FREE)
    first = here.ask(2)
    assert first_line(first) == "0 1"
    second = here.ask(1)
    assert first_line(second) == "2"
    refused = here.answer(2)
    assert refused.startswith("needs 2 of 3 GPUs, and 0 free: GPU 0 is held by python")
    assert f"({first.pid})" in refused
    assert "GPU 2 is held by python" in refused
    first.communicate()
    second.communicate()
    assert here.answer(3) == "0 1 2"


def test_the_lock_of_a_session_that_was_killed_is_free(machine):
    here = machine(*FREE)
    first = here.ask(3)
    assert first_line(first) == "0 1 2"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert here.answer(3) == "0 1 2"


def test_waits_for_a_session_that_ends(machine):
    here = machine(*FREE)
    first = here.ask(3)
    assert first_line(first) == "0 1 2"
    waiting = here.ask(2, wait_s=120)
    first.communicate()
    assert first_line(waiting) == "0 1"
    waiting.communicate()


def test_gpus_that_others_compute_on_are_avoided_and_named(machine):
    here = machine(BUSY, *FREE)
    assert here.answer(2) == "1 2"
    name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert here.answer(4) == (
        f"needs 4 of 4 GPUs, and 3 free: GPU 0 is busy: 70.0 of 80.0 GiB in use by {name} ({os.getpid()})"
    )


@pytest.mark.parametrize(
    ("chosen", "own"),
    [("GPU-bbbb", "GPU-bbbbbbbb"), ("GPU-cccccccc,GPU-aaaaaaaa", "GPU-cccccccc"), ("2,0", "2")],
)
def test_cuda_visible_devices_may_name_uuids(machine, chosen, own):
    assert machine(*FREE).answer(1, CUDA_VISIBLE_DEVICES=chosen) == own


def test_one_gpu_by_index_and_by_uuid_is_one_gpu(machine):
    here = machine(*FREE)
    first = here.ask(1)
    assert first_line(first) == "0"
    assert "GPU GPU-aaaaaaaa is held by" in here.answer(1, CUDA_VISIBLE_DEVICES="GPU-aaaaaaaa")
    first.communicate()


def test_a_gpu_that_is_named_twice_is_one_gpu(machine):
    here = machine(*FREE)
    assert here.answer(1, CUDA_VISIBLE_DEVICES="0,GPU-aaaa") == "0"
    assert here.answer(2, CUDA_VISIBLE_DEVICES="0,GPU-aaaa").startswith("needs 2 of 1 GPUs")


def test_a_gpu_that_this_process_holds_itself_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_pool, "_FOLDER", tmp_path / "locks")
    monkeypatch.setattr(gpu_pool, "_SETTLE_S", 0.0)
    gpus, sharing = (Gpu("0", "H200"),), gpu_pool.GpuSharing(wait_s=3600.0)
    with (
        gpu_pool.held_gpus(gpus, 1, sharing),
        pytest.raises(ServerError, match="GPU 0 is held by another server of this process"),
        gpu_pool.held_gpus(gpus, 1, sharing),
    ):
        pass
    with gpu_pool.held_gpus(gpus, 1, sharing) as taken:
        assert taken == gpus


def test_a_divided_gpu_is_its_mig_instances(machine):
    here = machine(*MIG, FREE[0])
    assert here.answer(3) == "MIG-1 MIG-2 1"
    assert here.answer(1, CUDA_VISIBLE_DEVICES="MIG-2") == "MIG-2"


def test_an_ambiguous_uuid_hides_it_and_what_follows(machine):
    assert machine(*FREE).answer(1, CUDA_VISIBLE_DEVICES="GPU-,0").startswith("needs 1 of 0 GPUs")


def test_a_lock_that_is_a_link_is_not_followed(machine, tmp_path):
    target = tmp_path / "precious"
    target.write_text("do not touch\n")
    (tmp_path / "llmperf-gpus").mkdir()
    (tmp_path / "llmperf-gpus" / "GPU-aaaaaaaa.lock").symlink_to(target)
    assert "GPU-aaaaaaaa.lock: Too many levels of symbolic links" in machine(*FREE).answer(1)
    assert target.read_text() == "do not touch\n"
