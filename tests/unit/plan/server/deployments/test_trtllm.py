"""TensorRT-LLM in a plan: the matrix of a deployment script as one entry each, and what a plan may not say."""

import re
from pathlib import Path

import pytest
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import load_plan, parse_plan

DOCS = Path(__file__).parents[5] / "docs"
MATRIX = """
  qwen2_7b: {engine: trtllm, flow: engine, model: Qwen/Qwen2-7B, args: {tp: 1, SIZES}, unlocked: [precision]}
  qwen2_72b_tp4pp2: {engine: trtllm, flow: engine, args: {tp: 4, pp: 2, SIZES}, unlocked: [precision]}
""".replace(
    "SIZES",
    "precision: {sweep: [fp8, fp16, int8_wo]}, input-len: {sweep: [2048]}, output-len: {sweep: [1024]}, "
    "max-batch-size: {sweep: [4, 8]}",
)
SIZES = "max-batch-size: 8, input-len: 100, output-len: 20"


def configs(entry, **changes):
    return parse_plan(plan_text(f"  a: {entry}", **changes), "plan.yaml").server_configs()


def test_a_matrix_is_an_entry_per_model():
    plan = parse_plan(plan_text(MATRIX), "plan.yaml")
    found = {config.name: config for config in plan.server_configs()}
    assert len(found) == 12
    config = found["qwen2_72b_tp4pp2.fp8.isl2048.osl1024.bs8"]
    assert (config.tp, config.pp, config.gpu_count, config.max_seq_len) == (4, 2, 8, 3072)
    assert (config.precision, config.is_quantised) == ("fp8", True)
    assert dict(config.output_args) == {"precision": "fp8"}
    assert not found["qwen2_7b.fp16.isl2048.osl1024.bs4"].is_quantised


@pytest.mark.parametrize(
    ("precision", "given", "kv_cache"),
    [
        ("fp8", "auto", "fp8"),
        ("int8_wo", "auto", "int8"),
        ("fp16", "auto", None),
        ("fp16", "int8", "int8"),
        ("fp8", None, None),
    ],
)
def test_the_kv_cache_goes_with_the_precision_where_it_is_auto(precision, given, kv_cache):
    cache = f", kv-cache-dtype: {given}" if given else ""
    args = f"{{{SIZES}, precision: {precision}{cache}}}"
    (config,) = configs(f"{{engine: trtllm, flow: engine, args: {args}, unlocked: [precision, kv-cache-dtype]}}")
    assert config.kv_cache == kv_cache


def test_calibration_changes_the_output():
    (config,) = configs("{engine: trtllm, convert: {calib_size: 32}, args: {precision: fp8}, unlocked: [precision]}")
    assert config.output_args == {"precision": "fp8", "convert.calib_size": 32}


def test_paths_count_from_the_plan(tmp_path):
    path = tmp_path / "plan.yaml"
    keys = "cache: ./c, examples: ../e, programs: {hf: ./hf, mpirun: mpirun.openmpi}, convert: {calib_dataset: ./d}"
    path.write_text(plan_text(f"  a: {{engine: trtllm, model: ./m, {keys}}}"))
    (config,) = load_plan(path).server_configs()
    assert (config.model, config.cache) == (str(tmp_path / "m"), str(tmp_path / "c"))
    assert config.examples == str(tmp_path.parent / "e")
    assert config.programs == {"hf": str(tmp_path / "hf"), "mpirun": "mpirun.openmpi"}
    assert config.convert == {"calib_dataset": str(tmp_path / "d")}
    assert config.is_local_model


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("args: {precision: fp9}", "precision is one of auto, fp16, "),
        ("args: {precision: int8_wo}", "precision: int8_wo needs `flow: engine`"),
        ("args: {kv-cache-dtype: int8}", "kv-cache-dtype: int8 needs `flow: engine`"),
        ("args: {dp: 2}", "data-parallel-size is no argument of this engine: .* write `replicas`"),
        ("args: {max_seq_len: 3}", "max-seq-len is no argument of this engine: it is input-len [+] output-len"),
        ("args: {max-batch-size: 0}", "max-batch-size is a whole number of at least 1, not 0"),
        ("args: {input-len: true}", "input-len is a whole number of at least 1, not True"),
        ("args: {tp: two}", "tensor-parallel-size is a whole number"),
        ("args: {port: 80}", "port is the plugin's to choose"),
        ("flow: triton", "flow"),
        ("flow: engine", "`flow: engine` needs max-batch-size"),
        (f"flow: engine, args: {{{SIZES}, output_len: null}}", "two spellings of one argument"),
        ("flow: engine, args: {max-batch-size: 8, input-len: null, output-len: 1}", "`flow: engine` needs input-len"),
        (f"flow: engine, args: {{{SIZES}}}, serve: tensorrt_llm", "ensemble"),
        ("template: {max_queue_size: 3}", "template is of `flow: engine` only"),
        ("programs: {trtllm_build: x}", "'trtllm_build' is none of .*trtllm-build"),
        ("env: {HF_TOKEN: hf_0123}", "HF_TOKEN holds a secret in plain text"),
        ("convert: {hf-token: hf_0123}", "holds a secret in plain text"),
        ("max_batch: 3", "max_batch"),
        ("convert: {--tp_size: 2}", "tp_size follows from the other keys"),
        ("options: {port: 80}", "port follows from the other keys"),
        (f"flow: engine, args: {{{SIZES}}}, template: {{engine_dir: /e}}", "engine_dir follows from the other keys"),
        (
            f"flow: engine, args: {{{SIZES}}}, template: {{triton_max_batch_size: 9}}",
            "9 is more than .*max-batch-size: 8",
        ),
    ],
)
def test_mistakes_are_told_with_their_line(entry, problem):
    with pytest.raises(PlanError, match=problem) as error:
        configs(f"{{engine: trtllm, {entry}, unlocked: [precision, kv-cache-dtype]}}")
    assert re.search(r":\d+: ", str(error.value)), error.value


@pytest.mark.parametrize(
    ("page", "name", "count"),
    [("trtllm.md", "engine", 3), ("guides/trtllm.md", "qwen2_72b_tp4pp2.int8_wo.isl2048.osl1024.bs4", 24)],
)
def test_the_plans_of_the_docs(page, name, count):
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    plan = parse_plan(text, page)
    assert len(plan.server_configs()) == count
    assert plan.server(name).gpu_count == 8
