"""Triton in a plan, as a server that the plugin starts."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator, model_validator

from pytest_llmperf.plan.fields import EntryError, Seconds
from pytest_llmperf.plan.server.base import LaunchedServer, refuse_secrets
from pytest_llmperf.plan.server.engines.triton.model import ParameterValue, TritonModel

_TRITON_OWN = ("http-address", "http-port", "grpc-address", "grpc-port", "metrics-address", "metrics-port")
_REMOTE_REPOSITORY = re.compile(r"^(s3|gs|as)://")


class TritonServer(LaunchedServer):
    """`tritonserver` on a model repository that the plan describes, or names.

    `args` are the model's engine arguments: of a vllm model's model.json, of a python model's `parameters`. Of a
    `repository` that is used as it is, they are what its owner says it holds.
    """

    paths = ("model", "executable", "repository")

    engine: Literal["triton"]
    executable: str = "tritonserver"
    """Name on PATH, or a path; one that starts with ./ or ../ counts from the plan file."""
    image: str | None = None
    """Docker image to run it in, as in nvcr.io/nvidia/tritonserver:25.01-vllm-python-py3; `executable` is then its."""
    docker_args: tuple[str, ...] = ()
    """More arguments of `docker run`, such as `-v=/models:/models:ro`."""
    shm_size: str = "1g"
    """Shared memory of the container: tensors of python models pass through it."""
    models: dict[str, TritonModel] = {}
    repository: str | None = None
    """A repository in the place of `models`: a local folder, or an s3://, gs:// or as:// URL."""
    serve: str = ""
    """The model that is asked; needed unless there is one only."""
    options: dict[str, ParameterValue | list[ParameterValue]] = {}
    """Flags of tritonserver without dashes; a list repeats the flag."""
    exit_timeout: Seconds = 5.0
    """Seconds in which it may finish requests when it is stopped (--exit-timeout-secs)."""

    @field_validator("models", mode="after")
    @classmethod
    def _names_of_folders(cls, models: dict[str, TritonModel]) -> dict[str, TritonModel]:
        for name in models:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise EntryError(f"{name!r} cannot be the name of a model, which is a folder of the repository", name)
        return models

    @field_validator("options", mode="after")
    @classmethod
    def _options_that_we_use(cls, options: dict[str, Any]) -> dict[str, Any]:
        named = {name.lstrip("-").replace("_", "-"): value for name, value in options.items()}
        for name in named:
            if name in (*_TRITON_OWN, "model-repository", "model-store", "exit-timeout-secs"):
                raise EntryError(f"{name} is the plugin's to choose; it has a key of its own, or is a free port", name)
        return refuse_secrets(named)

    @model_validator(mode="after")
    def _one_repository(self) -> TritonServer:
        if bool(self.models) == (self.repository is not None):
            raise ValueError("a triton server has either `models`, to write a repository, or `repository`")
        if self.repository is not None and not self.serve:
            raise ValueError("`repository` needs `serve`, the model that is asked")
        if self.models and not self.serve and len(self.models) > 1:
            raise ValueError(f"of several models, `serve` says which is asked: {', '.join(self.models)}")
        if self.models and self.serve and self.serve not in self.models:
            raise EntryError(f"serve: {self.serve!r} is none of the models {', '.join(self.models)}", "serve")
        return self

    @property
    def served_model(self) -> str:
        """Name of the model that is asked."""
        return self.serve or next(iter(self.models))

    @property
    def declares_args(self) -> bool:
        return self.repository is not None

    @property
    def in_container(self) -> bool:
        return self.image is not None

    @property
    def has_remote_repository(self) -> bool:
        return bool(_REMOTE_REPOSITORY.match(self.repository or ""))
