"""The exact commands and files of every step, from a configuration and the folders that the steps before made. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_llmperf.plan.server.deployments.trtllm import DTYPES, TrtllmServer
from pytest_llmperf.servers.process.process import LOOPBACK

_BUILD_TOKENS = 8192
"""trtllm-build's own max_num_tokens: a longer prompt must fit into one batch unless its context is cut into pieces."""
_FAMILIES = {
    "qwen2": "qwen",
    "qwen2_moe": "qwen",
    "qwen3": "qwen",
    "qwen3_moe": "qwen",
    "mistral": "llama",
    "mixtral": "mixtral",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "phi3": "phi",
    "gpt2": "gpt",
    "gpt_bigcode": "gpt",
    "starcoder2": "gpt",
}
"""Folders of examples/ that are not called as the `model_type` of a model's config.json."""


class Ports(NamedTuple):
    """Ports that a replica listens on; `grpc` and `metrics` are Triton's."""

    http: int | str = "PORT"
    grpc: int | str = "GRPC_PORT"
    metrics: int | str = "METRICS_PORT"


def download(config: TrtllmServer) -> list[str]:
    """`hf download`, which goes on where it was broken off and prints the folder."""
    revision = config.args.get("revision")
    return [program(config, "hf"), "download", config.model, *(["--revision", str(revision)] if revision else [])]


def program(config: TrtllmServer, name: str) -> str:
    """The path that the plan has for a program, else its name."""
    return config.programs.get(name, "python3" if name == "python" else name)


def family(config: TrtllmServer, model_type: str) -> str:
    """The folder of examples/ for a model, by the `model_type` of its config.json unless the plan says it."""
    return config.family or _FAMILIES.get(model_type, model_type)


def makes_weights(config: TrtllmServer) -> bool:
    """True if a step quantises or converts: an engine needs a checkpoint, the LLM API weights that are quantised."""
    return config.flow == "engine" or config.is_quantised


def weights(config: TrtllmServer, script: str, model: str, out: str) -> list[str]:
    """quantize.py, or the family's convert_checkpoint.py where nothing is quantised.

    The weights' own data type is the script's default unless the precision or `convert` says it.
    """
    flags: dict[str, Any] = {"model_dir": model, "output_dir": out, "tp_size": config.tp, "pp_size": config.pp}
    if config.is_quantised:
        flags |= {"qformat": config.precision}
        if config.kv_cache:
            flags["kv_cache_dtype"] = config.kv_cache
        if config.flow != "engine":
            flags["export_format"] = "hf"
    else:
        if config.precision in DTYPES:
            flags["dtype"] = DTYPES[config.precision]
        if config.kv_cache:
            flags[f"{config.kv_cache}_kv_cache"] = True
    return [program(config, "python"), script, *spaced(flags | config.convert)]


def build(config: TrtllmServer, checkpoint: str, out: str) -> list[str]:
    """trtllm-build; the split over GPUs is the checkpoint's."""
    longest = int(str(config.args["input-len"]))
    flags: dict[str, Any] = {
        "checkpoint_dir": checkpoint,
        "output_dir": out,
        "max_batch_size": config.args["max-batch-size"],
        "max_input_len": longest,
        "max_seq_len": config.max_seq_len,
        "workers": config.tp * config.pp,
    }
    if longest > _BUILD_TOKENS:
        flags["max_num_tokens"] = longest
    if dtype := DTYPES.get(config.precision):
        flags |= {"gpt_attention_plugin": dtype, "gemm_plugin": dtype}
    switches = {name: ("enable" if value else "disable") for name, value in config.other_args.items() if value is True}
    switches |= {name: "disable" for name, value in config.other_args.items() if value is False}
    return [program(config, "trtllm-build"), *spaced(flags | dict(config.other_args) | switches)]


def llm_arguments(config: TrtllmServer) -> dict[str, Any]:
    """Arguments of the LLM API beside the model, the split over GPUs and the sizes that both flows name themselves."""
    own: dict[str, Any] = {}
    if config.precision in DTYPES:
        own["dtype"] = DTYPES[config.precision]
    if config.kv_cache:
        own["kv_cache_config"] = {"dtype": config.kv_cache}
    given = dict(config.other_args)
    for name in own.keys() & given.keys():
        if isinstance(own[name], Mapping) and isinstance(given[name], Mapping):
            given[name] = {**own[name], **given[name]}
    return own | given


