"""A cluster for tests: real helm and kubectl against the stand-in of tests/standins/kubernetes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".engines" / "kubectl"
CHART = ROOT / "perf_tests" / "charts" / "llm"
QUICK = {"step": "modelled", "decode-ms-per-step": 2}
SECRET = "s3cr3t-of-the-release"
PATIENCE_S = 30.0


class Cluster(NamedTuple):
    kubeconfig: Path
    ingress: int
    process: subprocess.Popen[bytes]

    def kubectl(self, *words: str) -> str:
        command = [str(TOOLS / "kubectl"), "--kubeconfig", str(self.kubeconfig), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout

    def helm(self, *words: str) -> str:
        command = [str(TOOLS / "helm"), "--kubeconfig", str(self.kubeconfig), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout

    def names(self, kind: str, namespace: str) -> list[str]:
        items = json.loads(self.kubectl("get", kind, "--namespace", namespace, "--output", "json"))["items"]
        return [one["metadata"]["name"] for one in items]

    def entry(self, **changes: Any) -> dict[str, Any]:
        """A server's entry in a plan; `values` are added to those that make the engine quick."""
        values = {"args": QUICK, **changes.pop("values", {})}
        entry = {
            "engine": "kubernetes",
            "model": "embedded",
            "chart": str(CHART),
            "values": values,
            "namespace": "perf",
            "context": "stand-in",
            "kubeconfig": str(self.kubeconfig),
            "helm": str(TOOLS / "helm"),
            "kubectl": str(TOOLS / "kubectl"),
            "ready_timeout": "60 s",
            "stop_timeout": "30 s",
        }
        return {**entry, **changes}

    def server(self, **changes: Any) -> KubernetesServer:
        return KubernetesServer.model_validate({"name": "k", **self.entry(**changes)})

    def by_ingress(self, **changes: Any) -> dict[str, Any]:
        """What an entry needs to be reached through the cluster's ingress controller, as a gateway's host."""
        values = {"ingress": {"host": "{release}.llm.example", **changes.pop("ingress", {})}}
        way = {"url": f"http://127.0.0.1:{self.ingress}", "headers": {"host": "{release}.llm.example"}}
        return {**way, "values": {**values, **changes.pop("values", {})}, **changes}


@contextlib.contextmanager
def running_cluster(folder: Path, gpus: int = 2) -> Iterator[Cluster]:
    """A cluster; its pods are processes that end with it. Skips where helm and kubectl are not there."""
    if not (TOOLS / ".llmperf-stamp").exists():
        reason = "needs helm and kubectl in .engines (make engine-kubectl)"
        pytest.fail(reason) if os.environ.get("LLMPERF_REQUIRE_ENGINES") == "1" else pytest.skip(reason)
    kubeconfig = folder / "kubeconfig"
    program = [sys.executable, str(ROOT / "tests" / "standins" / "kubernetes"), str(kubeconfig), "--gpus", str(gpus)]
    with (
        (folder / "cluster.log").open("w") as log,
        subprocess.Popen(
            [*program, "--kubectl", str(TOOLS / "kubectl")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", (folder / "cluster.log").read_text()
            yield Cluster(kubeconfig, int(Path(f"{kubeconfig}.ingress").read_text()), process)
        finally:
            process.terminate()
            process.communicate()


def processes(word: str, program: str = "") -> list[int]:
    """Processes of this machine with `word` among the words of their command, of this `program` if one is named."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text(errors="replace").split("\0")
            if any(word in one for one in words) and program in words[0]:
                found.append(int(path.parent.name))
    return found
