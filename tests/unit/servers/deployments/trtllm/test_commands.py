"""The commands of every step, by the flags that TensorRT-LLM's programs have had from version to version."""

import sys
from pathlib import Path

import pytest
from samples import server

from pytest_llmperf.search.snippet import launch_command
from pytest_llmperf.servers.deployments.trtllm import commands
from pytest_llmperf.servers.deployments.trtllm.commands import Ports
from pytest_llmperf.servers.deployments.trtllm.describe import describe
from pytest_llmperf.servers.engines.commands import steps

STANDINS = Path(__file__).parents[4] / "standins" / "trtllm"
SIZES = "max-batch-size: 8, input-len: 2048, output-len: 1024"
UNLOCKED = "unlocked: [precision, kv-cache-dtype]"


def engine(args="", **keys):
    more = "".join(f", {name}: {value}" for name, value in keys.items())
    return server(f"{{engine: trtllm, flow: engine, args: {{{SIZES}{args}}}, {UNLOCKED}{more}}}", model="Qwen/Qwen2-7B")


@pytest.fixture
def flags(monkeypatch):
    monkeypatch.syspath_prepend(str(STANDINS))
    import trtllm_flags

    yield trtllm_flags
    sys.modules.pop("trtllm_flags")


@pytest.mark.parametrize("version", ["0.11.0", "0.20.0", "1.0.0"])
@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16", "fp8", "int8_wo", "int4_awq", "int8_sq", "w4a8_awq"])
@pytest.mark.parametrize("cache", ["", ", kv-cache-dtype: auto"])
def test_every_version_takes_the_flags_of_an_engine(flags, monkeypatch, version, precision, cache):
    monkeypatch.setattr(flags, "version", lambda: version)
    config = engine(f", precision: {precision}, tp: 4, pp: 2{cache}")
    weights = commands.weights(config, "script", "/m", "/w")
    table = flags.QUANTIZE if config.is_quantised else flags.CONVERT
    read = flags.read("script", table, weights[2:])
    assert (read.tp_size, read.pp_size, read.model_dir, read.output_dir) == ("4", "2", "/m", "/w")
    build = flags.read("trtllm-build", flags.BUILD, commands.build(config, "/w", "/e")[1:])
    assert (build.max_batch_size, build.max_input_len, build.max_seq_len, build.workers) == ("8", "2048", "3072", "8")


@pytest.mark.parametrize("version", ["0.20.0", "1.0.0"])
def test_every_version_takes_the_flags_of_trtllm_serve(flags, monkeypatch, version):
    monkeypatch.setattr(flags, "version", lambda: version)
    config = server(
        f"{{engine: trtllm, args: {{tp: 2, {SIZES}}}, options: {{log_level: warning, trust_remote_code: true}}}}"
    )
    argv = commands.trtllm_serve(config, "/m", Ports(8000), "/o.yaml")
    read = flags.read("trtllm-serve", flags.SERVE, argv[1:])
    assert (read.model, read.tp_size, read.max_seq_len, read.extra_llm_api_options) == ("/m", "2", "3072", "/o.yaml")
    assert (read.host, read.trust_remote_code, read.log_level) == ("127.0.0.1", True, "warning")


def test_quantising_and_converting():
    fp8 = engine(", precision: fp8, kv-cache-dtype: auto, tp: 2", convert="{calib_size: 32, calib_dataset: /d}")
    assert " ".join(commands.weights(fp8, "q.py", "/m", "/w")) == (
        "python3 q.py --model_dir /m --output_dir /w --tp_size 2 --pp_size 1 --qformat fp8 --kv_cache_dtype fp8 "
        "--calib_size 32 --calib_dataset /d"
    )
    fp16 = engine(", precision: fp16, kv-cache-dtype: int8", programs="{python: /venv/bin/python}")
    assert " ".join(commands.weights(fp16, "c.py", "/m", "/w")) == (
        "/venv/bin/python c.py --model_dir /m --output_dir /w --tp_size 1 --pp_size 1 --dtype float16 --int8_kv_cache"
    )


