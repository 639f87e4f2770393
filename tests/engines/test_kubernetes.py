"""A chart installed by real Helm into a cluster of one node: what it takes to be measured, what fails, what is left.

The cluster is a stand-in (tests/standins/kubernetes) whose pods are embedded engines; helm, kubectl and HTTP are real.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_samples import CHART, PATIENCE_S, QUICK, ROOT, SECRET, TOOLS, Cluster, processes, running_cluster

from pytest_llmperf.errors import MissingRequirement, NotThere, ServerError
from pytest_llmperf.load.driver import run_load
from pytest_llmperf.load.trace.trace import make_trace
from pytest_llmperf.plan.load.spec import LoadSpec
from pytest_llmperf.servers.deployments.holder import facts_path
from pytest_llmperf.servers.duet import Duet
from pytest_llmperf.servers.server import LlmServer
from pytest_llmperf.servers.start import start_server

TEST = """
import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, sla):
    sla.check(load_driver.run(llm_server, load_point))
"""
INI = "[pytest]\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(autouse=True)
def _nothing_is_left(cluster: Cluster) -> Iterator[None]:
    yield
    assert cluster.helm("list", "--all-namespaces", "--short") == ""
    assert json.loads(cluster.kubectl("get", "pods", "--all-namespaces", "--output", "json"))["items"] == []


def errors(server: LlmServer) -> set[str | None]:
    """Of the requests of a small load; nothing is wrong where there is None alone."""
    spec = LoadSpec.model_validate({"input_tokens": 8, "output_tokens": 8, "concurrency": 2, "requests": 6})
    (point,) = spec.points("s")
    run = asyncio.run(run_load(server.targets, point, make_trace(point, "kube"), run_index=0))
    return {record.error for record in run.records}


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_installed_measured_uninstalled(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a port that is forwarded; the secret is in the pod, and in no file of ours."""
    monkeypatch.setenv("MODEL_KEY", SECRET)
    values = {"secretEnv": {"MODEL_KEY": "${MODEL_KEY}"}, "env": {"A": "b"}}
    labels = {"istio-injection": "enabled"}
    prepare = [["sh", "-c", 'echo "uploaded by $MODEL_KEY"']]
    config = cluster.server(values=values, namespace="first", namespace_labels=labels, prepare=prepare)
    with start_server(config, tmp_path / "logs", ()) as server:
        assert errors(server) == {None}
        server.check_alive()
        facts = json.loads(facts_path(server.logs[0]).read_text())
        (pod,) = cluster.names("pods", "first")
        assert (facts["pods"][0]["name"], facts["release"]) == (pod, "llmperf-k")
        assert server.deployment["chart"] == "llm 0.1.0"
        assert server.deployment["images"]["server"].startswith("llmperf.example/embedded@sha256:")
        assert server.deployment["machines"] == "stand-in"
        assert server.version is not None
    log = server.logs[0].read_text()
    assert re.findall(r"step (\d/6 \w+)", log)[::1][:2] == ["1/6 prepare", "2/6 namespace"]
    assert "uploaded by ***" in log
    assert "Application startup complete" in server.logs[0].with_suffix(".pods.log").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]
    namespace = json.loads(cluster.kubectl("get", "namespace", "first", "--output", "json"))
    assert namespace["metadata"]["labels"].items() >= labels.items()


