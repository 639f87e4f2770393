"""The cluster's ingress controller: routes by the Host header, checks basic auth, and passes bytes on.

A gateway does the same to a client that is told to send a Host header, so that this stands for Istio's, too.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import itertools
import socket
import socketserver
import threading
from typing import Any

from store import Store, Thing

_AUTH = "nginx.ingress.kubernetes.io/auth-secret"


class Ingress(socketserver.ThreadingTCPServer):
    """Listens for all ingresses of the cluster."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, store: Store, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.store = store
        self.turns = itertools.count()


class _Connection(socketserver.BaseRequestHandler):
    server: Ingress
    request: socket.socket

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.request.recv(65536)
            if not data:
                return
            head += data
        lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer = self._route(headers)
        if isinstance(answer, str):
            self.request.sendall(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        with contextlib.suppress(OSError), socket.create_connection(answer) as pod:
            pod.sendall(head)
            back = threading.Thread(target=_pump, args=(pod, self.request), daemon=True)
            back.start()
            _pump(self.request, pod)
            back.join()

    def _route(self, headers: dict[str, str]) -> tuple[str, int] | str:
        """The pod's address, or the status that refuses the request."""
        host = headers.get("host", "").partition(":")[0]
        for ingress in self.server.store.list("ingresses"):
            for rule in ingress["spec"]["rules"]:
                if rule.get("host", host) == host:
                    if not self._may(ingress, headers):
                        return "401 Unauthorized"
                    backend = rule["http"]["paths"][0]["backend"]["service"]
                    return self._pod(ingress["metadata"]["namespace"], backend) or "503 Service Unavailable"
        return "404 Not Found"

    def _may(self, ingress: Thing, headers: dict[str, str]) -> bool:
        name = ingress["metadata"].get("annotations", {}).get(_AUTH)
        if name is None:
            return True
        secret: Any = self.server.store.get("secrets", ingress["metadata"]["namespace"], name)
        wanted = base64.b64encode(base64.b64decode(secret["data"]["auth"])).decode()
        return hmac.compare_digest(headers.get("authorization", ""), f"Basic {wanted}")

    def _pod(self, namespace: str, backend: Thing) -> tuple[str, int] | None:
        label = f"kubernetes.io/service-name={backend['name']}"
        for slice_ in self.server.store.list("endpointslices", namespace, label):
            ready = [e["addresses"][0] for e in slice_["endpoints"] if e["conditions"]["ready"]]
            if ready:
                return ready[next(self.server.turns) % len(ready)], slice_["ports"][0]["port"]
        return None


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
