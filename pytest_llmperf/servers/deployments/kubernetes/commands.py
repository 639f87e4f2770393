"""The words of every command that a deployment by Helm takes, and its values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer

OWNER = "llmperf-owner"
"""Label of a release: the process that it was installed for."""
_HISTORY = 3


def kubectl(config: KubernetesServer, *words: str) -> tuple[str, ...]:
    """`kubectl` on the plan's cluster."""
    return (config.kubectl, *_cluster(config, "--context"), *words)


def in_namespace(config: KubernetesServer, *words: str) -> tuple[str, ...]:
    """`kubectl` in the plan's namespace."""
    return kubectl(config, "--namespace", config.namespace, *words)


def helm(config: KubernetesServer, *words: str) -> tuple[str, ...]:
    """`helm` in the plan's namespace, the command first, as people write it."""
    return (config.helm, *words, *_cluster(config, "--kube-context"), "--namespace", config.namespace)


def _cluster(config: KubernetesServer, context: str) -> tuple[str, ...]:
    kubeconfig = ("--kubeconfig", config.kubeconfig) if config.kubeconfig else ()
    return *kubeconfig, *((context, config.context) if config.context else ())


def upgrade(config: KubernetesServer, owner: str) -> tuple[str, ...]:
    """Command that installs the chart, or upgrades its release; `values` come on standard input."""
    options = {"--repo": config.repo, "--version": config.version}
    return helm(
        config,
        *("upgrade", "--install", config.release_name, config.chart),
        *(word for option, value in options.items() if value for word in (option, value)),
        *(word for path in config.values_files for word in ("--values", path)),
        # Helm itself waits for hooks alone, such as a job that fetches a model.
        *("--values", "-", "--labels", f"{OWNER}={owner}", "--history-max", str(_HISTORY)),
        *("--timeout", f"{config.ready_timeout:.0f}s"),
    )


def releases(config: KubernetesServer) -> tuple[str, ...]:
    """Command that lists the labels of every revision of the release, a line each; Helm keeps a Secret for each."""
    selector = f"owner=helm,name={config.release_name}"
    shown = "jsonpath={range .items[*]}{.metadata.labels}{'\\n'}{end}"
    return in_namespace(config, "get", "secrets", "--selector", selector, "--output", shown)


def rollout(config: KubernetesServer) -> tuple[str, ...]:
    """Command that lists the pods of the namespace and the workloads that make them."""
    return in_namespace(config, "get", "pods,deployments,statefulsets,daemonsets", "--output", "json")


def uninstall(config: KubernetesServer) -> tuple[str, ...]:
    """Command that uninstalls the release."""
    return helm(config, "uninstall", config.release_name)


def labels(config: KubernetesServer, missing: Sequence[str]) -> tuple[str, ...]:
    """Command that gives the namespace its missing labels; kubectl refuses to change one that has another value."""
    return kubectl(
        config, "label", "namespace", config.namespace, *(f"{n}={config.namespace_labels[n]}" for n in missing)
    )


def namespace(config: KubernetesServer) -> dict[str, Any]:
    """The namespace as an object of the cluster."""
    meta = {"name": config.namespace, "labels": dict(config.namespace_labels)}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def forward(config: KubernetesServer, pod: str, port: int | str, to: int | str) -> tuple[str, ...]:
    """Command that forwards a port of this machine to the pod's."""
    return in_namespace(config, "port-forward", "--address", "127.0.0.1", f"pod/{pod}", f"{port}:{to}")


def values(config: KubernetesServer, fill: Callable[[str], str]) -> dict[str, Any]:
    """The chart's inline values with every text passed through `fill`."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        return fill(value) if isinstance(value, str) else value

    found: dict[str, Any] = filled(config.values)
    return found