def model_yaml(config: TrtllmServer, model: str) -> dict[str, Any]:
    """The LLM API's model.yaml in Triton."""
    sizes = {"max_batch_size": config.args.get("max-batch-size"), "max_seq_len": config.max_seq_len}
    return {
        "model": model,
        "backend": "pytorch",
        "tensor_parallel_size": config.tp,
        "pipeline_parallel_size": config.pp,
        **{name: size for name, size in sizes.items() if size is not None},
        **llm_arguments(config),
        # Triton itself forms no batches: the engine does.
        "triton_config": {"max_batch_size": 0, "decoupled": config.streaming},
    }


def trtllm_serve(config: TrtllmServer, model: str, ports: Ports, options: Path | str | None) -> list[str]:
    """trtllm-serve; what has no flag of its own is in the file `options`."""
    flags: dict[str, Any] = {"host": LOOPBACK, "port": ports.http, "tp_size": config.tp, "pp_size": config.pp}
    for name, size in (("max_batch_size", config.args.get("max-batch-size")), ("max_seq_len", config.max_seq_len)):
        if size is not None:
            flags[name] = size
    if options is not None:
        flags["extra_llm_api_options"] = options
    return [program(config, "trtllm-serve"), model, *spaced(flags | config.options)]


def triton(config: TrtllmServer, repository: str, ports: Ports, name: str) -> list[str]:
    """tritonserver, once per rank under mpirun where an engine is spread over GPUs, as launch_triton_server.py does.

    `name` is the server's own in shared memory. The LLM API starts its other ranks itself, and its model.py tells
    Triton whether it streams, so its configuration must be completed.
    """
    ranks = config.tp * config.pp if config.flow == "engine" else 1
    if ranks == 1:
        return _tritonserver(config, repository, ports, f"{name}_0_", first=True)
    words = [program(config, "mpirun"), "--allow-run-as-root"]
    for rank in range(ranks):
        words += [*([":"] if rank else []), "-n", "1"]
        words += _tritonserver(config, repository, ports, f"{name}_{rank}_", first=rank == 0)
    return words


def _tritonserver(config: TrtllmServer, repository: str, ports: Ports, region: str, *, first: bool) -> list[str]:
    flags: dict[str, Any] = {
        "model-repository": repository,
        "http-address": LOOPBACK,
        "http-port": ports.http,
        "grpc-address": LOOPBACK,
        "grpc-port": ports.grpc,
        "metrics-address": LOOPBACK,
        "metrics-port": ports.metrics,
        "exit-timeout-secs": round(config.exit_timeout),
        "backend-config": f"python,shm-region-prefix-name={region}",
    }
    if config.gpu_count == 0:
        flags["allow-gpu-metrics"] = False
    if config.flow == "engine":
        flags["disable-auto-complete-config"] = None
    if not first:
        flags |= {"model-control-mode": "explicit", "load-model": "tensorrt_llm"}
    return [program(config, "tritonserver"), *_joined(flags | config.options)]


def _joined(flags: Mapping[str, Any]) -> Iterator[str]:
    """`--name=value`; None gives the name alone, for the one flag of tritonserver that takes no value."""
    for name, value in flags.items():
        text = str(value).lower() if isinstance(value, bool) else value
        yield f"--{name}" if value is None else f"--{name}={text}"


def spaced(flags: Mapping[str, Any]) -> Iterator[str]:
    """`--name value`; true gives the name alone, false and None nothing."""
    for name, value in flags.items():
        if value is True:
            yield f"--{name}"
        elif value is not False and value is not None:
            yield from (f"--{name}", *map(str, value if isinstance(value, list) else [value]))


def template_values(config: TrtllmServer, model: str, engine: str) -> dict[str, Any]:
    """Our values for the placeholders of Triton's templates; the plan's `template` stands over them."""
    batch = config.args["max-batch-size"]
    types = {"logits_datatype": "TYPE_FP32"} | dict.fromkeys(
        ("encoder_input_features_data_type", "prompt_embedding_table_data_type"), "TYPE_FP16"
    )
    counts = dict.fromkeys(
        ("preprocessing_instance_count", "postprocessing_instance_count", "bls_instance_count", "max_beam_width"), 1
    )
    return {
        **types,
        **counts,
        "triton_backend": "tensorrtllm",
        "triton_max_batch_size": batch,
        "engine_dir": engine,
        "tokenizer_dir": model,
        "decoupled_mode": config.streaming,
        "batching_strategy": "inflight_fused_batching",
        "max_queue_delay_microseconds": 0,
        "max_queue_size": 0,
        "exclude_input_in_output": True,
        "accumulate_tokens": False,
        "add_special_tokens": True,
        "skip_special_tokens": True,
        "tensorrt_llm_model_name": "tensorrt_llm",
    }
