"""The state of a release: its workloads, its pods, and the problems that keep them from serving. Pure.

Objects are as `kubectl get -o json` prints them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Object = Mapping[str, Any]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
_INSTANCE = "app.kubernetes.io/instance"
_PERMANENT = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError")
_PULLS = ("ImagePullBackOff", "ErrImagePull")
_WRONG_IMAGE = re.compile(r"(?i)not found|manifest unknown|denied|unauthorized|forbidden|invalid reference")
_NODE_LABELS = ("node.kubernetes.io/instance-type", "nvidia.com/gpu.product", "nvidia.com/cuda.driver-version.full")
_GPU = re.compile(r"/gpu(\.|$)|/mig-|^gpu\.intel\.com/(i915|xe)$")
"""Resources that are GPUs: nvidia.com/gpu, nvidia.com/mig-1g.5gb, gpu.intel.com/i915, not gpu.intel.com/memory.max."""


class Trouble(NamedTuple):
    """A problem of a pod that waiting does not cure."""

    pod: str
    container: str
    """Empty where it is the pod's."""
    problem: str
    has_log: bool = False
    """True if the container has run before, so that its log says more."""
    lacks_node: bool = False
    """True if an autoscaler that brings a node cures it all the same."""


class Workload(NamedTuple):
    """A Deployment, StatefulSet or DaemonSet of a release, by the labels of its pods."""

    kind: str
    name: str
    labels: Mapping[str, str]


def workloads(manifest: Iterable[Object]) -> tuple[Workload, ...]:
    """The workloads of a release's manifest, which make its pods."""
    return tuple(
        Workload(one["kind"], one["metadata"]["name"], one["spec"]["selector"].get("matchLabels", {}))
        for one in manifest
        if one and one.get("kind") in WORKLOADS
    )


def manifest_digest(release: str, manifest: Iterable[Object]) -> str:
    """Start of a SHA-256 of what is installed, the same under any name of the release.

    Without its Secrets, which could be guessed from a digest.
    """
    compared = [one for one in manifest if one and one.get("kind") != "Secret"]
    name = rf"(?<![a-z0-9]){re.escape(release)}(?![a-z0-9])"
    text = re.sub(name, "RELEASE", json.dumps(compared, sort_keys=True, default=str))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pods_of(release: str, made_by: Sequence[Workload], objects: Iterable[Object]) -> list[Object]:
    """The release's pods; those that are on their way out, or have ended, as that of a hook, are left out."""
    # A workload replaces a pod that failed, as by eviction, which stays listed.
    ended = ("Succeeded", "Failed") if made_by else ("Succeeded",)
    selectors = [one.labels for one in made_by] or [{_INSTANCE: release}]
    return [
        one
        for one in objects
        if one["kind"] == "Pod"
        and "deletionTimestamp" not in one["metadata"]
        and one.get("status", {}).get("phase") not in ended
        and any(selector.items() <= one["metadata"].get("labels", {}).items() for selector in selectors)
    ]


def unfinished(made_by: Sequence[Workload], pods: Sequence[Object], objects: Sequence[Object]) -> list[str]:
    """Sentences on what is not rolled out yet; empty when every workload is and all pods are ready."""
    live = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    found = [problem for one in made_by if (problem := _unfinished(one, live.get((one.kind, one.name))))]
    if not found and not (pods and all(map(_is_ready, pods))):
        found = [f"{sum(map(_is_ready, pods))} of {len(pods)} pods ready"]
    return found


def _unfinished(workload: Workload, live: Object | None) -> str | None:
    if live is None:
        return f"{workload.kind} {workload.name} is not there"
    status, kind = live.get("status", {}), workload.kind
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return f"{kind} {workload.name} is not looked at yet"
    names = {
        "Deployment": ("replicas", "updatedReplicas", "availableReplicas"),
        "StatefulSet": ("replicas", "updatedReplicas", "readyReplicas"),
        "DaemonSet": ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"),
    }[kind]
    all_of_them, updated, ready = (status.get(name, 0) for name in names)
    wanted = all_of_them if kind == "DaemonSet" else live["spec"].get("replicas", 1)
    if updated == ready == all_of_them == wanted:
        return None
    return f"{kind} {workload.name}: {ready} of {wanted} pods ready" + ("" if updated >= wanted else f", {updated} new")


def _is_ready(pod: Object) -> bool:
    return _condition(pod, "Ready").get("status") == "True"


def _condition(thing: Object, kind: str) -> Object:
    conditions = thing.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def waiting_for(pod: Object) -> str:
    """Kubernetes' reason why a pod is not ready, in a word or two; empty for one that is ready."""
    if _is_ready(pod):
        return ""
    for container in containers(pod):
        if waiting := container.get("state", {}).get("waiting"):
            return str(waiting.get("reason", "waiting"))
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason", "not scheduled"))
    return "running, not ready" if pod["status"].get("phase") == "Running" else str(pod["status"].get("phase"))


def containers(pod: Object) -> Iterator[Object]:
    """Yields the states of a pod's containers, those that prepare it first."""
    yield from pod["status"].get("initContainerStatuses", [])
    yield from pod["status"].get("containerStatuses", [])


