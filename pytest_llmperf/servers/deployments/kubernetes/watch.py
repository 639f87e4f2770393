"""Watches a release while it is measured: the cluster's changes of its pods, and the port that leads to one."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence

from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer
from pytest_llmperf.servers.deployments import holder
from pytest_llmperf.servers.deployments.holder import StepFailed
from pytest_llmperf.servers.deployments.kubernetes import commands
from pytest_llmperf.servers.deployments.kubernetes.tools import quote

_PAUSE_S = 5.0
"""Time between two looks at the pods: a client that asks all the time would disturb what it measures."""
_BROKEN_S, _BREAKS = 10.0, 5
"""Number of forwardings that end within so many seconds each, after which the pod counts as unreachable."""
_END_S = 5.0


class PodWatch:
    """Two commands that run as long as the release serves; each is started anew when it ends."""

    def __init__(self, config: KubernetesServer, forwarded: tuple[str, int] | None, port: int) -> None:
        """`forwarded` are the pod and its port that `port` of this machine leads to; None where a URL does."""
        self._word_of_pods = commands.in_namespace(config, "get", "pods", "--watch-only", "--output", "name")
        self._pods = self._started(self._word_of_pods)
        self._way = commands.forward(config, forwarded[0], port, forwarded[1]) if forwarded else None
        self._forward: subprocess.Popen[bytes] | None = None
        self._begun, self._breaks = 0.0, 0
        if self._way is not None:
            self._renew()

    def _started(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def changes(self) -> Iterator[None]:
        """Yields when something was said of a pod of the namespace, or a watch ended; renews what ends.

        Raises StepFailed when the way to the pod breaks again and again.
        """
        looked_at = float("-inf")
        while True:
            pause_s = max(0.0, looked_at + _PAUSE_S - time.monotonic())
            for process in self._readable(pause_s):
                data = os.read(_output(process), 65536)
                if process is self._forward:
                    self._read_forward(data)
                    continue
                if not data:
                    process.wait()
                    self._pods = self._started(self._word_of_pods)
                yield
                looked_at = time.monotonic()

    def _readable(self, pause_s: float) -> list[subprocess.Popen[bytes]]:
        """The watching programs that have printed something; the pods' own is not watched for the first `pause_s`."""
        watched = [self._forward] if pause_s else [self._forward, self._pods]
        with selectors.DefaultSelector() as selector:
            for process in filter(None, watched):
                selector.register(_output(process), selectors.EVENT_READ, process)
            return [key.data for key, _ in selector.select(pause_s or None)]

    def _read_forward(self, data: bytes) -> None:
        """A line per connection is what it says; its end is what matters."""
        assert self._forward is not None
        lines = [line for line in data.decode("utf-8", "replace").splitlines() if not line.startswith("Handling")]
        quote("\n".join(lines))
        if data:
            return
        code = self._forward.wait()
        self._breaks = self._breaks + 1 if time.monotonic() - self._begun < _BROKEN_S else 1
        holder.log(f"kubectl port-forward ended (exit code {code}); requests on it failed. Renewed", "WARNING")
        if self._breaks >= _BREAKS:
            raise StepFailed(f"kubectl port-forward ended {self._breaks} times within {_BROKEN_S:g} s each")
        time.sleep(2.0 ** (self._breaks - 2) if self._breaks > 1 else 0.0)  # an API server may be starting anew
        self._renew()

    def _renew(self) -> None:
        assert self._way is not None
        self._forward, self._begun = self._started(self._way), time.monotonic()

    def close(self) -> None:
        """Ends both commands."""
        for process in filter(None, (self._pods, self._forward)):
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _output(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return process.stdout.fileno()
