"""The exact commands of servers, and why a machine cannot run one."""

import shlex
import sys

import pytest
from samples import server

from pytest_llmperf.boundary.secrets import redacted
from pytest_llmperf.errors import MissingRequirement
from pytest_llmperf.servers.engines.commands import missing_requirement, server_command, shown_command
from pytest_llmperf.servers.process.process import command_line_flags
from pytest_llmperf.telemetry.gpu import Gpu

GPUS = tuple(Gpu(str(number), "NVIDIA H200") for number in range(8))


def test_tp4_pp2():
    config = server(
        "{engine: vllm, args: {tensor-parallel-size: 4, pipeline-parallel-size: 2}}",
        model="Qwen/QwQ-32B",
        locked="{kv-cache-dtype: fp8, quantization: fp8}",
    )
    assert shown_command(config, 8000, GPUS) == (
        "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 vllm serve Qwen/QwQ-32B --host 127.0.0.1 "
        "--port 8000 --kv-cache-dtype fp8 --quantization fp8 --tensor-parallel-size 4 --pipeline-parallel-size 2"
    )
    command = server_command(config, 8000, GPUS)
    assert command.env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    assert [*command.argv] == shlex.split(command.shown)[2:]


def test_the_embedded_engine_runs_in_this_python():
    command = server_command(server("{engine: embedded, args: {max-num-seqs: 8}}"), 8000, ())
    start = (sys.executable, "-m", "pytest_llmperf.embedded", "--model", "m", "--host", "127.0.0.1", "--port", "8000")
    assert command.argv == (*start, "--max-num-seqs", "8")
    assert command.env == {}


@pytest.mark.parametrize(
    ("args", "flags"),
    [
        ({}, ""),
        ({"max-num-seqs": 8, "gpu-memory-utilization": 0.9}, "--max-num-seqs 8 --gpu-memory-utilization 0.9"),
        ({"enforce-eager": True, "enable-prefix-caching": False}, "--enforce-eager --no-enable-prefix-caching"),
        ({"served-model-name": ["a", "b"]}, "--served-model-name a b"),
        ({"speculative-config": {"method": "ngram", "n": 3}}, """--speculative-config '{"method": "ngram", "n": 3}'"""),
        ({"lora-modules": [{"name": "a"}, {"name": "b"}]}, """--lora-modules '{"name": "a"}' '{"name": "b"}'"""),
        ({"quantization": None, "seed": 0}, "--seed 0"),
        ({"chat-template": "a b.jinja"}, "--chat-template 'a b.jinja'"),
    ],
)
def test_flags(args, flags):
    assert shlex.join(command_line_flags(args)) == flags


def test_secrets_are_in_the_process_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("KEY", "hunter2")
    config = server(
        "{engine: vllm, gpus: 0, args: {api-key: '${KEY}'}, env: {HF_TOKEN: '${KEY}', OMP: 2 3}}".replace(
            "2 3", "'2 3'"
        )
    )
    command = server_command(config, 8000, ())
    assert command.env == {"HF_TOKEN": "hunter2", "OMP": "2 3", "VLLM_API_KEY": "hunter2"}
    assert not {"hunter2", "--api-key"} & {*command.argv}
    assert redacted("hunter2") == "***"
    assert command.shown.startswith("""HF_TOKEN="${KEY}" OMP='2 3' VLLM_API_KEY="${KEY}" vllm serve m """)
    assert "hunter2" not in command.shown + repr(command)


def test_a_reference_to_nothing(monkeypatch):
    monkeypatch.delenv("KEY", raising=False)
    with pytest.raises(MissingRequirement, match="needs the environment variable KEY"):
        server_command(server("{engine: vllm, args: {api-key: '${KEY}'}}"), 8000, ())


@pytest.mark.parametrize(
    ("entry", "gpus", "reason"),
    [
        ("{engine: vllm, args: {tp: 4, pp: 2}}", 0, "needs 8 GPUs, found 0"),
        ("{engine: vllm, args: {tp: 4}, replicas: 2}", 7, "needs 8 GPUs, found 7"),
        ("{engine: vllm}", 0, "needs 1 GPU, found 0"),
        ("{engine: vllm, gpus: 0, executable: no-such-vllm}", 0, "needs the executable 'no-such-vllm', which was not"),
        (
            "{engine: vllm, gpus: 0, executable: sh, model: /no/model}",
            0,
            "needs the model folder /no/model, which does",
        ),
        ("{engine: vllm, gpus: 0, executable: sh, model: /tmp}", 0, None),
        ("{engine: vllm, args: {tp: 8}, executable: sh}", 8, None),
        ("{engine: embedded}", 0, None),
    ],
)
def test_what_a_machine_lacks(entry, gpus, reason):
    found = missing_requirement(server(entry), GPUS[:gpus])
    assert found == reason or (found and reason and found.startswith(reason))


@pytest.mark.parametrize(
    ("args", "name"), [("{}", "m"), ("{served-model-name: tiny}", "tiny"), ("{served-model-name: [a, b]}", "a")]
)
def test_the_name_that_requests_ask_for(args, name):
    assert server(f"{{engine: vllm, args: {args}}}").served_model == name
