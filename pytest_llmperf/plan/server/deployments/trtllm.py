"""TensorRT-LLM in a plan: from a Hugging Face model to an engine in Triton, to the LLM API, or to trtllm-serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from pytest_llmperf.definitions import did_you_mean
from pytest_llmperf.plan.fields import EntryError, Seconds
from pytest_llmperf.plan.server.base import ArgValue, LaunchedServer, counted_from, refuse_secrets
from pytest_llmperf.plan.server.engines.triton.model import ParameterValue

PRECISIONS = ("auto", "fp16", "bf16", "fp8", "nvfp4", "int8_wo", "int4_wo", "int4_awq", "w4a8_awq", "int8_sq")
"""`auto` is the model's own; fp16 and bf16 convert it; the others are quantised, most of them with calibration."""
DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
"""TensorRT-LLM's names of the precisions that are a data type."""
_ENGINE_ONLY = ("int8_wo", "int4_wo", "int8_sq")
_KV_CACHES = ("auto", "fp8", "int8")
_KV_OF = {"fp8": "fp8", "nvfp4": "fp8", "int8_wo": "int8", "int8_sq": "int8"}
_COUNTS = ("max-batch-size", "input-len", "output-len")
_ELSEWHERE = {
    "data-parallel-size": "TensorRT-LLM has none on one machine: write `replicas`",
    "max-input-len": "write input-len",
    "max-seq-len": "it is input-len + output-len",
    "max-output-len": "write output-len",
    "dtype": "write precision",
    "quantization": "write precision",
    "model": "it is the entry's `model`",
    "checkpoint-dir": "folders are made in `cache`",
    "output-dir": "folders are made in `cache`",
}
"""Arguments of TensorRT-LLM's programs that have another word here."""
_OURS = {
    "convert": ("model_dir", "output_dir", "tp_size", "pp_size", "qformat", "kv_cache_dtype", "export_format"),
    "options": (
        *("host", "port", "tp_size", "pp_size", "max_batch_size", "max_seq_len", "extra_llm_api_options", "config"),
        *("model-repository", "http-address", "http-port", "grpc-address", "grpc-port", "metrics-address"),
        *("metrics-port", "exit-timeout-secs", "backend-config", "model-control-mode", "load-model"),
    ),
    "template": ("engine_dir", "tokenizer_dir", "decoupled_mode", "tensorrt_llm_model_name"),
}
"""Flags and placeholders that keys of ours fill."""
PROGRAMS = ("python", "hf", "trtllm-build", "trtllm-serve", "tritonserver", "mpirun")
OWN_ARGS = ("tensor-parallel-size", "pipeline-parallel-size", "precision", "kv-cache-dtype", "revision", *_COUNTS)
"""Arguments with a meaning of ours; all others are handed on as they are."""


