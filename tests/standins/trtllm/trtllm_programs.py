"""What stands in for TensorRT-LLM's programs: they check every flag and make files of the real layout.

The environment variable STANDIN_FAULT is `PROGRAM: what it says`, with which the program fails; STANDIN_HANG names one
that makes half of its files and then waits until it is ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trtllm_flags as flags

sys.path.append(str(Path(__file__).parent / "site"))  # where nothing else is installed, TensorRT-LLM is 1.0.0

COMMIT = "9f2c1a7be0d34c55a1f2b3c4d5e6f70812345678"
ALGORITHMS = {"fp8": "FP8", "nvfp4": "NVFP4", "int8_wo": "W8A16", "int4_wo": "W4A16", "int4_awq": "W4A16_AWQ"}
CHILD_KILL_S = 1.0
"""mpirun gives its ranks no more than this after a TERM."""


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def begin(program: str) -> None:
    """Fails where the test wants it."""
    where, _, what = os.environ.get("STANDIN_FAULT", "").partition(": ")
    if where == program:
        say(f"[TensorRT-LLM] TensorRT-LLM version: {flags.version()}")
        raise SystemExit(_traceback(program, what))


def _traceback(program: str, what: str) -> int:
    say(f'Traceback (most recent call last):\n  File "{program}", line 1, in <module>\n    main()\n{what}')
    return 1


def half_done(program: str) -> None:
    """Called when half of the files are there."""
    if os.environ.get("STANDIN_HANG") == program:
        say(f"{program} is busy")
        signal.pause()


def hf(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="hf")
    commands = parser.add_subparsers(required=True)
    download = commands.add_parser("download")
    download.add_argument("repo")
    download.add_argument("--revision", default="main")
    given = download.parse_args(argv[1:]) if argv[:1] == ["download"] else parser.parse_args(argv)
    begin("hf")
    if given.repo.startswith("gated/") and not os.environ.get("HF_TOKEN"):
        say(f"Error: Access denied. This repository requires approval: {given.repo}")
        return 1
    home = Path(os.environ.get("HF_HOME", Path(tempfile.gettempdir(), "llmperf-standin-models")))
    commit = COMMIT if given.revision == "main" else given.revision
    folder = home / "hub" / f"models--{given.repo.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    half_done("hf")
    (folder / "tokenizer.json").write_text("{}")
    say("Fetching 2 files: 100%|##########| 2/2 [00:00<00:00, 88.11it/s]")
    sys.stdout.write(f"{folder}\n")
    return 0


def quantize(argv: Sequence[str]) -> int:
    given = flags.read("quantize.py", flags.QUANTIZE, argv)
    begin("quantize.py")
    as_hf = getattr(given, "export_format", None) == "hf"
    quantization = {"quant_algo": ALGORITHMS.get(given.qformat), "kv_cache_quant_algo": given.kv_cache_dtype}
    return _write_weights(given, "quantize.py", quantization, as_hf)


def convert(argv: Sequence[str]) -> int:
    given = flags.read("convert_checkpoint.py", flags.CONVERT, argv)
    begin("convert_checkpoint.py")
    cache = "INT8" if given.int8_kv_cache else None
    return _write_weights(given, "convert_checkpoint.py", {"quant_algo": None, "kv_cache_quant_algo": cache}, False)


def _write_weights(given: argparse.Namespace, program: str, quantization: dict[str, Any], as_hf: bool) -> int:
    model = json.loads(Path(given.model_dir, "config.json").read_text())
    out = Path(given.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    say(f"[TensorRT-LLM] TensorRT-LLM version: {flags.version()}")
    mapping = _mapping(int(given.tp_size or 1), int(given.pp_size or 1))
    if as_hf:
        _write_safetensors(out / "model.safetensors")
        half_done(program)
        (out / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
        (out / "config.json").write_text(json.dumps(model))
        return 0
    for rank in range(mapping["world_size"]):
        _write_safetensors(out / f"rank{rank}.safetensors")
        half_done(program)
    config = {"architecture": model["architectures"][0], "dtype": given.dtype or "float16", "mapping": mapping}
    (out / "config.json").write_text(json.dumps({**config, "quantization": quantization}))
    return 0


def _mapping(tp: int, pp: int) -> dict[str, int]:
    return {"world_size": tp * pp, "tp_size": tp, "pp_size": pp}


def _write_safetensors(path: Path) -> None:
    header = json.dumps({"lm_head.weight": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")


def build(argv: Sequence[str]) -> int:
    given = flags.read("trtllm-build", flags.BUILD, argv)
    begin("trtllm-build")
    checkpoint = json.loads(Path(given.checkpoint_dir, "config.json").read_text())
    ranks = checkpoint["mapping"]["world_size"]
    for rank in range(ranks):
        assert Path(given.checkpoint_dir, f"rank{rank}.safetensors").stat().st_size
    out = Path(given.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    for rank in range(ranks):
        (out / f"rank{rank}.engine").write_bytes(b"ftrt" + bytes(60))
        half_done("trtllm-build")
    sizes = {name: int(getattr(given, name)) for name in ("max_batch_size", "max_input_len", "max_seq_len")}
    document = {"version": flags.version(), "pretrained_config": checkpoint, "build_config": sizes}
    (out / "config.json").write_text(json.dumps(document))
    say(f"[TensorRT-LLM] [I] Total time of building all engines: 00:00:0{ranks}")
    return 0


def serve(argv: Sequence[str]) -> int:
    import yaml

    given = flags.read("trtllm-serve", flags.SERVE, argv)
    begin("trtllm-serve")
    assert Path(given.model, "config.json").is_file(), given.model
    if given.extra_llm_api_options:
        options = yaml.safe_load(Path(given.extra_llm_api_options).read_text())
        say(f"[TensorRT-LLM] [I] LLM API options: {json.dumps(options, sort_keys=True)}")
    name = Path(given.model).name
    words = f"--model {name} --host {given.host} --port {given.port} --max-num-seqs {given.max_batch_size or 8}"
    quick = "--step modelled --decode-ms-per-step 2"
    os.execv(sys.executable, [sys.executable, "-m", "pytest_llmperf.embedded", *words.split(), *quick.split()])


def mpirun(argv: Sequence[str]) -> int:
    words = list(argv)
    assert words[0] == "--allow-run-as-root", words[0]
    parts: list[list[str]] = [[]]
    for word in words[1:]:
        if word == ":":
            parts.append([])
        else:
            parts[-1].append(word)
    ranks = []
    for rank, part in enumerate(parts):
        assert part[:2] == ["-n", "1"], part
        check_triton(part[3:])
        own = {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(len(parts))}
        ranks.append(subprocess.Popen(part[2:], env={**os.environ, **own}))

    def stop(signum: int, frame: object) -> None:
        for child in ranks:
            child.terminate()
        until = time.monotonic() + CHILD_KILL_S
        while time.monotonic() < until and any(child.poll() is None for child in ranks):
            time.sleep(0.02)
        for child in ranks:
            child.kill()

    signal.signal(signal.SIGTERM, stop)
    code = ranks[0].wait()
    stop(signal.SIGTERM, None)
    return code


def check_triton(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="tritonserver", allow_abbrev=False)
    for word in flags.TRITON.split():
        name, _, choices = word.partition(":")
        if name.endswith("="):
            parser.add_argument(f"--{name[:-1]}", action="store_true")
        else:
            parser.add_argument(f"--{name}", choices=choices.split("|") if choices else None, action="append")
    parser.parse_args(argv)
