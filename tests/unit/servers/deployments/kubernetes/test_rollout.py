"""What pods, events and services say of a release, as kubectl prints them."""

import re

import pytest

from pytest_llmperf.servers.deployments.kubernetes import rollout

LABELS = {"app": "llm"}


def pod(name="p", ready=True, status=None, conditions=(), **more):
    held = {"name": "server", "image": "r/i:1", "imageID": "docker-pullable://r/i@sha256:ab", "restartCount": 0}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "labels": {**LABELS, "x": "y"},
            **more,
        },
        "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "4"}}}, {}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}, *conditions],
            "containerStatuses": [{**held, **(status or {"state": {"running": {}}})}],
        },
    }


def deployment(ready=1, replicas=1, updated=1, seen=2, every=None, **more):
    counts = {"replicas": replicas if every is None else every, "updatedReplicas": updated, "availableReplicas": ready}
    return {
        "kind": "Deployment",
        "metadata": {"name": "d", "generation": 2},
        "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}},
        "status": {"observedGeneration": seen, **counts, **more},
    }


MADE_BY = rollout.workloads([deployment(), {"kind": "Service", "metadata": {}}, None])


def test_the_pods_of_a_release():
    going, other = pod("going", deletionTimestamp="…"), {**pod("other"), "metadata": {"name": "o", "labels": {}}}
    evicted, hook = ({**pod(phase), "status": {"phase": phase}} for phase in ("Failed", "Succeeded"))
    assert rollout.pods_of("r", MADE_BY, [pod(), going, other, evicted, hook, deployment()]) == [pod()]
    by_instance = {**pod(), "metadata": {**pod()["metadata"], "labels": {"app.kubernetes.io/instance": "r"}}}
    assert rollout.pods_of("r", (), [by_instance, pod()]) == [by_instance]


@pytest.mark.parametrize(
    ("live", "told"),
    [
        (deployment(), []),
        (deployment(ready=0, replicas=0, updated=0), []),
        (deployment(seen=1), ["Deployment d is not looked at yet"]),
        (deployment(ready=0), ["Deployment d: 0 of 1 pods ready"]),
        (deployment(updated=0), ["Deployment d: 1 of 1 pods ready, 0 new"]),
        (deployment(every=2), ["Deployment d: 1 of 1 pods ready"]),
        ({"kind": "Deployment", "metadata": {"name": "e"}}, ["Deployment d is not there"]),
    ],
    ids=["done", "none is wanted", "unseen", "starting", "old one", "old one ends", "gone"],
)
def test_how_far_it_is(live, told):
    assert rollout.unfinished(MADE_BY, [pod()], [live, pod()]) == told


def test_pods_without_a_known_workload_must_be_ready():
    assert rollout.unfinished((), [pod(), pod("q", ready=False)], []) == ["1 of 2 pods ready"]
    assert rollout.unfinished((), [], []) == ["0 of 0 pods ready"]


def waiting(reason, message="", **more):
    return {"state": {"waiting": {"reason": reason, "message": message}}, **more}


OOM = {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}, "restartCount": 1}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}


@pytest.mark.parametrize(
    ("one", "problem"),
    [
        (pod(ready=False, status=waiting("ImagePullBackOff", "manifest unknown")), "image r/i:1 cannot be pulled"),
        (pod(ready=False, status=waiting("ErrImagePull", "401 Unauthorized")), "cannot be pulled: 401"),
        (pod(ready=False, status=waiting("ErrImagePull", "i/o timeout")), None),
        (pod(ready=False, status=waiting("CreateContainerConfigError", 'secret "a" not found')), 'secret "a" not'),
        (pod(ready=False, status=waiting("CrashLoopBackOff", restartCount=1)), "ends again and again"),
        (pod(ready=False, status=waiting("ContainerCreating")), None),
        (pod(ready=False, status={**waiting("x"), **OOM}), "OOMKilled, exit code 137: it needs more memory"),
        (pod("late", ready=False, conditions=[UNSCHEDULABLE]), r"no node can take it \(0/3 nodes\) within schedule_ti"),
        (pod(ready=False, conditions=[UNSCHEDULABLE]), None),
        (pod("late", ready=False), None),
        (pod(ready=False, status=waiting("CrashLoopBackOff")), None),
    ],
    ids=[
        "pull",
        "denied",
        "slow registry",
        "config",
        "crash",
        "creating",
        "memory",
        "no node",
        "no node yet",
        "a node at last",
        "first crash",
    ],
)
def test_what_waiting_does_not_cure(one, problem):
    found = rollout.trouble(MADE_BY, [one], [deployment(ready=0)], {"uid-late"})
    assert (found is None) == (problem is None)
    if found is not None:
        assert re.search(problem, found.problem)
        assert rollout.waiting_for(one)
        assert found.lacks_node == ("node" in problem)


