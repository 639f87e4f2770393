"""The objects of a cluster, and who waits for their changes."""

from __future__ import annotations

import base64
import copy
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

Thing = dict[str, Any]


class Kind(NamedTuple):
    """A row of the API: `deployments` is apps/v1's Deployment, inside of namespaces."""

    api: str
    name: str
    namespaced: bool = True


KINDS = {
    "namespaces": Kind("v1", "Namespace", False),
    "nodes": Kind("v1", "Node", False),
    "pods": Kind("v1", "Pod"),
    "services": Kind("v1", "Service"),
    "secrets": Kind("v1", "Secret"),
    "configmaps": Kind("v1", "ConfigMap"),
    "events": Kind("v1", "Event"),
    "deployments": Kind("apps/v1", "Deployment"),
    "statefulsets": Kind("apps/v1", "StatefulSet"),
    "daemonsets": Kind("apps/v1", "DaemonSet"),
    "replicasets": Kind("apps/v1", "ReplicaSet"),
    "endpointslices": Kind("discovery.k8s.io/v1", "EndpointSlice"),
    "ingresses": Kind("networking.k8s.io/v1", "Ingress"),
}


class Conflict(Exception):
    """An object of that name is there."""


class Change(NamedTuple):
    version: int
    what: str
    plural: str
    thing: Thing


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def matches(labels: Thing, selector: str) -> bool:
    """Whether `a=b,c!=d,e in (f,g),h` holds of the labels."""
    for term in filter(None, re.split(r",(?![^(]*\))", selector)):
        name, relation, value = re.fullmatch(r"\s*([^!=\s]+)\s*(==|=|!=|in|notin|)\s*(.*?)\s*", term).groups()  # type: ignore[union-attr]
        values = [one.strip() for one in value.strip("()").split(",")]
        held = labels.get(name) in values if relation else name in labels
        if held == (relation in ("!=", "notin")):
            return False
    return True


class Store:
    """Every object by plural, namespace and name; changes wake all who wait."""

    def __init__(self) -> None:
        self._things: dict[tuple[str, str, str], Thing] = {}
        self._changes: list[Change] = []
        self.changed = threading.Condition(threading.RLock())

    @property
    def version(self) -> int:
        return len(self._changes)

    def get(self, plural: str, namespace: str, name: str) -> Thing | None:
        with self.changed:
            return copy.deepcopy(self._things.get((plural, namespace, name)))

    def list(self, plural: str, namespace: str = "", labels: str = "", fields: str = "") -> list[Thing]:
        with self.changed:
            return [copy.deepcopy(t) for t in self._things.values() if _is(t, plural, namespace, labels, fields)]

    def create(self, plural: str, thing: Thing) -> Thing:
        with self.changed:
            kind, meta = KINDS[plural], thing["metadata"]
            key = (plural, meta.get("namespace", ""), meta["name"])
            if key in self._things:
                raise Conflict(f'{plural} "{meta["name"]}" already exists')
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            thing |= {"apiVersion": kind.api, "kind": kind.name}
            return self._put("ADDED", key, thing)

    def update(self, plural: str, thing: Thing) -> Thing:
        """The object with this one's content; nothing happens where it is the same, or where it is gone."""
        with self.changed:
            key = (plural, thing["metadata"].get("namespace", ""), thing["metadata"]["name"])
            old = self._things.get(key)
            if old is None or old == thing:
                return thing
            if old.get("spec") != thing.get("spec"):
                thing["metadata"]["generation"] += 1
            return self._put("MODIFIED", key, thing)

    def change(self, plural: str, namespace: str, name: str, edit: Callable[[Thing], None]) -> None:
        with self.changed:
            if thing := self.get(plural, namespace, name):
                edit(thing)
                self.update(plural, thing)

    def delete(self, plural: str, namespace: str, name: str) -> Thing | None:
        with self.changed:
            thing = self._things.pop((plural, namespace, name), None)
            if thing is not None:
                self._note("DELETED", plural, thing)
            return thing

    def _put(self, what: str, key: tuple[str, str, str], thing: Thing) -> Thing:
        for name, text in (thing.pop("stringData", None) or {}).items():
            thing.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()
        self._things[key] = thing
        self._note(what, key[0], thing)
        return copy.deepcopy(thing)

    def _note(self, what: str, plural: str, thing: Thing) -> None:
        thing["metadata"]["resourceVersion"] = str(self.version + 1)
        self._changes.append(Change(self.version + 1, what, plural, copy.deepcopy(thing)))
        self.changed.notify_all()

    def watch(
        self, plural: str, namespace: str, labels: str, fields: str, since: int, seconds: float
    ) -> Iterator[Change | None]:
        """Changes after version `since`; None each time that nothing has come for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.changed:
                if self.version <= since:
                    self.changed.wait(0.5)
                fresh, since = self._changes[since:], self.version
            for change in fresh:
                if change.plural == plural and _is(change.thing, plural, namespace, labels, fields):
                    yield change
            yield None


def _is(thing: Thing, plural: str, namespace: str, labels: str, fields: str) -> bool:
    meta = thing["metadata"]
    if thing["kind"] != KINDS[plural].name or (namespace and meta.get("namespace") != namespace):
        return False
    return matches(meta.get("labels", {}), labels) and all(
        _field(thing, term) for term in filter(None, fields.split(","))
    )


def _field(thing: Thing, term: str) -> bool:
    path, _, wanted = term.partition("=")
    found: Any = thing
    for part in path.split("."):
        found = found.get(part, "") if isinstance(found, dict) else ""
    return bool(found == wanted.lstrip("="))
