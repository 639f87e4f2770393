"""The controllers and the one node of the cluster: its pods are processes on this machine.

Every pod has an address of its own in 127.0.0.0/8, so that two may listen on the same port. Three images are known: the
embedded engine and Triton (where it is installed), which are told to listen on the pod's address, and Python. Others
cannot be pulled.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from pathlib import Path
from typing import Any

from store import Conflict, Store, Thing, now

_TRITON = Path(__file__).resolve().parents[3] / ".engines" / "triton" / "bin" / "tritonserver"
_TRITON_ADDRESSES = [f"--{service}-address={{address}}" for service in ("http", "grpc", "metrics")]
IMAGES = {
    "llmperf.example/embedded": [sys.executable, "-m", "pytest_llmperf.embedded", "--host", "{address}"],
    "llmperf.example/python": [sys.executable],
    **({"llmperf.example/triton": [str(_TRITON), *_TRITON_ADDRESSES]} if _TRITON.exists() else {}),
}
_GPU = "nvidia.com/gpu"
_BACK_OFF_S, _GROWTH_S = 2.0, 4.0
_ADDRESSES = (f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}.{n % 250 + 1}" for n in itertools.count())


class Container:
    """A container of a pod: its process, and how often that has ended."""

    def __init__(self, spec: Thing, log: Path) -> None:
        self.spec, self.log = spec, log
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts, self.ended, self.ready, self.again_at = 0, None, False, 0.0

    @property
    def image(self) -> str:
        return str(self.spec["image"]).partition(":")[0].partition("@")[0]

    def status(self) -> Thing:
        digest = hashlib.sha256(self.spec["image"].encode()).hexdigest()
        known = self.image in IMAGES
        status = {"name": self.spec["name"], "image": self.spec["image"], "ready": self.ready}
        status |= {"restartCount": self.restarts, "imageID": f"{self.image}@sha256:{digest}" if known else ""}
        if not known:
            message = f'Back-off pulling image "{self.spec["image"]}": manifest unknown'
            return status | {"state": {"waiting": {"reason": "ImagePullBackOff", "message": message}}}
        ended = {"terminated": self.ended} if self.ended else {}
        if self.process is None:
            waiting = "CrashLoopBackOff" if self.restarts else "ContainerCreating"
            return status | {"state": {"waiting": {"reason": waiting}}, "lastState": ended}
        return status | {"state": {"running": {"startedAt": now()}}, "lastState": ended}


class Kubelet(threading.Thread):
    """Does what the store asks for until it is stopped."""

    def __init__(self, store: Store, folder: Path, gpus: int) -> None:
        super().__init__(daemon=True)
        self.store, self.folder, self.gpus = store, folder, gpus
        self.pods: dict[tuple[str, str], list[Container]] = {}
        self.stopping = False
        self.grows_at = 0.0

    def run(self) -> None:
        try:
            while not self.stopping:
                self._turn()
        except BaseException:
            # Without its kubelet a cluster waits forever.
            traceback.print_exc()
            os._exit(1)
        finally:
            for containers in self.pods.values():
                self._end(containers)

    def _turn(self) -> None:
        with self.store.changed:
            self.store.changed.wait(0.2)
        for workload in (*self.store.list("deployments"), *self.store.list("statefulsets")):
            self._workload(workload)
        owners = {t["metadata"]["uid"] for t in (*self.store.list("deployments"), *self.store.list("statefulsets"))}
        for pod in self.store.list("pods"):
            self._pod(pod, owners)
        for service in self.store.list("services"):
            self._service(service)
        self._without_owner()

    def log(self, namespace: str, name: str, container: str, previous: bool) -> Path | None:
        containers = self.pods.get((namespace, name), [])
        found = next((one for one in containers if container in ("", one.spec["name"])), None)
        if found is None:
            return None
        return found.log.with_suffix(".previous") if previous else found.log

    def _workload(self, workload: Thing) -> None:
        meta, spec = workload["metadata"], workload["spec"]
        wanted = spec.get("replicas", 1)
        version = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        own = [p for p in self.store.list("pods", meta["namespace"]) if _owner(p) == meta["uid"]]
        alive = [p for p in own if "deletionTimestamp" not in p["metadata"]]
        new = [p for p in alive if p["metadata"]["labels"]["pod-template-hash"] == version]
        for pod in (*(p for p in alive if p not in new), *new[wanted:]):
            self.delete_pod(pod)
        for _ in range(wanted - len(new)):
            self._create_pod(workload, version)
        ready = sum(_is_ready(pod) for pod in new[:wanted])

        def edit(thing: Thing) -> None:
            thing["status"] = {
                "observedGeneration": meta["generation"],
                "replicas": len(alive),
                "updatedReplicas": len(new),
                "readyReplicas": ready,
                "availableReplicas": ready,
                "unavailableReplicas": wanted - ready,
                "conditions": [{"type": "Available", "status": str(ready >= wanted)}],
            }

        self.store.change(
            "deployments" if workload["kind"] == "Deployment" else "statefulsets", meta["namespace"], meta["name"], edit
        )

    def _create_pod(self, workload: Thing, version: str) -> None:
        meta, template = workload["metadata"], workload["spec"]["template"]
        suffix = hashlib.sha256(os.urandom(8)).hexdigest()[:5]
        labels = {**template["metadata"].get("labels", {}), "pod-template-hash": version}
        owner = {"kind": workload["kind"], "name": meta["name"], "uid": meta["uid"], "controller": True}
        pod = {
            "metadata": {
                "name": f"{meta['name']}-{version}-{suffix}",
                "namespace": meta["namespace"],
                "labels": labels,
                "annotations": template["metadata"].get("annotations", {}),
                "ownerReferences": [owner],
            },
            "spec": json.loads(json.dumps(template["spec"])),
            "status": {"phase": "Pending"},
        }
        with contextlib.suppress(Conflict):
            self.store.create("pods", pod)

    def _pod(self, pod: Thing, owners: set[str]) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        key = (meta["namespace"], meta["name"])
        if (owner := _owner(pod)) and owner not in owners and "deletionTimestamp" not in meta:
            self.delete_pod(pod)
        if self.store.get("pods", *key) is None or "deletionTimestamp" in self.store.get("pods", *key)["metadata"]:  # type: ignore[index]
            return
        containers = self.pods.get(key)
        if containers is None:
            if (needed := _gpus(spec)) > self.gpus - self._used():
                self._unschedulable(pod, needed)
                return
            containers = self.pods[key] = [
                Container(one, self.folder / f"{meta['name']}.{one['name']}.log") for one in spec["containers"]
            ]
            pod["spec"]["nodeName"] = "node-0"
            pod["status"] = {
                "phase": "Pending",
                "podIP": next(_ADDRESSES),
                "conditions": [_condition("PodScheduled", True)],
            }
            self.event(pod, "Normal", "Scheduled", f"Successfully assigned {key[0]}/{key[1]} to node-0")
        for container in containers:
            self._container(pod, container)
        ready = all(one.ready for one in containers)
        running = any(one.process for one in containers)
        pod["status"] |= {
            "phase": "Running" if running or any(one.restarts for one in containers) else "Pending",
            "conditions": [_condition("PodScheduled", True), _condition("Ready", ready)],
            "containerStatuses": [one.status() for one in containers],
        }
        for status in pod["status"]["containerStatuses"]:  # the moment of a start that goes on is no change
            if "running" in status["state"]:
                status["state"]["running"]["startedAt"] = meta["creationTimestamp"]
        self.store.update("pods", pod)

    def _container(self, pod: Thing, container: Container) -> None:
        if container.image not in IMAGES:
            self.event(pod, "Warning", "Failed", f'Failed to pull image "{container.spec["image"]}": manifest unknown')
            return
        process = container.process
        if process is not None and process.poll() is not None:
            code = process.returncode if process.returncode >= 0 else 128 - process.returncode
            reason = "Completed" if code == 0 else "OOMKilled" if code == 137 else "Error"
            container.ended = {"exitCode": code, "reason": reason, "finishedAt": now()}  # type: ignore[assignment]
            container.process, container.ready = None, False
            container.restarts += 1
            container.log.replace(container.log.with_suffix(".previous"))
            container.again_at = time.monotonic() + _BACK_OFF_S * (container.restarts - 1)
            self.event(pod, "Warning", "BackOff", f"Back-off restarting failed container {container.spec['name']}")
        if container.process is None and time.monotonic() >= container.again_at:
            container.process = self._start(pod, container)
            self.event(pod, "Normal", "Started", f"Started container {container.spec['name']}")
        container.ready = container.process is not None and _probe(container.spec, pod["status"]["podIP"])

    def _start(self, pod: Thing, container: Container) -> subprocess.Popen[bytes]:
        spec, address = container.spec, pod["status"]["podIP"]
        entry = spec.get("command") or [word.format(address=address) for word in IMAGES[container.image]]
        values = {one["name"]: self._value(pod, one) for one in spec.get("env") or []}
        env = {**os.environ, **{name: value for name, value in values.items() if value is not None}}
        with container.log.open("wb") as log:
            words = [*entry, *map(str, spec.get("args") or [])]
            return subprocess.Popen(
                words,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_node,
            )

    def _value(self, pod: Thing, variable: Thing) -> str | None:
        if ref := variable.get("valueFrom", {}).get("secretKeyRef"):
            secret = self.store.get("secrets", pod["metadata"]["namespace"], ref["name"]) or {"data": {}}
            return base64.b64decode(secret["data"].get(ref["key"], "")).decode()
        return variable.get("value")

    def _used(self) -> int:
        taken = [self.store.get("pods", *key) for key in self.pods]
        return sum(_gpus(pod["spec"]) for pod in taken if pod)

    def _unschedulable(self, pod: Thing, needed: int) -> None:
        node = self.store.get("nodes", "", "node-0")
        if node and "autoscaler" in node["metadata"]["labels"]:
            self.event(pod, "Normal", "TriggeredScaleUp", "pod triggered scale-up")
            self.grows_at = self.grows_at or time.monotonic() + _GROWTH_S
            if time.monotonic() >= self.grows_at:
                self.gpus += needed
        message = f"0/1 nodes are available: 1 Insufficient {_GPU}. preemption: 0/1 nodes are available"
        condition = {**_condition("PodScheduled", False), "reason": "Unschedulable", "message": message}
        pod["status"] = {"phase": "Pending", "conditions": [condition]}
        self.store.update("pods", pod)
        self.event(pod, "Warning", "FailedScheduling", message)

    def event(self, pod: Thing, kind: str, reason: str, message: str) -> None:
        meta = pod["metadata"]
        regarding = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
        name = f"{meta['name']}.{hashlib.sha256((reason + message).encode()).hexdigest()[:12]}"
        event = {
            "metadata": {"name": name, "namespace": meta["namespace"]},
            "involvedObject": regarding,
            "type": kind,
            "reason": reason,
            "message": message,
            "lastTimestamp": now(),
            "count": 1,
        }
        with contextlib.suppress(Conflict):
            self.store.create("events", event)

    def delete_pod(self, pod: Thing) -> None:
        """Its processes are asked to end; the object goes when they have."""
        meta = pod["metadata"]

        def leave(thing: Thing) -> None:
            thing["metadata"].setdefault("deletionTimestamp", now())

        self.store.change("pods", meta["namespace"], meta["name"], leave)

        def end() -> None:
            self._end(self.pods.get((meta["namespace"], meta["name"]), []))
            self.store.delete("pods", meta["namespace"], meta["name"])
            self.pods.pop((meta["namespace"], meta["name"]), None)

        threading.Thread(target=end, daemon=True).start()

    def _end(self, containers: list[Container]) -> None:
        for container in containers:
            if container.process is not None and container.process.poll() is None:
                container.process.terminate()
        for container in containers:
            if container.process is not None:
                try:
                    container.process.wait(10)
                except subprocess.TimeoutExpired:
                    container.process.kill()
                    container.process.wait()

    def _service(self, service: Thing) -> None:
        meta, spec = service["metadata"], service["spec"]
        selector = ",".join(f"{name}={value}" for name, value in spec.get("selector", {}).items())
        pods = [p for p in self.store.list("pods", meta["namespace"], selector) if p["status"].get("podIP")]
        ports = [
            {"name": one.get("name", ""), "port": _target_port(one, pods), "protocol": "TCP"} for one in spec["ports"]
        ]
        slice_ = {
            "metadata": {
                "name": f"{meta['name']}-x",
                "namespace": meta["namespace"],
                "labels": {"kubernetes.io/service-name": meta["name"]},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [
                {
                    "addresses": [pod["status"]["podIP"]],
                    "conditions": {"ready": _is_ready(pod) and "deletionTimestamp" not in pod["metadata"]},
                    "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": meta["namespace"]},
                }
                for pod in pods
            ],
        }
        old = self.store.get("endpointslices", meta["namespace"], f"{meta['name']}-x")
        if old is None:
            self.store.create("endpointslices", slice_)
        else:
            self.store.update("endpointslices", {**old, "ports": ports, "endpoints": slice_["endpoints"]})

    def _without_owner(self) -> None:
        for slice_ in self.store.list("endpointslices"):
            meta = slice_["metadata"]
            if self.store.get("services", meta["namespace"], meta["labels"]["kubernetes.io/service-name"]) is None:
                self.store.delete("endpointslices", meta["namespace"], meta["name"])


def _end_with_node() -> None:
    """A pod outlives no cluster, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def _owner(pod: Thing) -> str:
    return next((ref["uid"] for ref in pod["metadata"].get("ownerReferences", [])), "")


def _condition(kind: str, holds: bool) -> Thing:
    return {"type": kind, "status": str(holds)}


def _is_ready(pod: Thing) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def _gpus(spec: Thing) -> int:
    asked = (one.get("resources", {}).get("limits", {}).get(_GPU, 0) for one in spec["containers"])
    return sum(map(int, asked))


def _target_port(port: Thing, pods: list[Thing]) -> int:
    target: Any = port.get("targetPort", port["port"])
    named = {
        p.get("name"): p["containerPort"] for pod in pods for c in pod["spec"]["containers"] for p in c.get("ports", [])
    }
    return int(named.get(target, port["port"]) if isinstance(target, str) else target)


def _probe(container: Thing, address: str) -> bool:
    probe = container.get("readinessProbe", {}).get("httpGet")
    if probe is None:
        return True
    named = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    port = named.get(probe["port"], probe["port"])
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}:{port}{probe['path']}", timeout=1):
        return True
    return False
