"""Triton's model repository: the installed templates filled in, or the LLM API's model with its model.yaml."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pytest_llmperf.boundary.files import write_whole
from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer
from pytest_llmperf.servers.deployments.trtllm.commands import model_yaml, template_values
from pytest_llmperf.servers.deployments.trtllm.steps import StepError
from pytest_llmperf.servers.deployments.trtllm.templates import fill

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls")


def write_ensemble(config: TrtllmServer, templates: Path, folder: Path, model: str, engine: str) -> tuple[str, ...]:
    """Writes the models of `flow: engine` under `folder`, with what the templates themselves bring.

    Returns the placeholders that were left over, as `tensorrt_llm: medusa_choices`. Raises StepError for a template
    that is missing, one that cannot be filled, and a key of `template` that none has.
    """
    present = [name for name in MODELS if (templates / name / "config.pbtxt").is_file()]
    needed = {"preprocessing", "tensorrt_llm", "postprocessing", config.serve}
    if absent := sorted(needed - set(present)):
        raise StepError(f"{templates} has no {', '.join(absent)}", "`templates` names the folder all_models/")
    values = template_values(config, model, engine) | config.template
    known, left = set[str](), list[str]()
    for name in present:
        shutil.copytree(templates / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / name / "1").mkdir(exist_ok=True)  # Triton wants a version of an ensemble too
        of_file, rest = _fill_file(folder / name / "config.pbtxt", values)
        known |= of_file
        left += [f"{name}: {placeholder}" for placeholder in rest]
    for key in config.template:
        if key not in known:
            hint = did_you_mean(key, sorted(known)) or f"; they have {', '.join(sorted(known))}"
            raise StepError(f"no template in {templates} has ${{{key}}}{hint}", "see `template` in the plan")
    return tuple(left)


def _fill_file(path: Path, values: Mapping[str, Any]) -> tuple[frozenset[str], tuple[str, ...]]:
    try:
        filled = fill(path.read_text(encoding="utf-8"), values)
    except ValueError as error:
        raise StepError(f"{path.parent.name}/config.pbtxt: {error}", "see `template` in the plan") from error
    if filled.needed:
        names = ", ".join(filled.needed)
        raise StepError(f"{path.parent.name}/config.pbtxt needs a value for {names}", "give it in `template`")
    write_whole(path, filled.text.encode())
    return filled.known, filled.left


def write_llmapi(config: TrtllmServer, templates: Path, folder: Path, model: str) -> None:
    """Writes the LLM API's model under `folder`."""
    shutil.copytree(templates / "tensorrt_llm", folder / "tensorrt_llm", ignore=shutil.ignore_patterns("__pycache__"))
    text = yaml.safe_dump(model_yaml(config, model), sort_keys=False)
    write_whole(folder / "tensorrt_llm" / "1" / "model.yaml", text.encode())
