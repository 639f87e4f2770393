"""`python -m pytest_llmperf.servers.deployments.kubernetes SETTINGS.json`: a release serves until this ends.

Its exit code is 1 where a step failed or a pod was lost, 0 after SIGTERM or SIGINT.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pytest_llmperf.boundary.files import write_whole
from pytest_llmperf.boundary.text import foreign
from pytest_llmperf.errors import MissingRequirement
from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer
from pytest_llmperf.servers.deployments import holder
from pytest_llmperf.servers.deployments.holder import StepFailed, Stopped, attempts
from pytest_llmperf.servers.deployments.kubernetes import commands, engine, rollout, tools
from pytest_llmperf.servers.deployments.kubernetes.tools import ToolFailed
from pytest_llmperf.servers.deployments.kubernetes.watch import PodWatch
from pytest_llmperf.servers.process.log import first_error
from pytest_llmperf.servers.secrets import expand

_OWNER = re.compile(r"(?P<host>.*)\.(?P<pid>\d+)\.(?P<begun>\d+)")
_SCALING_UP = ("TriggeredScaleUp", "Nominated")
_TRIES = 3
"""The signal that ends the holder reaches its commands too, those that take down among them."""

_MOST_OF_LOGS, _MOST_OF_ONE = 32 << 20, 16 << 20
"""Bytes that are kept of the logs of all containers, and of one."""

_MISSES = 6
"""Number of looks at the pods in a row without an answer, five seconds apart, after which the cluster counts as
gone.
"""


class Deployment:
    """A release from the first step to its end; `is_ours` becomes True when it may be installed."""

    def __init__(self, config: KubernetesServer, port: int, log: Path) -> None:
        self.config, self.port, self.log = config, port, log
        self.deadline = time.monotonic() + config.ready_timeout
        self.is_ours, self.misses = False, 0
        self.without_node: dict[str, float] = {}
        self.made_by: tuple[rollout.Workload, ...] = ()
        self.pods: list[rollout.Object] = []
        self.watch: PodWatch | None = None

    def bring_up(self) -> dict[str, Any]:
        """Makes the six steps; returns the facts of the running release. Raises StepFailed."""
        for words in self.config.prepare:
            holder.log(f"step 1/6 prepare: {words[0]}")
            tools.run_step("1/6 prepare", words, cwd=self.config.cwd)
        self._namespace()
        self._free_release()
        manifest = self._install()
        self._roll_out(manifest)
        forwarded = self._endpoint(manifest) if not self.config.url else None
        self.watch = PodWatch(self.config, forwarded, self.port)
        return self._facts(manifest)

    def _namespace(self) -> None:
        name = self.config.namespace
        holder.log(f"step 2/6 namespace: {name}")
        words = commands.kubectl(self.config, "get", "namespace", name, "--ignore-not-found", "--output", "json")
        try:
            text = tools.ask(words)
        except ToolFailed as error:
            if "Forbidden" not in str(error) or self.config.namespace_labels:
                raise StepFailed(f"step 2/6 namespace: {error}") from error
            holder.log(f"{error}: taken for granted")  # rights within a namespace are enough for all else
            return
        if not text.strip():
            words = commands.kubectl(self.config, "create", "--filename", "-")
            tools.run_step("2/6 namespace", words, given=json.dumps(commands.namespace(self.config)))
            return
        held = json.loads(text)["metadata"].get("labels", {})
        lacking = [label for label, value in self.config.namespace_labels.items() if held.get(label) != value]
        if lacking:
            cure = f"Give {name} the label yourself, or name another namespace"
            tools.run_step("2/6 namespace", commands.labels(self.config, lacking), cure=cure)

    def _free_release(self) -> None:
        """Checks that no release of others, nor one that another session measures, would be upgraded or uninstalled."""
        name = self.config.release_name
        holder.log(f"step 3/6 release: is {name} free?")
        try:
            lines = tools.ask(commands.releases(self.config)).splitlines()
        except ToolFailed as error:
            raise StepFailed(f"step 3/6 release: {error}") from error
        if not lines:
            return
        owner = max(map(json.loads, lines), key=lambda labels: int(labels["version"])).get(commands.OWNER)
        lives = None if owner is None else _lives(owner)
        if self.config.keep and not lives:
            return
        where = f"release {name} of namespace {self.config.namespace}"
        by_hand = " ".join(commands.uninstall(self.config))
        if owner is None:
            raise StepFailed(
                f"step 3/6 release: {where} is there, and not of ours. Name another `release`, or let `keep: true` "
                f"upgrade it and leave it"
            )
        if lives is not False:
            raise StepFailed(
                f"step 3/6 release: {where} is up for process {owner}, of another session. Let that end; if it is "
                f"gone: {by_hand}"
            )
        holder.log(f"{where} was left by process {owner}, which is gone: taking it down first")
        tools.run_step("3/6 release", commands.uninstall(self.config))

    def _install(self) -> list[rollout.Object]:
        holder.log(f"step 4/6 install: {self.config.chart} as {self.config.release_name}")
        given = yaml.safe_dump(commands.values(self.config, lambda text: expand(self.config.filled(text))))
        self.is_ours = True
        tools.run_step("4/6 install", commands.upgrade(self.config, _owner()), given=given)
        try:
            text = tools.ask(commands.helm(self.config, "get", "manifest", self.config.release_name))
        except ToolFailed as error:
            raise StepFailed(f"step 4/6 install: {error}") from error
        return [one for one in yaml.safe_load_all(text) if one]

    def _roll_out(self, manifest: Sequence[rollout.Object]) -> None:
        self.made_by = rollout.workloads(manifest)
        last = ""
        for _ in attempts(self.deadline):
            objects = self._objects()
            if objects is None:
                continue
            self.pods = rollout.pods_of(self.config.release_name, self.made_by, objects)
            waiting = rollout.unfinished(self.made_by, self.pods, objects)
            if not waiting:
                return
            found = rollout.trouble(self.made_by, self.pods, objects, self._unscheduled_too_long())
            if found and not (found.lacks_node and self._autoscaler_adds_node(found.pod)):
                raise StepFailed(f"step 5/6 rollout: {self._explained(found)}")
            states = {one["metadata"]["name"]: state for one in self.pods if (state := rollout.waiting_for(one))}
            line = "; ".join([*waiting, *(f"{name}: {state}" for name, state in states.items())])
            if line != last:
                holder.log(f"step 5/6 rollout: {line}")
            last = line
        limit = f"{self.config.ready_timeout:g} s (ready_timeout)"
        raise StepFailed(f"step 5/6 rollout: not within {limit}: {last}{self._last_warning()}")

    def _unscheduled_too_long(self) -> set[str]:
        """Pods by uid; by this machine's clock, since the cluster may have another time."""
        now = time.monotonic()
        for pod in filter(rollout.is_unschedulable, self.pods):
            self.without_node.setdefault(pod["metadata"]["uid"], now)
        return {uid for uid, since in self.without_node.items() if now - since >= self.config.schedule_timeout}

    def _autoscaler_adds_node(self, pod: str) -> bool:
        """True if the pod's events say that the cluster autoscaler, or Karpenter, brings a node for it."""
        words = ("get", "events", "--field-selector", f"involvedObject.name={pod}", "--output", "json")
        try:
            events = tools.objects(commands.in_namespace(self.config, *words))
        except ToolFailed:
            return False
        return any(one.get("reason") in _SCALING_UP for one in events)

    def _objects(self) -> list[rollout.Object] | None:
        """The namespace's pods and what makes them; None while the cluster does not answer. Raises ToolFailed later."""
        try:
            found = tools.objects(commands.rollout(self.config))
        except ToolFailed as error:
            self.misses += 1
            if self.misses == _MISSES:
                raise
            holder.log(f"the pods cannot be looked at: {error}", "WARNING")
            return None
        self.misses = 0
        return list(found)

    def _explained(self, found: rollout.Trouble) -> str:
        """The trouble, with the first error of the container's log; an autoscaler's refusal where there is no node."""
        where = f"pod {found.pod}" + (f", container {found.container}" if found.container else "")
        if not found.has_log:
            return f"{where}: {found.problem}{self._last_warning(found.pod)}"
        text = ""
        for previous in (("--previous",), ()):
            words = ("logs", found.pod, "--container", found.container, "--tail", "2000", *previous)
            try:
                text = text or tools.ask(commands.in_namespace(self.config, *words))
            except ToolFailed:
                continue
        tools.quote(text)
        lines = text.splitlines()
        cause = first_error(lines) or next((line for line in reversed(lines) if line.strip()), "")
        return f"{where}: {found.problem}; " + (f"first error in its log: {cause}" if cause else "its log is empty")

    def _last_warning(self, pod: str = "") -> str:
        found = [one for one in self._events() if not pod or one["involvedObject"]["name"] == pod]
        return f"; {found[-1].get('reason')}: {found[-1].get('message')}" if found else ""

    def _events(self, timeout_s: float = 60.0) -> list[rollout.Object]:
        """Warnings about the release's pods and what makes them; none where the cluster does not tell them in time."""
        names = [one["metadata"]["name"] for one in self.pods] + [one.name for one in self.made_by]
        words = ("get", "events", "--field-selector", "type=Warning", "--output", "json")
        try:
            events = tools.objects(commands.in_namespace(self.config, *words), timeout_s)
        except ToolFailed:
            return []
        return [one for one in events if one["involvedObject"].get("name") in names]

    def _endpoint(self, manifest: Sequence[rollout.Object]) -> tuple[str, int]:
        """The one pod that serves, and its port. Raises StepFailed where it is not one."""
        services = [one for one in manifest if one.get("kind") == "Service"]
        try:
            name, port, _ = rollout.service_port(services, self.config.filled(self.config.service), self.config.port)
        except ValueError as error:
            raise StepFailed(f"step 6/6 reach: {error}") from error
        words = ("get", "endpointslices", "--selector", f"kubernetes.io/service-name={name}", "--output", "json")
        found: list[tuple[str, int]] = []
        for _ in attempts(self.deadline):
            try:
                found = rollout.endpoints(tools.objects(commands.in_namespace(self.config, *words)), port)
            except ToolFailed as error:
                raise StepFailed(f"step 6/6 reach: {error}") from error
            if found:
                break
        if len(found) != 1:
            raise StepFailed(
                f"step 6/6 reach: service {name} has {len(found)} ready pods, and a port can be forwarded to one. "
                f"Measure through `url`, an ingress or a gateway, or deploy one pod"
            )
        holder.log(f"step 6/6 reach: 127.0.0.1:{self.port} is port {found[0][1]} of pod {found[0][0]}")
        return found[0]

    def _facts(self, manifest: Sequence[rollout.Object]) -> dict[str, Any]:
        """Collects the facts of the running release: chart, manifest and images, which make it comparable, and its
        pods.
        """
        release = json.loads(tools.ask(commands.helm(self.config, *self._named("get", "metadata"), "--output", "json")))
        chart = f"{release.get('chart')} {release.get('version')}"
        digest = rollout.manifest_digest(self.config.release_name, manifest)
        gpus = rollout.gpus(self.pods)
        if gpus and self.config.gpus is None:
            holder.log(f"its pods hold {gpus} GPUs; `gpus: {gpus}` in the plan gives figures per GPU")
        return {
            "identity": {
                "chart": chart,
                "manifest": digest,
                "images": rollout.images(self.pods),
                "machines": rollout.machines(self._nodes()),
            },
            "release": self.config.release_name,
            "namespace": self.config.namespace,
            "revision": release.get("revision"),
            "gpus": gpus,
            "pods": [
                {"name": pod["metadata"]["name"], "node": pod["spec"].get("nodeName"), "uid": pod["metadata"]["uid"]}
                for pod in self.pods
            ],
        }

    def _nodes(self) -> list[rollout.Object]:
        """The nodes that the pods are on; none where these are not for our eyes."""
        names = {str(pod["spec"].get("nodeName")) for pod in self.pods}
        try:
            nodes = tools.objects(commands.kubectl(self.config, "get", "nodes", "--output", "json"))
        except ToolFailed as error:
            holder.log(f"what nodes it runs on cannot be told: {error}")
            return []
        return [one for one in nodes if one["metadata"]["name"] in names]

    def _named(self, *words: str) -> tuple[str, ...]:
        return *words, self.config.release_name

    def hold(self) -> None:
        """Returns never; raises StepFailed when a pod that served is lost."""
        assert self.watch is not None
        for _ in self.watch.changes():
            objects = self._objects()
            if objects is None:
                continue
            now = rollout.pods_of(self.config.release_name, self.made_by, objects)
            if lost := rollout.losses(self.pods, now):
                raise StepFailed("; ".join(lost) + self._last_warning())
            if len(now) != len(self.pods):
                holder.log(f"{len(self.pods)} pods became {len(now)}", "WARNING")
                self.pods = now

    def take_down(self) -> None:
        """Ends the way to the pods, keeps their logs and events, and uninstalls what is not to stay."""
        if self.watch is not None:
            self.watch.close()
        if not self.is_ours:
            return
        try:
            self._collect()
        except Exception as error:  # whatever it is, as a full disk: the release must not stay for it
            holder.log(f"logs and events of its pods cannot be kept: {error!r}", "WARNING")
        if self.config.keep:
            holder.log(f"release {self.config.release_name} stays (keep)")
            return
        holder.log(f"taking down: release {self.config.release_name}")
        deadline = time.monotonic() + self.config.stop_timeout
        for left in reversed(range(_TRIES)):
            try:
                tools.ask(commands.uninstall(self.config), timeout_s=max(1.0, deadline - time.monotonic()))
                break
            except ToolFailed as error:
                if "not found" in str(error):
                    break
                if not left:
                    by_hand = " ".join(commands.uninstall(self.config))
                    holder.log(f"{holder.LEFT_MARK}{error}; take it down by hand: {by_hand}", "WARNING")
                    return
        self._until_gone(deadline)

    def _until_gone(self, deadline: float) -> None:
        """The next server needs the GPUs of these pods."""
        names = {one["metadata"]["uid"] for one in self.pods}
        words = commands.in_namespace(self.config, "get", "pods", "--output", "json")
        for _ in attempts(deadline):
            try:
                objects = tools.objects(words, max(1.0, deadline - time.monotonic()))
            except ToolFailed as error:
                holder.log(f"its pods cannot be looked at: {error}", "WARNING")
                return
            if not any(one["metadata"]["uid"] in names for one in objects):
                holder.log("the release and its pods are gone")
                return
        holder.log(f"{holder.LEFT_MARK}pods are still ending after {self.config.stop_timeout:g} s", "WARNING")

    def _collect(self) -> None:
        """The logs of the pods' containers and the cluster's warnings, in a file beside the holder's."""
        path, texts = holder.parts_path(self.log), []
        deadline = time.monotonic() + engine.COLLECTING_S
        events = self._events(engine.COLLECTING_S / 3)  # they are short, and a node that hangs may take all the time
        each = [(pod["metadata"]["name"], one["name"]) for pod in self.pods for one in rollout.containers(pod)]
        most = min(_MOST_OF_ONE, _MOST_OF_LOGS // max(1, len(each)))
        for left, (pod, container) in zip(range(len(each), 0, -1), each, strict=True):
            words = commands.in_namespace(self.config, "logs", pod, "--container", container, "--tail", "50000")
            now = time.monotonic()
            text = tools.last_printed(words, most, now + (deadline - now) / left)
            texts.append(f"==> pod {pod}, container {container} <==\n{text}\n")
        for one in events:
            texts.append(f"==> {one['involvedObject']['name']} {one.get('reason')}: {one.get('message')}\n")
        write_whole(path, foreign("".join(texts)))
        holder.log(f"logs and events of {len(self.pods)} pods: {path}")


def _owner() -> str:
    """This process as a label: host, process id and when it began, by which a reused id is known."""
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())[:30].strip("-") or "host"
    return f"{host}.{os.getpid()}.{_begun(os.getpid())}"


