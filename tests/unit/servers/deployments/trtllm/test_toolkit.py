"""Where scripts and templates are looked for: TensorRT-LLM has moved them from version to version."""

import json
import sys

import pytest
from samples import server

from pytest_llmperf.servers.deployments.trtllm import toolkit
from pytest_llmperf.servers.deployments.trtllm.steps import StepError

SIZES = "max-batch-size: 8, input-len: 20, output-len: 10"


def engine(examples, args="", **keys):
    more = "".join(f", {name}: {value}" for name, value in {"examples": examples, **keys}.items())
    return server(f"{{engine: trtllm, flow: engine, args: {{{SIZES}{args}}}, unlocked: [precision]{more}}}")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    return folder


def script(folder):
    folder.mkdir(parents=True)
    path = folder / "convert_checkpoint.py"
    path.touch()
    return path


@pytest.mark.parametrize("place", ["qwen", "models/core/qwen", "models/contrib/qwen"])
def test_the_script_of_a_family(tmp_path, model, place):
    path = script(tmp_path / "examples" / place)
    assert toolkit.weights_script(engine(tmp_path / "examples"), model) == path


def test_the_family_that_the_plan_names(tmp_path, model):
    path = script(tmp_path / "examples" / "mine")
    assert toolkit.weights_script(engine(tmp_path / "examples", family="mine"), model) == path


def test_what_was_tried_is_told(tmp_path, model):
    (tmp_path / "examples").mkdir()
    with pytest.raises(StepError) as error:
        toolkit.weights_script(engine(tmp_path / "examples"), model)
    for place in ("models/core/qwen", "models/contrib/qwen", "examples/qwen"):
        assert f"{place}/convert_checkpoint.py" in str(error.value)
    assert "`family` names the folder of examples/ for this model ('qwen' was tried)" in str(error.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model_type"', None])
def test_a_model_without_a_type(tmp_path, model, text):
    (model / "config.json").unlink()
    if text is not None:
        (model / "config.json").write_text(text)
    (tmp_path / "examples").mkdir()
    with pytest.raises(StepError, match="names no model_type"):
        toolkit.weights_script(engine(tmp_path / "examples"), model)


@pytest.mark.parametrize(("flow", "name"), [("engine", "inflight_batcher_llm"), ("llmapi", "llmapi")])
def test_templates_of_the_flow(tmp_path, flow, name):
    (tmp_path / name).mkdir()
    config = server(f"{{engine: trtllm, flow: {flow}, args: {{{SIZES}}}, templates: {tmp_path}}}")
    assert toolkit.templates_folder(config) == tmp_path / name


def test_where_the_images_have_them_is_tried():
    with pytest.raises(StepError, match="not there: /app/all_models/inflight_batcher_llm, /app/tensorrt_llm/"):
        toolkit.templates_folder(server(f"{{engine: trtllm, flow: engine, args: {{{SIZES}}}}}"))


def test_a_python_without_tensorrt_llm():
    config = engine("/x", programs=f"{{python: {sys.executable}}}")
    with pytest.raises(StepError, match=r"has no tensorrt_llm .*PackageNotFoundError.*names the one that has"):
        toolkit.version(config)


@pytest.mark.parametrize(
    ("entry", "programs"),
    [
        ("model: org/m", ["hf", "trtllm-serve"]),
        ("model: /m", ["trtllm-serve"]),
        ("model: org/m, args: {precision: fp8}, unlocked: [precision]", ["hf", "python", "trtllm-serve"]),
        ("flow: llmapi, model: /m, args: {tp: 8}", ["tritonserver"]),
        (f"flow: engine, model: /m, args: {{{SIZES}}}", ["python", "trtllm-build", "tritonserver"]),
        (f"flow: engine, model: /m, args: {{pp: 2, {SIZES}}}", ["python", "trtllm-build", "mpirun", "tritonserver"]),
    ],
)
def test_programs_that_are_needed(entry, programs):
    assert list(toolkit.needed_programs(server(f"{{engine: trtllm, {entry}}}"))) == programs
