"""A cluster of one node for tests: `python tests/standins/kubernetes KUBECONFIG [--gpus N] …`.

An API server on a free port, to which the kubeconfig that it writes leads; an ingress controller on one that is in
KUBECONFIG.ingress; and a kubelet whose pods are processes on this machine. It ends with its standard input, or by a
signal, and takes its pods down with it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import yaml
from api import Api
from forward import dictionary
from ingress import Ingress
from kubelet import Kubelet
from store import Store

CONTEXT = "stand-in"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--ingress-port", type=int, default=0, help="0: a free one")
    parser.add_argument("--kubectl", default=shutil.which("kubectl"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store()
        for name in ("default", "kube-system"):
            store.create("namespaces", {"metadata": {"name": name}, "status": {"phase": "Active"}})
        labels = {"node.kubernetes.io/instance-type": "stand-in"}
        store.create("nodes", {"metadata": {"name": "node-0", "labels": labels}})
        kubelet = Kubelet(store, Path(folder), given.gpus)
        Api.store, Api.kubelet, Api.words = store, kubelet, dictionary(Path(given.kubectl))
        server, ingress = ThreadingHTTPServer(("127.0.0.1", 0), Api), Ingress(store, given.ingress_port)
        server.daemon_threads = True
        for service in (server, ingress):
            threading.Thread(target=service.serve_forever, daemon=True).start()
        kubelet.start()
        Path(f"{given.kubeconfig}.ingress").write_text(str(ingress.server_address[1]))
        _write(given.kubeconfig, server.server_address[1])
        print("ready", flush=True)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: sys.exit(0))
        try:
            sys.stdin.read()
        finally:
            kubelet.stopping = True
            kubelet.join()


def _write(path: Path, port: int) -> None:
    context = {"cluster": CONTEXT, "user": CONTEXT}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": CONTEXT, "user": {}}],
        "contexts": [{"name": CONTEXT, "context": context}],
        "current-context": CONTEXT,
    }
    path.write_text(yaml.safe_dump(config))


main()
