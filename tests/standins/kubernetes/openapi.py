"""What clients look up before they write: the groups of the API, and that it checks fields itself."""

from __future__ import annotations

from store import KINDS, Kind, Thing

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
VERSION = {"major": "1", "minor": "33", "gitVersion": "v1.33.0", "platform": "linux/amd64"}


def _apis() -> list[str]:
    return list(dict.fromkeys(kind.api for kind in KINDS.values()))


def groups() -> Thing:
    named = [api.split("/") for api in _apis() if "/" in api]
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for group, version in named]
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {"name": group, "versions": [one], "preferredVersion": one}
            for (group, _), one in zip(named, listed, strict=True)
        ],
    }


def resources(api: str) -> Thing:
    rows = [
        {
            "name": plural,
            "singularName": kind.name.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": _VERBS,
        }
        for plural, kind in KINDS.items()
        if kind.api == api
    ]
    if api == "v1":
        rows += [
            {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]},
            {
                "name": "pods/portforward",
                "singularName": "",
                "namespaced": True,
                "kind": "Pod",
                "verbs": ["create", "get"],
            },
        ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": rows}


def index() -> Thing:
    paths = {_prefix(api)[1:]: {"serverRelativeURL": f"/openapi/v3{_prefix(api)}?hash=1"} for api in _apis()}
    return {"paths": paths}


def document(prefix: str) -> Thing:
    """The operations of one group, each with the parameter by which a client knows that fields are checked here."""
    paths, schemas = {}, {}
    for plural, kind in KINDS.items():
        if _prefix(kind.api) == prefix:
            schemas[f"io.k8s.{kind.name}"] = {"type": "object", "x-kubernetes-group-version-kind": [_gvk(kind)]}
            inner = "/namespaces/{namespace}" if kind.namespaced else ""
            operation = {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "x-kubernetes-group-version-kind": _gvk(kind),
                "responses": {"200": {"description": "OK"}},
            }
            paths[f"{prefix}{inner}/{plural}/{{name}}"] = {"patch": operation}
            paths[f"{prefix}{inner}/{plural}"] = {"post": operation}
    info = {"title": "Kubernetes", "version": "v1.33.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _prefix(api: str) -> str:
    return f"/apis/{api}" if "/" in api else f"/api/{api}"


def _gvk(kind: Kind) -> Thing:
    group, _, version = kind.api.rpartition("/")
    return {"group": group, "version": version, "kind": kind.name}
