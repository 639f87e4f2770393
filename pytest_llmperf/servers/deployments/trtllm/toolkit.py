"""Finds TensorRT-LLM's scripts, templates and programs on this machine, and its version."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer
from pytest_llmperf.servers.deployments.trtllm.commands import family, makes_weights, program
from pytest_llmperf.servers.deployments.trtllm.steps import StepError

_EXAMPLES = ("/app/tensorrt_llm/examples", "/app/examples", "/opt/tensorrt_llm/examples")
_TEMPLATES = ("/app/all_models", "/app/tensorrt_llm/triton_backend/all_models")
"""Folders of the templates in NVIDIA's images."""
_VERSION = "import importlib.metadata as m; print(m.version('tensorrt_llm'))"
_VERSION_TIMEOUT_S = 60.0


def needed_programs(config: TrtllmServer) -> Iterator[str]:
    """Names of the programs that the steps run, in their order."""
    if not config.is_local_model:
        yield "hf"
    if makes_weights(config):
        yield "python"
    if config.flow == "engine":
        yield "trtllm-build"
        if config.tp * config.pp > 1:
            yield "mpirun"
    yield "trtllm-serve" if config.flow == "serve" else "tritonserver"


def check_programs(config: TrtllmServer) -> None:
    """Raises StepError for a program that is missing."""
    for name in needed_programs(config):
        if shutil.which(path := program(config, name)) is None:
            raise StepError(f"{path!r} was not found", f"`programs: {{{name}: /path}}` says where it is")


def version(config: TrtllmServer) -> str:
    """TensorRT-LLM's version, of which a checkpoint and an engine depend. Raises StepError."""
    python = program(config, "python")
    command = [python, "-c", _VERSION]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError(f"{python}: {error}", "`programs: {python: /path}` names the one with tensorrt_llm") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StepError(f"{python} has no tensorrt_llm ({last})", "`programs: {python: /path}` names the one that has")
    return done.stdout.strip()


def weights_script(config: TrtllmServer, model: Path) -> Path:
    """quantize.py, or convert_checkpoint.py of the model's family. Raises StepError with where it was looked for."""
    examples = examples_folder(config)
    if config.is_quantised:
        return _found([examples / "quantization" / "quantize.py"], "`examples` names TensorRT-LLM's folder examples/")
    name = family(config, _model_type(model))
    folders = [examples / part / name for part in ("models/core", "models/contrib", ".")]
    cure = f"`family` names the folder of examples/ for this model ({name!r} was tried)"
    return _found([folder / "convert_checkpoint.py" for folder in folders], cure)


def _model_type(model: Path) -> str:
    try:
        found = json.loads((model / "config.json").read_text(encoding="utf-8"))
        return str(found["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = "a model is a folder of Hugging Face's layout"
        raise StepError(f"{model / 'config.json'} names no model_type: {error!r}", cure) from error


def examples_folder(config: TrtllmServer) -> Path:
    """TensorRT-LLM's folder examples/. Raises StepError."""
    given = [config.examples] if config.examples else _EXAMPLES
    return _found(map(Path, given), "`examples` names TensorRT-LLM's folder examples/")


def templates_folder(config: TrtllmServer) -> Path:
    """Triton's templates of the flow. Raises StepError."""
    name = "inflight_batcher_llm" if config.flow == "engine" else "llmapi"
    given = [config.templates] if config.templates else _TEMPLATES
    return _found((Path(folder) / name for folder in given), f"`templates` names the folder all_models/ with {name}/")


def _found(candidates: Sequence[Path] | Iterator[Path], cure: str) -> Path:
    tried = list(candidates)
    for path in tried:
        if path.exists():
            return path
    raise StepError(f"not there: {', '.join(map(str, tried))}", cure)