def trouble(
    made_by: Sequence[Workload], pods: Iterable[Object], objects: Iterable[Object], unscheduled: Container[str]
) -> Trouble | None:
    """The first thing that waiting does not cure; None when all is well.

    `objects` may hold those of other releases. `unscheduled` are the pods, by uid, that have been without a node for
    too long.
    """
    own = {(one.kind, one.name) for one in made_by}
    for thing in objects:
        failure, name = _condition(thing, "ReplicaFailure"), thing["metadata"]["name"]
        if (thing["kind"], name) in own and failure.get("status") == "True":
            return Trouble(name, "", f"no pod can be made: {failure.get('message', '')}")
    for pod in pods:
        name = pod["metadata"]["name"]
        if pod["metadata"]["uid"] in unscheduled and is_unschedulable(pod):
            message = _condition(pod, "PodScheduled").get("message", "")
            return Trouble(name, "", f"no node can take it ({message}) within schedule_timeout", lacks_node=True)
        for container in containers(pod):
            if found := _container_trouble(name, container):
                return found
    return None


def is_unschedulable(pod: Object) -> bool:
    """True if the scheduler has found no node for the pod so far."""
    return _condition(pod, "PodScheduled").get("reason") == "Unschedulable"


def _container_trouble(pod: str, container: Object) -> Trouble | None:
    name, waiting = container["name"], container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated") or {}
    if reason in _PULLS and _WRONG_IMAGE.search(message):
        return Trouble(pod, name, f"image {container['image']} cannot be pulled: {message}")
    if reason in _PERMANENT:
        return Trouble(pod, name, f"{reason}: {message}")
    if ended.get("reason") == "OOMKilled":
        return Trouble(pod, name, f"{_end(ended)}: it needs more memory than its limit", has_log=True)
    restarts = container.get("restartCount", 0)
    if restarts > 1 or (restarts and reason == "CrashLoopBackOff"):
        return Trouble(pod, name, f"ends again and again ({_end(ended)})", has_log=True)
    return None


def _end(terminated: Object) -> str:
    return f"{terminated.get('reason', 'ended')}, exit code {terminated.get('exitCode', 'unknown')}"


def losses(before: Sequence[Object], now: Sequence[Object]) -> list[str]:
    """Sentences on pods that served `before` and do so no more: those that are gone, and containers that were
    restarted.
    """
    still = {one["metadata"]["uid"]: one for one in now}
    found = []
    for pod in before:
        name, held = pod["metadata"]["name"], still.get(pod["metadata"]["uid"])
        if held is None:
            found.append(f"pod {name} is gone: it was deleted, evicted or replaced")
            continue
        earlier = {one["name"]: one for one in containers(pod)}
        for one in containers(held):
            was = earlier.get(one["name"], {})
            ended = one.get("lastState", {}).get("terminated") or one.get("state", {}).get("terminated") or {}
            # An init container had ended before.
            has_ended = "terminated" in one.get("state", {}) and "terminated" not in was.get("state", {})
            if has_ended or one.get("restartCount", 0) > was.get("restartCount", 0):
                found.append(f"container {one['name']} of pod {name} ended while it served ({_end(ended)})")
    return found


def images(pods: Iterable[Object]) -> dict[str, str]:
    """The image of every container, by its digest where the node reports one."""
    found: dict[str, set[str]] = {}
    for pod in pods:
        for one in pod["status"].get("containerStatuses", []):
            digest = one.get("imageID", "").partition("://")[2] or one.get("imageID", "")
            found.setdefault(one["name"], set()).add(digest or one["image"])
    return {name: ", ".join(sorted(several)) for name, several in sorted(found.items())}


def machines(nodes: Iterable[Object]) -> str:
    """The kinds of these nodes: the provider's type and the GPU, from their labels; empty where they have none."""
    found = (one["metadata"].get("labels", {}) for one in nodes)
    kinds = {" ".join(filter(None, (labels.get(name) for name in _NODE_LABELS))) for labels in found}
    return ", ".join(sorted(kinds))


def gpus(pods: Iterable[Object]) -> int:
    """GPUs that the pods hold."""
    limits = (one.get("resources", {}).get("limits", {}) for pod in pods for one in pod["spec"]["containers"])
    return sum(int(count) for limit in limits for name, count in limit.items() if _GPU.search(name))


def service_port(services: Sequence[Object], service: str, port: int | str) -> tuple[str, str, int]:
    """Name of the service, name and number of its port: those asked for, or the only ones.

    ValueError says which there are.
    """
    named = {one["metadata"]["name"]: one for one in services}
    if not service and len(named) != 1:
        raise ValueError(
            f"the release has {len(named)} services ({', '.join(named) or 'none'}): say which by `service`"
        )
    name = service or next(iter(named))
    if name not in named:
        raise ValueError(f"the release has no service {name!r}, but {', '.join(named) or 'none'}")
    ports = {one.get("name", ""): one["port"] for one in named[name]["spec"].get("ports", [])}
    fitting = [pair for pair in ports.items() if port in ("", *pair)]
    if len(fitting) != 1:
        shown = ", ".join(f"{n} {number}".strip() for n, number in ports.items())
        raise ValueError(f"service {name} has the ports {shown or 'none'}: say which by `port`")
    return name, *fitting[0]


def endpoints(slices: Iterable[Object], port: str) -> list[tuple[str, int]]:
    """Pods behind a service that are ready, each with the port that it listens on; `port` is the service's by name."""
    found = {}
    for one in slices:
        numbers = {p.get("name") or "": p["port"] for p in one.get("ports") or []}
        for endpoint in one.get("endpoints") or []:
            ref = endpoint.get("targetRef", {})
            if (
                ref.get("kind") == "Pod"
                and endpoint.get("conditions", {}).get("ready") is not False
                and port in numbers
            ):
                found[ref["name"]] = numbers[port]
    return sorted(found.items())
