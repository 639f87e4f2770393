"""The part of a plan that says what a Triton model repository holds: an entry per model, in ModelConfig's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    model_validator,
)

from pytest_llmperf.plan.fields import Frozen, Listed
from pytest_llmperf.plan.load.prompts import PlanPath

ParameterValue = str | bool | int | float
_OWN_FIELDS = ("name", "backend", "max_batch_size", "instance_group", "dynamic_batching", "parameters")


class QueuePolicy(Frozen):
    """The limits for requests that wait, with Triton's own defaults."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_microseconds: NonNegativeInt = 0
    allow_timeout_override: bool = False
    max_queue_size: NonNegativeInt = 0
    """0: no limit."""


class DynamicBatching(Frozen):
    """Triton's scheduler that joins requests; `{}` turns it on with its defaults."""

    preferred_batch_size: tuple[PositiveInt, ...] = ()
    max_queue_delay_microseconds: NonNegativeInt = 0
    preserve_ordering: bool = False
    priority_levels: NonNegativeInt = 0
    default_priority_level: NonNegativeInt = 0
    default_queue_policy: QueuePolicy | None = None
    priority_queue_policy: dict[PositiveInt, QueuePolicy] = {}


class InstanceGroup(Frozen):
    """Copies of a model that run side by side."""

    count: PositiveInt = 1
    kind: Literal["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"] = "KIND_AUTO"
    gpus: tuple[NonNegativeInt, ...] = ()


class ModelTensor(Frozen):
    """An input or output that the model's own code does not declare."""

    name: str
    data_type: Annotated[str, Field(pattern=r"^TYPE_[A-Z0-9]+$")]
    dims: tuple[int, ...]
    optional: bool = False


def _existing_files(value: str, info: ValidationInfo) -> str:
    if info.context and not Path(value).exists():
        raise ValueError(f"{value} does not exist")
    return value


class TritonModel(Frozen):
    """One model of a repository. What is not given stays out of config.pbtxt, and Triton completes it by itself."""

    backend: str = ""
    """`vllm`, `python`, or any other backend of the server; may be left out where `config` says it (an ensemble)."""
    files: Annotated[PlanPath, AfterValidator(_existing_files)] | None = None
    """The content of the model's version folder: a folder, or a single model.py. A relative path counts from the
    plan.
    """
    max_batch_size: NonNegativeInt | None = None
    instance_group: Annotated[tuple[InstanceGroup, ...], Listed] = ()
    dynamic_batching: DynamicBatching | None = None
    decoupled: bool | None = None
    """True if it may answer a request with any number of responses."""
    parameters: dict[str, ParameterValue] = {}
    input: tuple[ModelTensor, ...] = ()
    output: tuple[ModelTensor, ...] = ()
    config: dict[str, Any] = {}
    """Any other field of Triton's ModelConfig, by its name in config.pbtxt."""

    @model_validator(mode="after")
    def _complete(self) -> TritonModel:
        for name in _OWN_FIELDS:
            if name in self.config:
                raise ValueError(f"{name} has a key of its own, beside `config`")
        if self.backend == "python" and self.files is None:
            raise ValueError("backend: python needs `files`, the folder with its model.py")
        if self.dynamic_batching is not None and not self.max_batch_size and self.backend != "vllm":
            raise ValueError("dynamic_batching needs max_batch_size of at least 1")
        return self
