"""Flags of TensorRT-LLM's programs, version by version, as their argument parsers have them."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Sequence

VERSIONS = ("0.11", "0.20", "1")
"""Beginnings of the versions that are known; the last one stands for all of 1.x."""

# Names alone are values; `=` is a switch, `:` lists what is allowed.
_SWITCH = "enable|disable"
_PLUGIN = "auto|float16|float32|bfloat16|fp8|disable"
BUILD = {
    "all": """
    checkpoint_dir model_config build_config model_cls_file model_cls_name output_dir max_batch_size max_input_len
    max_seq_len max_beam_width max_num_tokens opt_num_tokens max_encoder_input_len max_prompt_embedding_table_size
    input_timing_cache output_timing_cache profiling_verbosity:layer_names_only|detailed|none strip_plan=
    weight_sparsity= weight_streaming= workers log_level enable_debug_output= visualize_network dry_run= logits_dtype
    gather_context_logits= gather_generation_logits= gather_all_token_logits= lora_dir lora_ckpt_source
    lora_target_modules max_lora_rank speculative_decoding_mode max_draft_len paged_kv_cache
    bert_attention_plugin@ gpt_attention_plugin@ gemm_plugin@ gemm_swiglu_plugin@ lora_plugin@ moe_plugin@
    mamba_conv1d_plugin@ nccl_plugin@ context_fmha! remove_input_padding! tokens_per_block use_paged_context_fmha!
    use_fp8_context_fmha! multiple_profiles! paged_state! streamingllm! reduce_fusion!
    """,
    "0.11": """
    use_fused_mlp= builder_opt lookup_plugin@ context_fmha_fp32_acc! use_custom_all_reduce!
    multi_block_mode! enable_xqa! attention_qk_half_accumulation! use_context_fmha_for_generation!
    """,
    "0.20": """
    kv_cache_type:continuous|paged|disabled fast_build= monitor_memory= fp8_rowwise_gemm_plugin@
    low_latency_gemm_plugin@ low_latency_gemm_swiglu_plugin@ gemm_allreduce_plugin@ dora_plugin!
    bert_context_fmha_fp32_acc! fuse_fp4_quant! norm_quant_fusion! user_buffer! use_fused_mlp! pp_reduce_scatter!
    """,
}
BUILD["1"] = BUILD["0.20"]
QUANTIZE = {
    "all": """
    model_dir nemo_ckpt_path decoder_type device:cuda|cpu calib_dataset calib_tp_size calib_pp_size seed
    tokenizer_max_seq_length batch_size calib_size calib_max_seq_length output_dir tp_size pp_size awq_block_size
    kv_cache_dtype:int8|fp8 num_medusa_heads num_medusa_layers max_draft_len medusa_hidden_act medusa_model_dir
    """,
    "0.11": """
    dtype:float16|bfloat16|float32 qformat:fp8|int8_sq|int4_awq|w4a8_awq|int8_wo|int4_wo|full_prec
    """,
    "0.20": """
    dtype:auto|float16|bfloat16|float32 qformat:nvfp4|fp8|int8_sq|int4_awq|w4a8_awq|int8_wo|int4_wo|full_prec cp_size
    device_map autoq_format auto_quantize_bits quantize_lm_head= quant_medusa_head=
    """,
    "1": "export_format:tensorrt_llm|hf",
}
QUANTIZE["1"] += QUANTIZE["0.20"]
CONVERT = {
    "all": """
    model_dir output_dir tp_size pp_size use_weight_only= disable_weight_only_quant_plugin= calib_dataset smoothquant
    per_channel= per_token= int8_kv_cache= per_group= group_size load_model_on_cpu= use_parallel_embedding=
    embedding_sharding_dim:0|1 workers moe_tp_size moe_ep_size
    """,
    "0.11": "dtype:float32|bfloat16|float16 weight_only_precision:int8|int4|int4_gptq use_embedding_sharing=",
    "0.20": "dtype:auto|float16|bfloat16|float32 weight_only_precision:int8|int4|int4_gptq|int8_gptq cp_size",
}
CONVERT["1"] = CONVERT["0.20"]
SERVE = {
    "all": """
    tokenizer host port backend:pytorch|tensorrt|trt|_autodeploy log_level max_beam_width max_batch_size
    max_num_tokens max_seq_len tp_size pp_size ep_size cluster_size gpus_per_node kv_cache_free_gpu_memory_fraction
    num_postprocess_workers trust_remote_code= extra_llm_api_options reasoning_parser
    """,
    "0.20": "",
    "1": """
    metadata_server_config_file server_role fail_fast_on_attention_window_too_large= enable_chunked_prefill=
    disagg_cluster_uri media_io_kwargs
    """,
}
TRITON = """
model-repository http-address http-port grpc-address grpc-port metrics-address metrics-port exit-timeout-secs
backend-config allow-gpu-metrics disable-auto-complete-config= model-control-mode:none|poll|explicit load-model
log-verbose log-file cuda-memory-pool-byte-size pinned-memory-pool-byte-size backend-directory
"""


def version() -> str:
    """The version that is installed, as the real programs have it."""
    return importlib.metadata.version("tensorrt_llm")


def line() -> str:
    """The version's line of VERSIONS."""
    return next(start for start in VERSIONS if version().startswith(f"{start}."))


def read(program: str, table: dict[str, str], argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; an unknown flag or value ends the program with 2, as the real ones do."""
    if line() not in table:
        raise SystemExit(f"{program}: there was none before TensorRT-LLM {sorted(table)[0]}")
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    if program == "trtllm-serve":
        parser.add_argument("model")
    for word in (table["all"] + " " + table[line()]).split():
        _add(parser, word)
    return parser.parse_args(argv)


def _add(parser: argparse.ArgumentParser, word: str) -> None:
    name, _, choices = word.partition(":")
    flag = f"--{name.rstrip('=@!')}"
    if name.endswith("="):
        parser.add_argument(flag, action="store_true")
    else:
        allowed = _PLUGIN if name.endswith("@") else _SWITCH if name.endswith("!") else choices
        parser.add_argument(flag, choices=allowed.split("|") if allowed else None)
