"""Model repositories: what a plan says is in config.pbtxt as Triton's own protobuf reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from pytest_llmperf.cli.main import main
from pytest_llmperf.errors import PlanError, ServerError
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.server.engines.triton.spec import TritonServer
from pytest_llmperf.servers.engines.triton.repository import config_text, write_repository

MODEL_PY = "class TritonPythonModel:\n    pass\n"


def _server(models: dict[str, Any], **changes: Any) -> TritonServer:
    given = {"engine": "triton", "name": "t", "model": "gpt2", "gpus": 0, "models": models}
    return TritonServer.model_validate({**given, **changes})


def _read(text: str) -> Any:
    return text_format.Parse(text, ModelConfig())


def test_everything_that_a_plan_can_say_of_a_model() -> None:
    model = {
        "backend": "python",
        "files": "/models/lm",
        "max_batch_size": 8,
        "instance_group": [{"count": 2, "kind": "KIND_GPU", "gpus": [0, 1]}, {"kind": "KIND_CPU"}],
        "dynamic_batching": {
            "preferred_batch_size": [4, 8],
            "max_queue_delay_microseconds": 100,
            "preserve_ordering": True,
            "priority_levels": 2,
            "default_priority_level": 1,
            "default_queue_policy": {"timeout_action": "DELAY", "max_queue_size": 16},
            "priority_queue_policy": {2: {"default_timeout_microseconds": 5, "allow_timeout_override": True}},
        },
        "decoupled": True,
        "parameters": {"text": 'a "quoted"\nline', "flag": True, "number": 3},
        "input": [{"name": "text_input", "data_type": "TYPE_STRING", "dims": [1], "optional": True}],
        "output": [{"name": "text_output", "data_type": "TYPE_STRING", "dims": [-1]}],
        "config": {"version_policy": {"latest": {"num_versions": 1}}},
    }
    found = _read(config_text(_server({"lm": model}, args={"max_len": 9}), "lm"))
    assert (found.name, found.backend, found.max_batch_size) == ("lm", "python", 8)
    groups = [(group.count, group.Kind.Name(group.kind), list(group.gpus)) for group in found.instance_group]
    assert groups == [(2, "KIND_GPU", [0, 1]), (0, "KIND_CPU", [])]
    batching = found.dynamic_batching
    assert list(batching.preferred_batch_size) == [4, 8]
    assert (batching.max_queue_delay_microseconds, batching.preserve_ordering) == (100, True)
    assert (batching.priority_levels, batching.default_priority_level) == (2, 1)
    assert batching.default_queue_policy.max_queue_size == 16
    assert batching.default_queue_policy.timeout_action == 1
    assert batching.priority_queue_policy[2].default_timeout_microseconds == 5
    assert found.model_transaction_policy.decoupled
    parameters = {name: value.string_value for name, value in found.parameters.items()}
    assert parameters == {"text": 'a "quoted"\nline', "flag": "true", "number": "3", "max-len": "9"}
    assert (found.input[0].optional, list(found.output[0].dims)) == (True, [-1])
    assert found.version_policy.latest.num_versions == 1


def test_a_vllm_model_has_the_layout_of_triton_import(tmp_path: Path) -> None:
    args = {"tensor-parallel-size": 2, "gpu-memory-utilization": 0.85, "enforce-eager": True}
    write_repository(_server({"gpt2": {"backend": "vllm"}}, args=args), tmp_path / "r")
    files = sorted(str(path.relative_to(tmp_path / "r")) for path in (tmp_path / "r").rglob("*") if path.is_file())
    assert files == ["gpt2/1/model.json", "gpt2/config.pbtxt"]
    assert json.loads((tmp_path / "r/gpt2/1/model.json").read_text()) == {
        "model": "gpt2",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.85,
        "enforce_eager": True,
    }
    found = _read((tmp_path / "r/gpt2/config.pbtxt").read_text())
    assert found.backend == "vllm"
    assert [group.Kind.Name(group.kind) for group in found.instance_group] == ["KIND_MODEL"]


def test_batching_with_triton_s_defaults_is_there_and_empty() -> None:
    model = {"backend": "onnxruntime", "max_batch_size": 2, "dynamic_batching": {}}
    assert _read(config_text(_server({"m": model}), "m")).HasField("dynamic_batching")


@pytest.mark.parametrize("layout", ["file", "folder", "whole"])
def test_the_user_s_files(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    version = source / "1" if layout == "whole" else source
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL_PY)
    (source / "config.pbtxt").write_text("max_batch_size: 4 instance_group { count: 3 }")
    files = source / "model.py" if layout == "file" else source
    model = {"backend": "python", "files": str(files), "instance_group": {"count": 1}}
    write_repository(_server({"m": model}), tmp_path / "r")
    assert (tmp_path / "r/m/1/model.py").read_text() == MODEL_PY
    found = _read((tmp_path / "r/m/config.pbtxt").read_text())
    # The folder's own config.pbtxt is the ground on which the plan's keys stand.
    assert found.max_batch_size == (0 if layout == "file" else 4)
    assert len(found.instance_group) == 1
    assert not (tmp_path / "r/m/1/config.pbtxt").exists()


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"model 'm' has no such config.pbtxt: .*no_such_field"):
        config_text(_server({"m": {"backend": "x", "config": {"no_such_field": 1}}}), "m")
    (tmp_path / "config.pbtxt").write_text('backend: "python\n')
    with pytest.raises(ServerError, match=r"config.pbtxt:1:10"):
        config_text(_server({"m": {"backend": "python", "files": str(tmp_path)}}), "m")
    with pytest.raises(ServerError, match="are not there: /no/where"):
        write_repository(_server({"m": {"backend": "python", "files": "/no/where"}}), tmp_path / "r")
    (tmp_path / "r2" / "m").mkdir(parents=True)
    with pytest.raises(ServerError, match="exists already"):
        write_repository(_server({"m": {"backend": "x"}}), tmp_path / "r2")


PLAN = """
model: gpt2
servers:
  a: {engine: triton, gpus: 0, models: {m: MODEL}}
