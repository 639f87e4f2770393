"""TensorRT-LLM on stand-ins: a toolchain on PATH, a configuration, and what a test looks at."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.plan.server.deployments.trtllm import TrtllmServer

STANDINS = Path(__file__).parents[1] / "standins" / "trtllm"
TRITON = Path(__file__).parents[2] / ".engines" / "triton" / "bin"
SIZES = {"max-batch-size": 4, "input-len": 64, "output-len": 32}


def put_on_path(monkeypatch: pytest.MonkeyPatch, *more: Path) -> None:
    """The stand-ins, and the Python that they run in, come first."""
    folders = [STANDINS / "bin", Path(sys.executable).parent, *more]
    monkeypatch.setenv("PATH", os.pathsep.join([*map(str, folders), os.environ["PATH"]]))


def installed(folder: Path, version: str) -> Path:
    """A folder for PYTHONPATH in which TensorRT-LLM of this version is installed, as far as Python's metadata say."""
    info = folder / f"tensorrt_llm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")
    return folder


def config(
    folder: Path, args: dict[str, Any] | None = None, env: dict[str, str] | None = None, **changes: Any
) -> TrtllmServer:
    """A server whose models and caches are in `folder`."""
    given = {
        "name": "trt",
        "engine": "trtllm",
        "model": "Qwen/Qwen2-7B",
        "gpus": 0,
        "cache": str(folder / "cache"),
        "examples": str(STANDINS / "examples"),
        "templates": str(STANDINS / "all_models"),
        "ready_timeout": "120 s",
        "args": SIZES | (args or {}),
        "env": {"PYTHONPATH": str(STANDINS / "site"), "HF_HOME": str(folder / "hf")} | (env or {}),
    }
    return TrtllmServer.model_validate({**given, **changes})


def half_made(folder: Path) -> list[str]:
    """Whatever of the cache is there without being whole."""
    return [path.name for path in (folder / "cache").rglob("*.partial")]
