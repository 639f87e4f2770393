"""A tutorial's deployment on Kubernetes, on a stand-in: `make perf-deployments`, docs/guides/kubernetes.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINES, CLUSTER = ROOT / ".engines", ROOT / "llmperf-results" / "cluster"
os.environ.setdefault("GATE_USER", "me")
os.environ.setdefault("GATE_PASSWORD", "word-of-the-gate")


@pytest.fixture(scope="session", autouse=True)  # up before any server is asked for
def cluster():
    if not (ENGINES / "kubectl" / ".llmperf-stamp").exists() or not (ENGINES / "triton" / "bin").exists():
        pytest.skip("needs helm, kubectl and Triton in .engines (make engine-kubectl engine-triton)")
    CLUSTER.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, str(ROOT / "tests" / "standins" / "kubernetes"), str(CLUSTER / "kubeconfig")]
    options = [f"--kubectl={ENGINES / 'kubectl' / 'kubectl'}", "--ingress-port=18090"]
    # Its standard input ends with this process, however that ends, and it with that.
    with (
        (CLUSTER / "cluster.log").open("w") as log,
        subprocess.Popen(
            [*program, *options], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as running,
    ):
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        yield
        running.terminate()


@pytest.mark.llmperf(plan="kubernetes_guide.yaml")
def test_kubernetes(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
