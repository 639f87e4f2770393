"""Faults of servers that are deployed in steps: MLNodes, TensorRT-LLM and Kubernetes, on stand-ins"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fault import Fault, check, rows
from kubernetes_samples import running_cluster
from trtllm_samples import config as trtllm_config
from trtllm_samples import put_on_path

from pytest_llmperf.servers.process.process import free_ports

_NODE = Path(__file__).parents[1] / "standins" / "mlnode.py"
_ENGINE = (sys.executable, "-m", "pytest_llmperf.embedded", "--step", "modelled", "--decode-ms-per-step", "2")
_LOAD = {"requests": 6, "no_data_timeout": "5 s", "read_timeout": "10 s"}


class _Node:
    """A stand-in of an MLNode; each of its eight GPUs is for the one instance."""

    def __init__(self, sandbox, *options):
        # The instances get the ports above the inference port.
        port, inference = free_ports(1)[0], 10_000 + os.getpid() % 1000 * 10
        self.url, self.inference_url = (f"http://127.0.0.1:{one}" for one in (port, inference))
        words = ("--port", str(port), "--inference-port", str(inference), *options, "--", *_ENGINE)
        command = [sys.executable, str(_NODE), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        sandbox.callback(self.end)
        assert self.process.stdout.readline() == b"node is up\n"

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        httpx.post(f"{self.url}/api/v1/stop", timeout=30.0)

    def entry(self, **args):
        return {
            "engine": "mlnode",
            "url": self.url,
            "inference_url": self.inference_url,
            "gpus": 8,
            "args": {"tp": 8, "dtype": "float16", **args},
            "ready_timeout": "60 s",
        }


def _until_a_run_is_over(session):
    session.until(lambda: list((session.folder / "out" / "requests").glob("*.jsonl")))


def _node(*options, during=None, **args):
    """`during` the second run something happens to the node."""

    def run(sandbox):
        node = _Node(sandbox, *options)
        sandbox.plan(node.entry(**args), _LOAD, runs=500, locked={"dtype": "float16"})
        session = sandbox.pytest()
        if during:
            _until_a_run_is_over(session)
            during(node)
        return session

    return run


def _trtllm(during=None, env=None, **changes):
    """The toolchain is on PATH; `during` gets the session."""

    def run(sandbox):
        with pytest.MonkeyPatch.context() as patch:
            put_on_path(patch)
            server = trtllm_config(sandbox.folder, {"precision": "fp8"}, env, **changes)
            left_out = {"name", "unlocked", "ready", "ready_timeout", "exit_timeout"}
            entry = server.model_dump(mode="json", exclude=left_out)
            sandbox.plan(
                {**entry, "unlocked": ["precision"], "ready_timeout": f"{server.ready_timeout:g} s"}, _LOAD, runs=500
            )
            session = sandbox.pytest()
        if during:
            during(session)
        return session

    return run


def _kill_quantising(session):
    steps = session.folder / "out" / "servers" / "s-trtllm"
    session.until(lambda: any("is busy" in path.read_text() for path in steps.glob("*.log")))
    found = [pid for pid, line in session.processes("quantize.py").items() if "deployments" not in line]
    os.kill(max(found), signal.SIGKILL)


def _stop_serving(session):
    _until_a_run_is_over(session)
    (pid,) = session.processes("pytest_llmperf.embedded")
    os.kill(pid, signal.SIGSTOP)


def _kubernetes(during=None, **changes):
    """A cluster of its own; `during` the second run something happens to it."""

    def run(sandbox):
        folder = sandbox.folder / "cluster"
        folder.mkdir()
        cluster = sandbox.enter_context(running_cluster(folder))
        sandbox.plan(cluster.entry(**changes), _LOAD, runs=500)
        session = sandbox.pytest()
        if during:
            _until_a_run_is_over(session)
            during(cluster)
        return session

    return run


def _delete_pod(cluster):
    (pod,) = cluster.names("pods", "perf")
    cluster.kubectl("delete", "pod", "--namespace", "perf", "--wait=false", pod)


FAULTS = (
    Fault(
        "node-start",
        "an MLNode answers HTTP 200, and with it that its engine did not start",
        _node(**{"fault-start": 1}),
        says=("step 2/5 up: HTTP 200 with status ERROR: vLLM process exited prematurely", "(docker logs)"),
    ),
    Fault(
        "node-busy",
        "an MLNode trains already",
        _node("--mode", "TRAIN"),
        says=("the node runs TRAIN already, which is not ours to stop",),
    ),
    Fault(
        "node-stopped",
        "somebody stops an MLNode under load",
        _node(during=_Node.stop),
        says=("the node is STOPPED, no longer INFERENCE",),
        keeps=6,
    ),
    Fault(
        "node-gone",
        "an MLNode's machine is gone under load",
        _node(during=_Node.end),
        says=("its inference port does not answer: GET /v1/models: ConnectError", "look at http://127.0.0.1:"),
        keeps=6,
    ),
    Fault(
        "quantising-fails",
        "a step of TensorRT-LLM fails",
        _trtllm(env={"STANDIN_FAULT": "quantize.py: RuntimeError: CUDA out of memory"}),
        says=("step 2/3 quantize: exit code 1: RuntimeError: CUDA out of memory", "its log: "),
    ),
    Fault(
        "quantising-hangs",
        "a step of TensorRT-LLM never ends",
        _trtllm(env={"STANDIN_HANG": "quantize.py"}, ready_timeout="20 s"),
        says=("was not ready within 20 s (ready_timeout)", "quantize"),
    ),
    Fault(
        "quantising-killed",
        "a step of TensorRT-LLM is killed, as by the kernel out of memory",
        _trtllm(_kill_quantising, env={"STANDIN_HANG": "quantize.py"}),
        says=("step 2/3 quantize", "SIGKILL"),
    ),
    Fault(
        "trtllm-stopped",
        "trtllm-serve is stopped (SIGSTOP) under load: it is not called dead",
        _trtllm(_stop_serving),
        says=("is up, but it hangs or is stopped: GET /health",),
        keeps=6,
    ),
    Fault(
        "model-gated",
        "a model may not be downloaded",
        _trtllm(model="gated/m"),
        says=("step 1/3 download", "Access denied. This repository requires approval: gated/m"),
    ),
    Fault(
        "image",
        "an image cannot be pulled",
        _kubernetes(values={"image": "nobody.example/llm:1"}),
        says=("image nobody.example/llm:1 cannot be pulled",),
    ),
    Fault(
        "chart",
        "helm does not find the chart",
        _kubernetes(chart="nowhere/llm"),
        says=("step 4/6 install: Error: ", "repo nowhere not found"),
    ),
    Fault(
        "pod-gone",
        "a pod is deleted under load",
        _kubernetes(_delete_pod),
        says=("died", "is gone"),
        keeps=6,
    ),
    Fault(
        "cluster-gone",
        "the cluster's API and its pods are gone under load",
        _kubernetes(lambda cluster: cluster.process.kill()),
        says=("died", "take it down by hand", "uninstall llmperf-s"),
        keeps=6,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