def test_two_releases_side_by_side(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hosts of one gateway, which asks for a password; the second has two pods."""
    monkeypatch.setenv("GATE_USER", "me")
    monkeypatch.setenv("GATE_PASSWORD", SECRET)
    auth = {"ingress": {"auth": "${GATE_USER}:${GATE_PASSWORD}"}, "basic": "${GATE_USER}:${GATE_PASSWORD}"}
    old = cluster.server(name="old", **cluster.by_ingress(**auth))
    new = cluster.server(name="new", **cluster.by_ingress(**auth, values={"replicas": 2}))
    with start_server(Duet(old, new), tmp_path / "logs", ()) as server:
        assert server.reference is not None
        assert errors(server) == errors(server.reference) == {None}
        assert len(cluster.names("pods", "perf")) == 3
        assert server.url == server.reference.url
        assert server.deployment["images"] == server.reference.deployment["images"]
        assert server.deployment["manifest"] != server.reference.deployment["manifest"], "it has another count of pods"


def test_a_plan_measured_by_a_test(cluster: Cluster, tmp_path: Path) -> None:
    load = {"input_tokens": 8, "output_tokens": 8, "concurrency": 2, "requests": 6}
    server = cluster.entry(values={"args": {**QUICK, "max-num-seqs": {"sweep": [1, 4]}}}, gpus=0)
    plan = {
        "model": "embedded",
        "runs": 1,
        "servers": {"k": server},
        "loads": {"s": load},
        "sla": {"error_rate": "<= 0"},
    }
    done = suite(tmp_path, plan)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    points = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert [point["server"]["values"]["args"]["max-num-seqs"] for point in points] == [1, 4]
    assert {point["environment"] for point in points} == {"stand-in-kubernetes"}
    assert len({point["deployment"]["manifest"] for point in points}) == 2
    shown = suite(tmp_path, plan, "--llmperf-dry-run").stdout
    assert "upgrade --install llmperf-k-" in shown
    assert "        max-num-seqs: 4\n" in shown


def suite(folder: Path, plan: dict[str, Any], *args: str) -> subprocess.CompletedProcess[str]:
    """A pytest of its own on this plan; JSON is YAML."""
    (folder / "plan.yaml").write_text(json.dumps(plan))
    (folder / "test_perf.py").write_text(TEST)
    (folder / "pytest.ini").write_text(INI)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    env = {**kept, "PYTEST_ADDOPTS": f"--rootdir={folder} -c {folder}/pytest.ini {folder}/test_perf.py"}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", f"--llmperf-output={folder}/out", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)


ROLLOUT, REACH = r"5/6 rollout: pod llmperf-k-\S+", "6/6 reach: "
FAILURES = {
    "image": (
        {"values": {"image": "nobody.example/llm:1"}},
        ROLLOUT + ", container server: image nobody.example/llm:1 cannot be pulled: .*manifest unknown",
    ),
    "gpus": (
        {"values": {"gpus": 9}, "schedule_timeout": "1 s"},
        ROLLOUT + r": no node can take it \(0/1 nodes are available: 1 Insufficient nvidia.com/gpu.*schedule_timeout",
    ),
    "crash": (
        {"values": {"args": {"max-num-seqs": 0}}},
        r"container server: ends again and again \(Error, exit code \d\); first error in its log: .*max.num.seqs",
    ),
    "two pods": (
        {"values": {"replicas": 2}},
        REACH + "service llmperf-k has 2 ready pods, and a port can be forwarded to one. Measure through `url`",
    ),
    "service": ({"service": "other"}, REACH + "the release has no service 'other', but llmperf-k"),
    "port": ({"port": 9}, REACH + "service llmperf-k has the ports http 80: say which by `port`"),
    "chart": ({"chart": "nowhere/llm"}, "step 4/6 install: Error: .*repo nowhere not found"),
    "prepare": (
        {"prepare": [["sh", "-c", "echo NoSuchBucket >&2; exit 3"]]},
        r"step 1/6 prepare: NoSuchBucket \(exit code 3\)",
    ),
    "label": (
        {"namespace": "labelled", "namespace_labels": {"istio-injection": "enabled"}},
        r"step 2/6 namespace: .*already has a value \(disabled\).* Give labelled the label yourself",
    ),
    "gpu count": ({"gpus": 2}, "has 0 GPUs in its pods, and `gpus: 2` in the plan"),
    "context": (
        {"context": "elsewhere"},
        "step 2/6 namespace: Error in configuration: context was not found for specified context: elsewhere",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_names_step_cause_and_cure(cluster: Cluster, tmp_path: Path, name: str) -> None:
    changes, told = FAILURES[name]
    if changes.get("namespace") == "labelled":
        cluster.kubectl("create", "namespace", "labelled")
        cluster.kubectl("label", "namespace", "labelled", "istio-injection=disabled")
    with pytest.raises(ServerError, match=told), start_server(cluster.server(**changes), tmp_path, ()):
        pass


def test_a_node_that_an_autoscaler_brings(cluster: Cluster, tmp_path: Path) -> None:
    """Later than `schedule_timeout`, which the cluster's word that it is on its way suspends."""
    cluster.kubectl("label", "node", "node-0", "autoscaler=on")
    config = cluster.server(values={"gpus": 3}, schedule_timeout="0.5 s", gpus=3)
    with start_server(config, tmp_path, ()) as server:
        assert "Unschedulable" in server.logs[0].read_text()
        assert server.config.gpu_count == 3
    cluster.kubectl("label", "node", "node-0", "autoscaler-")


def test_wrong_credentials_of_the_gateway(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_USER", "me")
    monkeypatch.setenv("GATE_PASSWORD", SECRET)
    config = cluster.server(**cluster.by_ingress(ingress={"auth": "${GATE_USER}:${GATE_PASSWORD}"}))
    with (
        pytest.raises(ServerError, match=r"answers 401: the credentials are missing"),
        start_server(config, tmp_path, ()),
    ):
        pass


def test_a_variable_that_is_not_set(cluster: Cluster, tmp_path: Path) -> None:
    """Is known before anything is installed."""
    config = cluster.server(values={"secretEnv": {"A": "${NOWHERE_SET}"}})
    with pytest.raises(MissingRequirement, match=r"NOWHERE_SET"), start_server(config, tmp_path, ()):
        pass


@pytest.mark.parametrize("path", ["helm", "kubectl", "chart", "kubeconfig"])
def test_a_path_of_the_plan_that_leads_nowhere(cluster: Cluster, tmp_path: Path, path: str) -> None:
    config = cluster.server(**{path: "/no/such/place"})
    with pytest.raises(NotThere, match=r"needs .*/no/such/place"), start_server(config, tmp_path, ()):
        pass


def test_a_pod_that_is_lost_under_load(cluster: Cluster, tmp_path: Path) -> None:
    with start_server(cluster.server(), tmp_path, ()) as server:
        (pod,) = cluster.names("pods", "perf")
        cluster.kubectl("delete", "pod", "--namespace", "perf", "--wait=false", pod)
        until(lambda: server.processes[0].exit_code() is not None)
        with pytest.raises(ServerError, match=rf"died.*pod {pod} is gone"):
            server.check_alive()


def test_a_container_that_is_restarted_under_load(cluster: Cluster, tmp_path: Path) -> None:
    args = {**QUICK, "fault-die-after": 3}
    with start_server(cluster.server(values={"args": args}), tmp_path, ()) as server:
        assert errors(server) != {None}
        until(lambda: server.processes[0].exit_code() is not None)
        with pytest.raises(ServerError, match=r"container server of pod .* ended while it served"):
            server.check_alive()


def test_a_forwarding_that_ends_is_renewed(cluster: Cluster, tmp_path: Path) -> None:
    with start_server(cluster.server(), tmp_path, ()) as server:
        (forwarding,) = processes(f"{server.url.rpartition(':')[2]}:8000")
        os.kill(forwarding, signal.SIGKILL)
        until(lambda: server.logs[0].read_text().count("Forwarding from") == 2)
        assert errors(server) == {None}
    assert "requests on it failed. Renewed" in server.logs[0].read_text()


def test_a_cluster_that_is_gone(tmp_path: Path) -> None:
    """What could not be taken down is told with the command that does it."""
    with (
        running_cluster(tmp_path) as own,
        pytest.warns(UserWarning, match=r"take it down by hand: .*uninstall llmperf-k"),
    ):
        lose(own, tmp_path / "logs")


def lose(cluster: Cluster, logs: Path) -> None:
    with start_server(cluster.server(), logs, ()) as server:
        cluster.process.kill()
        until(lambda: server.processes[0].exit_code() is not None)
        with pytest.raises(ServerError, match=r"died.*kubectl port-forward ended 5 times"):
            server.check_alive()


def test_launched_anew(cluster: Cluster, tmp_path: Path) -> None:
    with start_server(cluster.server(), tmp_path, ()) as server:
        before = cluster.names("pods", "perf")
        assert server.relaunch()
        assert cluster.names("pods", "perf") != before
        assert errors(server) == {None}


def test_a_release_that_stays(cluster: Cluster, tmp_path: Path) -> None:
    """It is upgraded the next time; one that is not to stay must be ours."""
    for revision in (1, 2):
        with start_server(cluster.server(keep=True, release="lasting"), tmp_path, ()) as server:
            assert json.loads(facts_path(server.logs[0]).read_text())["revision"] == revision
    assert "release lasting stays" in server.logs[0].read_text()
    own = f"is up for process .*; if it is gone: {re.escape(str(cluster.server().helm))} uninstall lasting "
    kept = ("get", "secrets", "--namespace", "perf", "--selector", "owner=helm,name=lasting", "--output", "json")
    owner = json.loads(cluster.kubectl(*kept))["items"][-1]["metadata"]["labels"]["llmperf-owner"]
    cluster.helm("upgrade", "lasting", str(CHART), "-n", "perf", "--labels", f"llmperf-owner=other-host{owner}")
    with pytest.raises(ServerError, match=own), start_server(cluster.server(release="lasting"), tmp_path, ()):
        pass
    cluster.helm("upgrade", "lasting", str(CHART), "-n", "perf", "--labels", f"llmperf-owner={owner}")
    with start_server(cluster.server(release="lasting"), tmp_path, ()) as server:
        assert "was left by process" in server.logs[0].read_text()


def test_a_release_of_others(cluster: Cluster, tmp_path: Path) -> None:
    cluster.helm("install", "theirs", str(CHART), "-n", "default")
    config = cluster.server(release="theirs", namespace="default")
    with pytest.raises(ServerError, match=r"there, and not of ours. Name another"), start_server(config, tmp_path, ()):
        pass
    assert cluster.helm("list", "-n", "default", "--short") == "theirs\n"
    cluster.helm("uninstall", "theirs", "-n", "default")
    until(lambda: not cluster.names("pods", "default"))


PARENT = """
import json, sys, time
from pathlib import Path
from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer
from pytest_llmperf.servers.start import start_server
with start_server(KubernetesServer.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), ()):
    time.sleep(3600)
"""


SLOW_HELM = """#!/bin/sh
helm=HELM
case " $* " in
*" upgrade "*) "$helm" "$@" && exec sleep 3600 ;;
*) exec "$helm" "$@" ;;
esac
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        ("| waiting", {"prepare": [["sh", "-c", "echo waiting; exec sleep 3600"]]}),
        ("| STATUS: deployed", {"helm": SLOW_HELM}),
        ("step 5/6", {"values": {"gpus": 9}}),
        ("up: ", {}),
    ],
    ids=["prepare", "install", "rollout", "up"],
)
def test_whatever_ends_pytest_nothing_is_left(
    cluster: Cluster, tmp_path: Path, step: str, changes: dict[str, Any], signum: signal.Signals
) -> None:
    if "helm" in changes:
        helm = tmp_path / "helm"
        helm.write_text(changes["helm"].replace("HELM", str(TOOLS / "helm")))
        helm.chmod(0o755)
        changes = {"helm": str(helm)}
    entry = json.dumps({"name": "k", **cluster.entry(**changes)})
    log = tmp_path / "k.log"
    with subprocess.Popen([sys.executable, "-c", PARENT, entry, str(tmp_path)], stderr=subprocess.DEVNULL) as parent:
        until(lambda: log.exists() and step in log.read_text())
        parent.send_signal(signum)
        parent.wait(PATIENCE_S)
    until(lambda: not processes(str(tmp_path)) and not processes(str(cluster.kubeconfig), program="kubectl"))