loads: {l: {input_tokens: 3, concurrency: 1, requests: 2}}
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{backend: python}", "4: servers.a.models.m: backend: python needs `files`"),
        ("{backend: x, dynamic_batching: {}}", "dynamic_batching needs max_batch_size of at least 1"),
        ("{backend: x, config: {backend: y}}", "backend has a key of its own"),
        ("{backend: x, instance_group: {kind: KIND_TPU}}", "instance_group.kind: must be 'KIND_AUTO'"),
        (
            "{backend: x, max_batch_size: 2, dynamic_batching: {max_queue_delay: 3}}",
            "unknown key 'max_queue_delay'; did you mean 'max_queue_delay_microseconds'?",
        ),
        ("{backend: x, decupled: true}", "unknown key 'decupled'; did you mean 'decoupled'?"),
    ],
)
def test_a_mistake_in_a_model_and_its_line(model: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(PLAN.replace("MODEL", model), "plan.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{engine: triton}", "either `models`, to write a repository, or `repository`"),
        ("{engine: triton, repository: s3://b/m}", "`repository` needs `serve`"),
        ("{engine: triton, models: {a: {backend: x}, b: {backend: x}}}", "`serve` says which is asked: a, b"),
        ("{engine: triton, models: {a: {backend: x}}, serve: b}", "'b' is none of the models a"),
        ("{engine: triton, models: {a: {backend: x}}, options: {http-port: 1}}", "http-port is the plugin's to choose"),
    ],
)
def test_a_mistake_in_a_server(entry: str, message: str) -> None:
    text = PLAN.replace("{engine: triton, gpus: 0, models: {m: MODEL}}", entry)
    with pytest.raises(PlanError) as caught:
        parse_plan(text, "plan.yaml")
    assert message in str(caught.value)


def test_the_command_writes_a_repository_without_running(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("MODEL", "{backend: vllm}"))
    run = CliRunner().invoke(main, ["model-repository", str(tmp_path / "plan.yaml"), "a", "-o", str(tmp_path / "r")])
    assert run.exit_code == 0, run.output
    assert run.output.split() == [str(tmp_path / "r/m/1/model.json"), str(tmp_path / "r/m/config.pbtxt")]
    run = CliRunner().invoke(main, ["model-repository", str(tmp_path / "plan.yaml"), "b", "-o", str(tmp_path / "q")])
    assert run.exit_code != 0
    assert "the plan has no server 'b'" in run.output


def test_a_server_without_a_repository_has_none_to_write(tmp_path: Path) -> None:
    load = "{input_tokens: 1, output_tokens: 1, concurrency: 1, requests: 1}"
    (tmp_path / "plan.yaml").write_text(f"model: m\nservers: {{a: {{engine: vllm}}}}\nloads: {{l: {load}}}")
    run = CliRunner().invoke(main, ["model-repository", str(tmp_path / "plan.yaml"), "a", "-o", str(tmp_path / "r")])
    assert run.exit_code == 1
    assert run.output == "Error: server 'a' (engine vllm) serves no model repository\n"