def test_building():
    config = engine(", precision: bf16, gemm-plugin: auto, use-paged-context-fmha: true, paged_kv_cache: false")
    assert " ".join(commands.build(config, "/w", "/e")) == (
        "trtllm-build --checkpoint_dir /w --output_dir /e --max_batch_size 8 --max_input_len 2048 "
        "--max_seq_len 3072 --workers 1 --gpt_attention_plugin bfloat16 --gemm_plugin auto "
        "--use_paged_context_fmha enable --paged_kv_cache disable"
    )


def test_a_long_prompt_fits_into_one_batch():
    config = server(
        f"{{engine: trtllm, flow: engine, args: {{max-batch-size: 1, input-len: 9000, output-len: 10}}, {UNLOCKED}}}"
    )
    assert "--max_num_tokens 9000" in " ".join(commands.build(config, "/w", "/e"))


@pytest.mark.parametrize(
    ("model_type", "given", "expected"), [("qwen2", "", "qwen"), ("llama", "", "llama"), ("qwen2", "mine", "mine")]
)
def test_the_family_of_a_model(model_type, given, expected):
    assert commands.family(engine(family=given or "''"), model_type) == expected


def test_a_rank_per_gpu_under_mpirun():
    words = commands.triton(engine(", tp: 2"), "/r", Ports(1, 2, 3), "region")
    first, second = " ".join(words).removeprefix("mpirun --allow-run-as-root ").split(" : ")
    common = (
        "-n 1 tritonserver --model-repository=/r --http-address=127.0.0.1 --http-port=1 --grpc-address=127.0.0.1 "
        "--grpc-port=2 --metrics-address=127.0.0.1 --metrics-port=3 --exit-timeout-secs=5 "
        "--backend-config=python,shm-region-prefix-name=region_{}_ --disable-auto-complete-config"
    )
    assert first == common.format(0)
    assert second == f"{common.format(1)} --model-control-mode=explicit --load-model=tensorrt_llm"


def test_one_gpu_needs_no_mpirun():
    config = engine(gpus=0, options="{log-verbose: 1}")
    words = commands.triton(config, "/r", Ports(1, 2, 3), "region")
    assert words[0] == "tritonserver"
    assert words[-3:] == ["--allow-gpu-metrics=false", "--disable-auto-complete-config", "--log-verbose=1"]


def test_model_yaml_of_the_llm_api():
    args = f"tp: 8, {SIZES}, precision: bf16, kv-cache-dtype: fp8, kv-cache-config: {{free_gpu_memory_fraction: 0.7}}"
    entry = f"{{engine: trtllm, flow: llmapi, args: {{{args}}}, {UNLOCKED}}}"
    assert commands.model_yaml(server(entry), "/m") == {
        "model": "/m",
        "backend": "pytorch",
        "tensor_parallel_size": 8,
        "pipeline_parallel_size": 1,
        "max_batch_size": 8,
        "max_seq_len": 3072,
        "dtype": "bfloat16",
        "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.7},
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
    # model.py itself tells Triton whether it streams, which that flag would forbid.
    assert "--disable-auto-complete-config" not in commands.triton(server(entry), "/r", Ports(), "x")


def test_a_dry_run_shows_the_steps():
    config = engine(", precision: fp8, tp: 4, pp: 2", env="{HF_TOKEN: '${HF_TOKEN}'}", template="{max_queue_size: 64}")
    lines = steps(config)
    assert [line.partition(": ")[0] for line in lines] == [
        "step 1/5 download",
        "step 2/5 quantize",
        "step 3/5 build",
        "step 4/5 repository",
        "step 5/5 serve",
        "environment",
    ]
    assert "max_queue_size=64" in lines[3]
    assert lines[4].endswith("--load-model=tensorrt_llm (and 6 more ranks like the last)")
    assert lines[5] == 'environment: HF_TOKEN="${HF_TOKEN}"'
    assert launch_command(config, ()) == "; ".join(lines), "as a search tells its best"
    local = server("{engine: trtllm, model: /m}")
    assert list(describe(local)) == [
        "step 1/1 serve: trtllm-serve /m --host 127.0.0.1 --port PORT --tp_size 1 --pp_size 1"
    ]