def test_a_quota_keeps_pods_from_being_made():
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    failing = [deployment(ready=0, conditions=[failure])]
    found = rollout.trouble(MADE_BY, [], failing, ())
    assert found == rollout.Trouble("d", "", "no pod can be made: exceeded quota")
    assert rollout.trouble((), [], failing, ()) is None, "it is another release's"


def test_pods_that_are_lost():
    restarted = pod(status={"state": {"running": {}}, **OOM})
    assert rollout.losses([pod()], [pod(), pod("new")]) == []
    assert rollout.losses([pod()], [restarted]) == [
        "container server of pod p ended while it served (OOMKilled, exit code 137)"
    ]
    assert rollout.losses([pod()], [pod("new")]) == ["pod p is gone: it was deleted, evicted or replaced"]
    assert rollout.losses([restarted], [restarted]) == [], "that was before it served"


def test_a_container_that_had_ended_before_it_served_is_no_loss():
    """That of an init container, which fetches a model, is its end for ever."""
    ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    serving, ending = pod(), pod(status={"state": ended})
    for one in (serving, ending):
        one["status"]["initContainerStatuses"] = [{"name": "fetch", "restartCount": 0, "state": ended}]
    assert rollout.losses([serving], [serving]) == []
    assert rollout.losses([serving], [ending]) == [
        "container server of pod p ended while it served (Completed, exit code 0)"
    ]


def test_what_makes_it_comparable():
    second = pod("q", status={"imageID": "", "image": "r/i:2", "state": {}})
    assert rollout.images([pod()]) == {"server": "r/i@sha256:ab"}
    assert rollout.images([pod(), second]) == {"server": "r/i:2, r/i@sha256:ab"}
    assert rollout.gpus([pod(), pod()]) == 4
    limits = {"gpu.intel.com/i915": "1", "gpu.intel.com/memory.max": "8Gi", "nvidia.com/mig-1g.5gb": "2", "cpu": "4"}
    assert rollout.gpus([{"spec": {"containers": [{"resources": {"limits": limits}}]}}]) == 3
    secret = {"kind": "Secret", "data": {"a": "b"}}
    found = rollout.manifest_digest("d", [deployment()])
    assert rollout.manifest_digest("d", [deployment(), secret]) == found
    assert rollout.manifest_digest("d", [deployment(replicas=2)]) != found
    assert rollout.manifest_digest("rel", [service("rel")]) == rollout.manifest_digest("other", [service("other")])


def test_the_machines_that_it_runs_on():
    def node(**labels):
        return {"metadata": {"labels": {name.replace("_", "/"): value for name, value in labels.items()}}}

    h100 = {"node.kubernetes.io/instance-type": "p5", "nvidia.com/gpu.product": "H100-80GB"}
    assert (
        rollout.machines([node(**h100), node(**h100), node(**{"nvidia.com/gpu.product": "L4"})]) == "L4, p5 H100-80GB"
    )
    assert rollout.machines([{"metadata": {}}]) == ""
    assert rollout.machines([]) == ""


def service(name="s", ports=(("http", 80),)):
    listed = [{"name": n, "port": number} if n else {"port": number} for n, number in ports]
    return {"kind": "Service", "metadata": {"name": name}, "spec": {"ports": listed}}


TWO = [("http", 80), ("grpc", 81)]


@pytest.mark.parametrize(
    ("services", "asked", "found"),
    [
        ([service()], ("", ""), ("s", "http", 80)),
        ([service(), service("t")], ("t", ""), ("t", "http", 80)),
        ([service(ports=TWO)], ("", "grpc"), ("s", "grpc", 81)),
        ([service(ports=TWO)], ("", 81), ("s", "grpc", 81)),
        ([service(ports=[("", 8000)])], ("", ""), ("s", "", 8000)),
        ([], ("", ""), r"the release has 0 services \(none\): say which by `service`"),
        ([service(), service("t")], ("", ""), r"the release has 2 services \(s, t\)"),
        ([service()], ("t", ""), "the release has no service 't', but s"),
        ([service(ports=TWO)], ("", ""), "service s has the ports http 80, grpc 81: say which by `port`"),
    ],
)
def test_the_service_that_is_reached(services, asked, found):
    if isinstance(found, tuple):
        assert rollout.service_port(services, *asked) == found
    else:
        with pytest.raises(ValueError, match=found):
            rollout.service_port(services, *asked)


def test_the_pods_behind_a_service():
    def endpoint(name, ready):
        return {"targetRef": {"kind": "Pod", "name": name}, "conditions": {"ready": ready}}

    slices = [
        {"ports": [{"name": "http", "port": 8000}], "endpoints": [endpoint("b", True), endpoint("c", False)]},
        {"ports": [{"name": "http", "port": 8000}], "endpoints": [endpoint("a", None)]},
        {"ports": [{"name": "grpc", "port": 8001}], "endpoints": [endpoint("d", True)]},
        {"ports": None, "endpoints": None},
    ]
    assert rollout.endpoints(slices, "http") == [("a", 8000), ("b", 8000)]