def _begun(pid: int) -> str:
    """Start time of a process of this machine, in clock ticks since boot; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _lives(owner: str) -> bool | None:
    """True if the process that the label `owner` names still runs; None where it is another machine's."""
    found, own = _OWNER.fullmatch(owner), _OWNER.fullmatch(_owner())
    if found is None or own is None or found["host"] != own["host"]:
        return None
    return _begun(int(found["pid"])) == found["begun"]


def main(argv: list[str]) -> int:
    """Brings up, holds and takes down; returns the exit code."""
    path = Path(argv[0])
    settings = holder.read_settings(path)
    config = KubernetesServer.model_validate(settings["server"])
    engine.hide_secrets(config)
    log = path.with_name(path.name.replace(".settings.json", ".log"))
    deployment = None
    try:
        holder.stop_on_signals()
        deployment = Deployment(config, settings["port"], log)
        facts = deployment.bring_up()
        holder.write_facts(holder.facts_path(log), facts)
        holder.log(f"up: {len(deployment.pods)} pods")
        deployment.hold()
    except (StepFailed, ToolFailed, MissingRequirement) as error:
        holder.log_error("kubernetes", error)
        return 1
    except Stopped:
        return 0
    finally:
        try:
            holder.ignore_signals()  # the first signal may come just before
        finally:
            holder.ignore_signals()
            if deployment is not None:
                deployment.take_down()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
