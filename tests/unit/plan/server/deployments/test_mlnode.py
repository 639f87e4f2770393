"""What a plan may say of an MLNode, and how many instances and GPUs follow from it."""

import re

import pytest
from samples import plan_text, server

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import parse_plan

HEAD = "engine: mlnode, url: 'http://10.0.0.5:8080', inference_url: 'http://10.0.0.5:5000/v1'"


def node(rest: str = "gpus: 8"):
    return server(f"{{{HEAD}, {rest}}}")


@pytest.mark.parametrize(
    ("gpus", "args", "replicas", "used"),
    [
        (8, "{tp: 8}", 1, 8),
        (8, "{tp: 4, pp: 2}", 1, 8),
        (8, "{tensor_parallel_size: 2}", 4, 8),
        (10, "{tp: 4}", 2, 8),
        (4, "{tp: 8}", 1, 8),
        (200, "{}", 128, 128),
    ],
)
def test_a_node_starts_as_many_instances_as_its_gpus_allow(gpus, args, replicas, used):
    config = node(f"gpus: {gpus}, args: {args}")
    assert (config.replicas, config.gpu_count, config.local_gpus) == (replicas, used, 0)
    assert config.as_dict()["replicas"] == replicas


def test_addresses_are_base_urls_and_name_the_machine():
    config = server(
        "{engine: mlnode, url: 'http://NODE:46195/', inference_url: 'http://node:46085/v1', gpus: 1, replace: true}"
    )
    assert (config.url, config.inference_url, config.machine) == ("http://node:46195", "http://node:46085", "node")
    assert node("gpus: 1, hardware: 4070s-ti-x8").machine == "4070s-ti-x8"
    assert config.ready_timeout > 1200  # what a node gives its vLLM


def test_locked_arguments_are_given_to_the_node():
    config = server(
        f"{{{HEAD}, gpus: 8, args: {{tp: 8}}}}", model="Qwen/QwQ-32B", locked="{dtype: float16, kv-cache-dtype: fp8}"
    )
    assert config.args == {"dtype": "float16", "kv-cache-dtype": "fp8", "tensor-parallel-size": 8}


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("args: {tp: 8}", "'gpus' is missing"),
        ("gpus: 0", "gpus: must be greater than 0"),
        ("gpus: 8, replicas: 2", "unknown key 'replicas'"),
        ("gpus: 8, args: {port: 5000}", "port is the node's to choose: it starts its instances on ports of its own"),
        ("gpus: 8, args: {model: x}", "model is the entry's `model`"),
        ("gpus: 8, args: {dp: 2}", "a node gives each instance TP x PP GPUs and balances between instances itself"),
        ("gpus: 8, args: {tp: x}", "tensor-parallel-size is a whole number of at least 1, not 'x'"),
        ("gpus: 8, args: {quantization: fp8}", "server 'a' sets quantization, which changes what the model outputs"),
        ("gpus: 8, stop: kill", "must be 'down' or 'stop'"),
        ("gpus: 8, bearer: s3cr3t", "bearer token holds a secret in plain text"),
        ("gpus: 8, headers: {X-Api-Key: s3cr3t}", "X-Api-Key holds a secret in plain text"),
        ("gpus: 8, args: {api-key: '${A}'}, bearer: '${B}'", "the same header: give one of them"),
        ("gpus: 8, instance_urls: ['10.0.0.5:5001']", "is not a base URL"),
    ],
)
def test_mistakes_are_told(rest, told):
    with pytest.raises(PlanError, match=re.escape(told)):
        parse_plan(plan_text(f"  a: {{{HEAD}, {rest}}}"), "plan.yaml")


def test_parallelism_is_an_axis():
    text = plan_text(f"  node: {{{HEAD}, gpus: 8, args: {{tp: {{sweep: [8, 4, 2]}}}}}}")
    configs = parse_plan(text, "plan.yaml").server_configs()
    assert [(config.name, config.replicas) for config in configs] == [
        ("node.tp8", 1),
        ("node.tp4", 2),
        ("node.tp2", 4),
    ]
