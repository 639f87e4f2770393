"""A server in a plan that Helm installs into a Kubernetes cluster."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from pytest_llmperf.boundary.literals import in_plain_text, secrets_of_values
from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.plan.fields import EntryError, Seconds, entry
from pytest_llmperf.plan.server.base import Basic, Bearer, LaunchedServer, ReadyCheck, refuse_secrets
from pytest_llmperf.plan.server.engines.remote import checked_url
from pytest_llmperf.plan.server.words import words_without_secrets

_LONGEST_RELEASE = 53
_PLACEHOLDERS = ("release", "namespace")
_PLACEHOLDER = re.compile(r"(?<![${])\{(\w+)\}(?!\})")

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


def _no_references(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if "${" in word:
            raise ValueError(
                f"{word!r}: other users can read a command's words. Write the variable into `env`, which rclone and "
                f"aws read, or let a shell fill it in: [sh, -c, 'echo $NAME']"
            )
    return words


Words = Annotated[
    tuple[str, ...], Field(min_length=1), AfterValidator(words_without_secrets), AfterValidator(_no_references)
]


def _known_placeholders(text: str) -> str:
    for name in _PLACEHOLDER.findall(text):
        if name not in _PLACEHOLDERS:
            raise ValueError(
                f"{{{name}}} in {text!r} is not known; allowed: {{release}}, {{namespace}}"
                f"{did_you_mean(name, _PLACEHOLDERS)}"
            )
    return text


Text = Annotated[str, AfterValidator(_known_placeholders)]
"""Text in which `{release}` and `{namespace}` are filled in."""


class KubernetesServer(LaunchedServer):
    """A chart, installed before the load and uninstalled after it; `args` only say what it serves with."""

    is_local = False
    default_gpus = 0
    paths = ("chart", "kubeconfig", "helm", "kubectl")

    engine: Literal["kubernetes"]
    chart: str
    """A folder (one that starts with ./ or ../ counts from the plan file), `repository/name`, or an oci:// URL."""
    repo: str = ""
    """URL of the repository that `chart` is a name in."""
    version: str = ""
    """Version of the chart; the newest where none is given."""
    values_files: tuple[str, ...] = ()
    """Helm reads them as they are, counted from the plan file; later ones win, and `values` over all of them."""
    values: dict[str, Any] = {}
    """The chart's values; `${NAME}` anywhere in them is filled in when Helm reads them, from its standard input."""
    release: Annotated[Label, Field(max_length=_LONGEST_RELEASE)] | Literal[""] = ""
    """Name of the release; by default made of the server's name, so that several are up side by side."""
    namespace: Label = "default"
    """Namespace of the release; made where it is not there, and left there."""
    namespace_labels: dict[str, str] = {}
    """Labels that the namespace must have, such as `istio-injection: enabled`."""
    context: str = ""
    """Context of the kubeconfig; its current one where none is given."""
    kubeconfig: str = ""
    """Path of a kubeconfig; what kubectl finds by itself where none is given."""
    prepare: tuple[Words, ...] = ()
    """Commands that run in the plan's folder before the chart is installed, such as the upload of a model."""
    url: Text = ""
    """URL of an ingress or a gateway that leads to it. Empty: a port of this machine is forwarded to the one pod."""
    service: Text = ""
    """Service whose pod is forwarded to; the release's only one where none is given."""
    port: int | str = ""
    """The service's port, by name or number; its only one where none is given."""
    headers: dict[str, Text] = {}
    """Sent with every request; a gateway routes by `Host`."""
    bearer: Bearer = None
    """`${NAME}`: the token is read from that environment variable."""
    basic: Basic = None
    """`${USER}:${PASSWORD}`, read from the environment."""
    ready: ReadyCheck = None
    """The check that follows once the pods are ready; by default a request of the load, repeated until it is
    answered.
    """
    keep: bool = False
    """True if the release may be there before, is upgraded then, and stays."""
    hardware: str = ""
    """Label of the nodes, as in `h100x8`; part of the baselines' folder. Default: the context."""
    schedule_timeout: Seconds = 120.0
    """Seconds that a pod may wait for a node, unless an autoscaler brings one."""
    stop_timeout: Seconds = 180.0
    """Seconds that the pods may take to end."""
    helm: str = "helm"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""
    kubectl: str = "kubectl"
    contents: SkipJsonSchema[str] = ""
    """SHA-256 of the chart's folder and the values' files: filled in when the plan is read, not a key of the entry."""
    cwd: str = "."
    """Folder that `prepare` runs in, counted from the plan file."""

    def located(self, folder: Path) -> Self:
        files = tuple(str((folder / path).resolve()) for path in self.values_files)
        update = {"values_files": files, "cwd": str((folder / self.cwd).resolve())}
        located = super().located(folder).model_copy(update=update)
        return located.model_copy(update={"contents": _digest(map(Path, (located.chart, *files)))})

    @field_validator("values")
    @classmethod
    def _no_secret_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        for path, _ in secrets_of_values(values):
            with entry(path[0]):
                raise ValueError(in_plain_text(path[-1]))
        return values

    @field_validator("headers")
    @classmethod
    def _sent_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        refuse_secrets(headers)
        return {"Host" if name.lower() == "host" else name: value for name, value in headers.items()}

    @field_validator("url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        return checked_url(url, ("http", "https")) if url else url

    @model_validator(mode="after")
    def _of_one_cluster(self) -> KubernetesServer:
        if not (self.context or self.hardware):
            raise EntryError(
                "name the cluster: `context` is one of `kubectl config get-contexts`; where the current context is "
                "meant, `hardware` labels the nodes, as in h100x8",
                "engine",
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_it(self) -> KubernetesServer:
        if self.bearer and self.basic:
            raise ValueError("`bearer` and `basic` exclude each other")
        if self.url and (self.service or self.port):
            raise EntryError("`service` and `port` are forwarded to, which `url` is in the place of", "url")
        if self.repo and (self.chart.startswith(("/", "./", "../", "oci://"))):
            raise EntryError("`repo` holds charts by name; `chart` is a path or a URL", "repo")
        if self.replicas > 1:
            raise EntryError("the chart says how many pods serve: write it into `values`", "replicas")
        if self.proxy is not None:
            raise EntryError("the cluster spreads the load over the pods behind `url`", "proxy")
        return self

    @property
    def release_name(self) -> str:
        """The release's name; of a long server's name the start and a hash."""
        if self.release:
            return self.release
        name = "llmperf-" + (re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "server")
        if len(name) <= _LONGEST_RELEASE:
            return name
        return f"{name[:44].rstrip('-')}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def filled(self, text: str) -> str:
        """`text` with `{release}` and `{namespace}` filled in; other braces are left alone."""
        known = {"release": self.release_name, "namespace": self.namespace}
        return _PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), text)

    @property
    def declares_args(self) -> bool:
        return True

    @property
    def local_gpus(self) -> int:
        return 0

    @property
    def in_container(self) -> bool:
        return True

    @property
    def is_sampled(self) -> bool:
        """Metrics of one pod of several, which is what a URL gives, say nothing."""
        return self.server_metrics and not self.url

    @property
    def machine(self) -> str:
        return self.hardware or self.context


def _digest(paths: Iterable[Path]) -> str:
    """SHA-256 of files and of folders of files; what is not there, such as the name of a chart, is passed by."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if path.is_absolute() and file.is_file():
                found.update(f"{file.relative_to(path.parent)}\0".encode())
                found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()
