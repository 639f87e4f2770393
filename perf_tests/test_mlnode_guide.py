"""A node's best configuration, on a stand-in: `make perf-deployments`, docs/guides/mlnode.md."""

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STAND_INS = Path(__file__).resolve().parents[1] / "tests" / "standins"
# Modelled steps as slow as a large model's.
INSTANCE = """
-m pytest_llmperf.embedded --step modelled --decode-ms-per-step 50 --decode-ms-per-seq 1 --prefill-ms-per-token 0.15
--max-num-batched-tokens 8192
"""


def end_with_pytest() -> None:
    """A stand-in outlives nobody."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


@pytest.fixture(scope="session", autouse=True)  # up before any server is asked for
def node():
    command = [sys.executable, str(STAND_INS / "mlnode.py"), "--port=18080", "--inference-port=15000", "--gpus=8"]
    with subprocess.Popen(
        [*command, "--", sys.executable, *INSTANCE.split()], stdout=subprocess.PIPE, preexec_fn=end_with_pytest
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"node is up\n"
        yield
        running.terminate()


@pytest.mark.llmperf(plan="mlnode_guide.yaml")
def test_mlnode(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
