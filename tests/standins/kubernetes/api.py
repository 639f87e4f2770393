"""The API server: what `helm` and `kubectl` ask of one, over HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import openapi
import protobuf
import yaml
from forward import PROTOCOL, Tunnel, accept_key
from kubelet import Kubelet
from store import KINDS, Conflict, Store, Thing


class Asked(NamedTuple):
    """What a path names: a kind's objects, one of them, or a part of that."""

    plural: str
    namespace: str
    name: str
    part: str


class Api(BaseHTTPRequestHandler):
    """A connection. The class's attributes are the cluster, set by whoever runs it."""

    protocol_version = "HTTP/1.1"
    store: Store
    kubelet: Kubelet
    words: bytes
    """SPDY's dictionary."""

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, file=sys.stderr, flush=True)

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        asked = _asked(parts.path)
        if asked is None:
            self._about(parts.path)
        elif asked.part in ("log", "portforward"):
            self._log(asked) if asked.part == "log" else self._forward(asked)
        else:
            getattr(self, f"_{self.command.lower()}")(asked)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _about(self, path: str) -> None:
        if path == "/version":
            self._answer(openapi.VERSION)
        elif path == "/api":
            self._answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self._answer(openapi.groups())
        elif path == "/openapi/v3":
            self._answer(openapi.index())
        elif path.startswith("/openapi/v3/"):
            self._answer(openapi.document(path.removeprefix("/openapi/v3")))
        elif (api := path.removeprefix("/apis/").removeprefix("/api/")) in {kind.api for kind in KINDS.values()}:
            self._answer(openapi.resources(api))
        else:
            self._refuse(404, "NotFound", f"the server could not find {path}")

    def _get(self, asked: Asked) -> None:
        selectors = self.query.get("labelSelector", ""), self.query.get("fieldSelector", "")
        if "watch" in self.query and self.query["watch"] in ("1", "true"):
            self._watch(asked, *selectors)
        elif asked.name:
            self._found(asked, self.store.get(*asked[:3]))
        else:
            with self.store.changed:
                found, version = self.store.list(asked.plural, asked.namespace, *selectors), self.store.version
            kind = KINDS[asked.plural]
            meta = {"resourceVersion": str(version)}
            self._answer({"apiVersion": kind.api, "kind": f"{kind.name}List", "metadata": meta, "items": found})

    def _watch(self, asked: Asked, labels: str, fields: str) -> None:
        since = int(self.query.get("resourceVersion") or 0)
        seconds = float(self.query.get("timeoutSeconds", 1800))
        fields = ",".join(filter(None, (fields, asked.name and f"metadata.name={asked.name}")))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.query.get("sendInitialEvents") == "true":
                since = self._initial(asked, labels, fields)
            for change in self.store.watch(asked.plural, asked.namespace, labels, fields, since, seconds):
                if change is None:
                    # A client that has gone is noticed only by looking.
                    self.connection.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        if not self.connection.recv(1, socket.MSG_PEEK):
                            return
                    self.connection.setblocking(True)
                    continue
                self._event(change.what, change.thing)
            self.wfile.write(b"0\r\n\r\n")

    def _initial(self, asked: Asked, labels: str, fields: str) -> int:
        """What is there, and a bookmark that says that this was all; the version that it is of."""
        with self.store.changed:
            found, version = self.store.list(asked.plural, asked.namespace, labels, fields), self.store.version
        for thing in found:
            self._event("ADDED", thing)
        kind, end = KINDS[asked.plural], {"k8s.io/initial-events-end": "true"}
        meta = {"resourceVersion": str(version), "annotations": end}
        self._event("BOOKMARK", {"apiVersion": kind.api, "kind": kind.name, "metadata": meta})
        return version

    def _event(self, what: str, thing: Thing) -> None:
        line = json.dumps({"type": what, "object": thing}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _post(self, asked: Asked) -> None:
        thing = self._body()
        if KINDS[asked.plural].namespaced:
            thing["metadata"]["namespace"] = asked.namespace
        if asked.plural != "namespaces" and self.store.get("namespaces", "", asked.namespace) is None:
            self._refuse(404, "NotFound", f'namespaces "{asked.namespace}" not found')
            return
        try:
            self._answer(self.store.create(asked.plural, thing), 201)
        except Conflict as error:
            self._refuse(409, "AlreadyExists", str(error))

    def _put(self, asked: Asked) -> None:
        thing = self._body()
        if KINDS[asked.plural].namespaced:
            thing["metadata"]["namespace"] = asked.namespace
        self._found(asked, self.store.get(*asked[:3]) and self.store.update(asked.plural, thing))

    def _patch(self, asked: Asked) -> None:
        patch, old = self._body(), self.store.get(*asked[:3])
        if old is None and "apply-patch" in self.headers["Content-Type"]:
            self._post_applied(asked, patch)
        elif old is None:
            self._found(asked, None)
        elif "apply-patch" in self.headers["Content-Type"]:
            applied = {**old, **patch, "metadata": {**old["metadata"], **_merged(old["metadata"], patch["metadata"])}}
            self._answer(self.store.update(asked.plural, applied))
        else:
            self._answer(self.store.update(asked.plural, _merged(old, patch)))

    def _post_applied(self, asked: Asked, thing: Thing) -> None:
        if KINDS[asked.plural].namespaced:
            thing["metadata"]["namespace"] = asked.namespace
        self._answer(self.store.create(asked.plural, thing), 201)

    def _delete(self, asked: Asked) -> None:
        self._rest()
        found = self.store.get(*asked[:3])
        if found is None:
            self._found(asked, None)
        elif asked.plural == "pods":
            self.kubelet.delete_pod(found)
            self._answer(found)
        else:
            self._answer(self.store.delete(*asked[:3]) or {})

    def _log(self, asked: Asked) -> None:
        container = self.query.get("container", "")
        path = self.kubelet.log(asked.namespace, asked.name, container, self.query.get("previous") == "true")
        if path is None or not path.exists():
            reason = f'container "{container}" in pod "{asked.name}" is waiting to start: no log'
            self._refuse(400, "BadRequest", reason)
            return
        lines = path.read_bytes().splitlines(keepends=True)
        self._send(b"".join(lines[-int(self.query.get("tailLines", len(lines) or 1)) :]), "text/plain")

    def _forward(self, asked: Asked) -> None:
        pod = self.store.get("pods", asked.namespace, asked.name)
        if pod is None or PROTOCOL not in self.headers.get("Sec-WebSocket-Protocol", ""):
            self._refuse(404 if pod is None else 403, "NotFound", f'pods "{asked.name}" not found, or no {PROTOCOL}')
            return
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_key(self.headers["Sec-WebSocket-Key"]))
        self.send_header("Sec-WebSocket-Protocol", PROTOCOL)
        self.end_headers()
        address = pod["status"]["podIP"]
        tunnel = Tunnel(self.rfile, self.connection, self.words, lambda port: socket.create_connection((address, port)))  # type: ignore[arg-type]
        tunnel.run()
        self.close_connection = True

    def _rest(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _body(self) -> Thing:
        body = self._rest()
        return protobuf.decode(body) if body.startswith(protobuf.MAGIC) else dict(yaml.safe_load(body))

    def _found(self, asked: Asked, thing: Thing | None) -> None:
        if thing is None:
            self._refuse(404, "NotFound", f'{asked.plural} "{asked.name}" not found')
        else:
            self._answer(thing)

    def _refuse(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
        self._answer({**status, "reason": reason, "message": message, "code": code}, code)

    def _answer(self, data: Any, code: int = 200) -> None:
        self._send(json.dumps(data).encode(), "application/json", code)

    def _send(self, data: bytes, kind: str, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _asked(path: str) -> Asked | None:
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]
    namespace = ""
    if len(words) > 2 and words[0] == "namespaces" and words[2] in KINDS:
        namespace, words = words[1], words[2:]
    if not words or words[0] not in KINDS:
        return None
    plural, name, part, *_ = (*words, "", "")
    return Asked(plural, namespace, name, part)


def _merged(old: Any, patch: Any) -> Any:
    """JSON's merge patch; of a strategic one, only what it has in common with that."""
    if not isinstance(old, dict) or not isinstance(patch, dict):
        return patch
    merged = {**old, **{name: _merged(old.get(name), value) for name, value in patch.items()}}
    return {name: value for name, value in merged.items() if value is not None}
