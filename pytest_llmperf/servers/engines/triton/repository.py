"""Writes a model repository from a configuration. config.pbtxt is read and written with Triton's own protobuf."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pytest_llmperf.boundary.files import write_whole
from pytest_llmperf.errors import MissingRequirement, ServerError
from pytest_llmperf.plan.server.base import ArgValue
from pytest_llmperf.plan.server.engines.triton.model import InstanceGroup, TritonModel
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer

_CONFIG = "config.pbtxt"


def write_repository(config: TritonServer, folder: Path) -> Path:
    """Writes every model of `config` under `folder` (which it makes) and returns it.

    Raises MissingRequirement without tritonclient, and ServerError for what Triton's ModelConfig does not take, a
    `files` folder that is not there, or a model that stands there already.
    """
    for name, model in config.models.items():
        _write_model(config, name, model, folder / name)
    return folder


def _write_model(config: TritonServer, name: str, model: TritonModel, folder: Path) -> None:
    if os.path.lexists(folder):
        raise ServerError(f"{folder} exists already; a repository is written into an empty place")
    text = config_text(config, name)
    files = Path(model.files) if model.files else None
    if files is not None and not files.exists():
        raise ServerError(f"server {config.name!r}: the files of model {name!r} are not there: {files}")
    _copy_files(files, folder)
    write_whole(folder / _CONFIG, text.encode())
    if model.backend == "vllm":
        document = json.dumps(engine_arguments(config), indent=2) + "\n"
        write_whole(folder / "1" / "model.json", document.encode())


def _copy_files(files: Path | None, folder: Path) -> None:
    """A folder with numbered versions is a whole model; any other becomes version 1, as does a single model.py."""
    version = folder / "1"
    if files is None:
        version.mkdir(parents=True)
    elif files.is_file():
        version.mkdir(parents=True)
        shutil.copy2(files, version / "model.py")
    else:
        whole = any(entry.is_dir() and entry.name.isdigit() for entry in files.iterdir())
        shutil.copytree(files, folder if whole else version, ignore=shutil.ignore_patterns("__pycache__", _CONFIG))


def config_text(config: TritonServer, name: str) -> str:
    """config.pbtxt of one model; raises as `write_repository` does."""
    text: str = _protobuf("text_format").MessageToString(model_config(config, name))
    return text


def model_config(config: TritonServer, name: str) -> Any:
    """The ModelConfig message: that of the model's own files, if there is one, with what the plan gives over it."""
    model, json_format = config.models[name], _protobuf("json_format")
    message = _given_config(Path(model.files) if model.files else None)
    fields = _fields(config, model)
    for field in fields:
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    try:
        json_format.ParseDict({**fields, "name": name}, message)
    except json_format.ParseError as error:
        raise ServerError(f"server {config.name!r}: model {name!r} has no such {_CONFIG}: {error}") from error
    return message


def _given_config(files: Path | None) -> Any:
    """The model configuration from the user's folder, else an empty message."""
    message, text_format = _model_config_class()(), _protobuf("text_format")
    path = files / _CONFIG if files else None
    if path is not None and path.is_file():
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), message)
        except text_format.ParseError as error:
            raise ServerError(f"{path}:{error}") from error
    return message


def _fields(config: TritonServer, model: TritonModel) -> dict[str, Any]:
    """The plan's settings in the JSON form of ModelConfig, without those that the plan does not give."""
    groups = model.instance_group
    if model.backend == "vllm" and not groups:
        groups = (InstanceGroup(kind="KIND_MODEL"),)  # vLLM itself chooses its devices
    arguments = config.args if model.backend == "python" else {}
    parameters = {**arguments, **model.parameters}
    fields: dict[str, Any] = {
        "backend": model.backend,
        "max_batch_size": model.max_batch_size,
        "instance_group": _dumped(groups),
        "dynamic_batching": _dumped([model.dynamic_batching])[0] if model.dynamic_batching else None,
        "model_transaction_policy": None if model.decoupled is None else {"decoupled": model.decoupled},
        # Parameters are texts: JSON, but for what is a text already.
        "parameters": {
            name: {"string_value": value if isinstance(value, str) else json.dumps(value)}
            for name, value in parameters.items()
        },
        "input": _dumped(model.input),
        "output": _dumped(model.output),
    }
    return {name: value for name, value in fields.items() if value not in (None, [], "")} | model.config


def _dumped(parts: Iterable[BaseModel]) -> list[dict[str, Any]]:
    """The given settings of each part, with lists for tuples, which older versions of protobuf do not take."""
    return [part.model_dump(mode="json", exclude_defaults=True) for part in parts]


def engine_arguments(config: TritonServer) -> Mapping[str, ArgValue]:
    """model.json of a vllm model: the plan's model and arguments, by vLLM's names in Python."""
    return {"model": config.model, **{name.replace("-", "_"): value for name, value in config.args.items()}}


def _protobuf(module: str) -> Any:
    _model_config_class()  # says what to install
    return importlib.import_module(f"google.protobuf.{module}")


def _model_config_class() -> Any:
    try:
        return importlib.import_module("tritonclient.grpc.model_config_pb2").ModelConfig
    except (ImportError, RuntimeError) as error:
        raise MissingRequirement(f"needs tritonclient ({error}): pip install 'pytest-llmperf[triton]'") from error