class TrtllmServer(LaunchedServer):
    """A model that is fetched, converted or quantised, built and served, each step once for equal inputs.

    `args` beside OWN_ARGS are flags of trtllm-build (`flow: engine`) or arguments of the LLM API (the other flows).
    """

    paths: ClassVar[tuple[str, ...]] = ("model", "cache", "examples", "templates")

    engine: Literal["trtllm"]
    flow: Literal["engine", "llmapi", "serve"] = "serve"
    """`engine`: trtllm-build, then Triton on an ensemble; `llmapi`: Triton on LLM API's model.yaml; `serve`:
    trtllm-serve."""
    streaming: bool = True
    """True if Triton's models answer token by token (decoupled)."""
    serve: Literal["ensemble", "tensorrt_llm_bls"] = "ensemble"
    """The model of Triton that is asked, of `flow: engine`."""
    template: dict[str, ParameterValue] = {}
    """Placeholders of the config.pbtxt templates, in the place of our values or beside them; of `flow: engine`."""
    convert: dict[str, ParameterValue] = {}
    """More flags of quantize.py or convert_checkpoint.py, such as calib_size; paths may count from the plan file."""
    options: dict[str, ParameterValue] = {}
    """More flags of tritonserver, or of trtllm-serve, without dashes."""
    family: str = ""
    """Folder of examples/ with the model's convert_checkpoint.py; default: as the model's config.json says."""
    examples: str = ""
    """TensorRT-LLM's folder examples/; default: where NVIDIA's images have it."""
    templates: str = ""
    """The folder all_models/ with Triton's templates; default: where NVIDIA's images have it."""
    cache: str = "~/.cache/llmperf-trtllm"
    """Folder for checkpoints and engines, which several runs share. Models are in Hugging Face's own cache."""
    programs: dict[str, str] = {}
    """Paths of programs that are not those on PATH: python, hf, trtllm-build, trtllm-serve, tritonserver, mpirun."""
    ready_timeout: Seconds = 4 * 3600.0
    exit_timeout: Seconds = 5.0
    """Seconds in which it may finish requests when it is stopped."""

    @field_validator("args", mode="after")
    @classmethod
    def _known_values(cls, args: dict[str, ArgValue]) -> dict[str, ArgValue]:
        for name in args.keys() & _ELSEWHERE.keys():
            raise EntryError(f"{name} is no argument of this engine: {_ELSEWHERE[name]}", name)
        for name, allowed in (("precision", PRECISIONS), ("kv-cache-dtype", _KV_CACHES)):
            if (given := args.get(name)) is not None and given not in allowed:
                hint = did_you_mean(str(given), list(allowed))
                raise EntryError(f"{name} is one of {', '.join(allowed)}, not {given!r}{hint}", name)
        for name in _COUNTS:
            given = args.get(name, 1)
            if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
                raise EntryError(f"{name} is a whole number of at least 1, not {given!r}", name)
        return args

    @field_validator("programs", mode="after")
    @classmethod
    def _known_programs(cls, programs: dict[str, str]) -> dict[str, str]:
        for name in programs:
            if name not in PROGRAMS:
                raise EntryError(f"{name!r} is none of {', '.join(PROGRAMS)}{did_you_mean(name, PROGRAMS)}", name)
        return programs

    @field_validator("options", "convert", "template", mode="after")
    @classmethod
    def _flags(cls, flags: dict[str, ParameterValue], info: ValidationInfo) -> dict[str, ParameterValue]:
        refuse_secrets(flags)
        for name in flags:
            if name.lstrip("-") in _OURS[str(info.field_name)]:
                raise EntryError(f"{name} follows from the other keys of the entry, or is the plugin's to choose", name)
        return {name.lstrip("-"): value for name, value in flags.items()}

    @model_validator(mode="after")
    def _fits_the_flow(self) -> TrtllmServer:
        if self.flow != "engine":
            for field in ("template", "family"):
                if getattr(self, field):
                    raise EntryError(f"{field} is of `flow: engine` only", field)
            for name, value in (("precision", self.precision), ("kv-cache-dtype", self.kv_cache)):
                if value in (*_ENGINE_ONLY, "int8"):
                    raise EntryError(f"{name}: {value} needs `flow: engine`; the LLM API has none", "args", name)
        else:
            for name in _COUNTS:
                if self.args.get(name) is None:
                    raise EntryError(f"`flow: engine` needs {name}: an engine is built for it", "args")
            batch, most = self.template.get("triton_max_batch_size", 1), self.args["max-batch-size"]
            if not isinstance(batch, int) or batch > int(str(most)):
                problem = f"triton_max_batch_size: {batch} is more than the engine's max-batch-size: {most}"
                raise EntryError(problem, "template", "triton_max_batch_size")
        return self

    def located(self, folder: Path) -> Self:
        programs = {name: counted_from(folder, path) for name, path in self.programs.items()}
        convert = {k: counted_from(folder, v) if isinstance(v, str) else v for k, v in self.convert.items()}
        return super().located(folder).model_copy(update={"programs": programs, "convert": convert})

    @property
    def output_args(self) -> dict[str, ArgValue]:
        """The arguments that change output; how the model was quantised is one of them."""
        return super().output_args | {f"convert.{name}": value for name, value in sorted(self.convert.items())}

    @property
    def precision(self) -> str:
        """One of PRECISIONS."""
        return str(self.args.get("precision") or "auto")

    @property
    def is_quantised(self) -> bool:
        """True if quantize.py makes its weights."""
        return self.precision != "auto" and self.precision not in DTYPES

    @property
    def kv_cache(self) -> str | None:
        """Data type of the KV cache, fp8 or int8; None: the model's own. `auto` goes with the precision."""
        given = self.args.get("kv-cache-dtype")
        return _KV_OF.get(self.precision) if given == "auto" else None if given is None else str(given)

    @property
    def tp(self) -> int:
        """Tensor parallel size."""
        return int(str(self.args.get("tensor-parallel-size") or 1))

    @property
    def pp(self) -> int:
        """Pipeline parallel size."""
        return int(str(self.args.get("pipeline-parallel-size") or 1))

    @property
    def max_seq_len(self) -> int | None:
        """Longest request, prompt and answer, in tokens; None where the plan does not give both lengths."""
        lengths = [self.args.get(name) for name in ("input-len", "output-len")]
        return sum(int(str(length)) for length in lengths) if None not in lengths else None

    @property
    def other_args(self) -> Mapping[str, Any]:
        """Arguments that are handed on, by TensorRT-LLM's names."""
        return {name.replace("-", "_"): value for name, value in self.args.items() if name not in OWN_ARGS}

    @property
    def is_local_model(self) -> bool:
        """True if `model` is a folder, not the name of a repository of Hugging Face."""
        return self.model.startswith(("/", "./", "../"))

    @property
    def served_model(self) -> str:
        """The name under which it answers. trtllm-serve takes the last part of the folder that it serves, which is told
        when it is up: until then that of the plan's model."""
        return {"engine": self.serve, "llmapi": "tensorrt_llm", "serve": Path(self.model).name}[self.flow]
