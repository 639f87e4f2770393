"""How many replicas a plan asks for, and what the load goes through."""

import re

import pytest
from samples import plan_text, server

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import load_plan, parse_plan
from pytest_llmperf.search.candidates import with_replicas


@pytest.mark.parametrize(
    ("entry", "gpus", "replicas", "used"),
    [
        ("args: {tp: 2}", 8, 4, 8),
        ("args: {tp: 4}", 10, 2, 8),
        ("args: {tp: 8}", 4, 1, 8),
        ("gpus: 3", 8, 2, 6),
    ],
)
def test_auto_is_as_many_as_the_gpus_allow(entry, gpus, replicas, used):
    config = server(f"{{engine: vllm, replicas: auto, {entry}}}")
    assert config.replicas_are_open
    found = config.on_gpus(gpus)
    assert (found.replicas, found.gpu_count, found.process_count) == (replicas, used, replicas)
    assert found.on_gpus(64) == found, "a fixed number from then on"
    assert with_replicas(config, gpus, auto=False) == found
    assert found.as_dict()["replicas"] == replicas


def test_a_number_stays():
    config = server("{engine: vllm, replicas: 3}")
    assert config.on_gpus(8) == config


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("engine: vllm, replicas: 0", "replicas: 0 is neither a whole number of at least 1 nor auto"),
        ("engine: vllm, replicas: many", "replicas: 'many' is neither a whole number of at least 1 nor auto"),
        ("engine: vllm, gpus: 0, replicas: auto", "auto counts this machine's GPUs, of which the server takes none"),
        ("engine: embedded, replicas: auto", "auto counts this machine's GPUs"),
        ("engine: vllm, balance: fair", "balance: must be 'least-inflight', 'round-robin' or 'session'"),
        ("engine: vllm, proxy: {command: [a]}", "a proxy's command holds {port}"),
        ("engine: vllm, proxy: {command: [a, '{port}', '{replicas}'], redy: /x}", "unknown key 'redy'"),
        ("engine: vllm, proxy: {command: [a, '{port}', '{replicas}'], ready: x}", "'x' is not a path of the host"),
        (
            "engine: vllm, proxy: {command: [a, '{port}', '{replicas}'], env: {A_TOKEN: abc}}",
            "A_TOKEN holds a secret in plain text",
        ),
    ],
)
def test_mistakes_are_told(entry, told):
    with pytest.raises(PlanError, match=re.escape(told)):
        parse_plan(plan_text(f"  a: {{{entry}}}"), "plan.yaml")


def test_a_proxy_runs_in_a_folder_beside_the_plan(tmp_path):
    proxy = "proxy: {command: [./router, '{port}', '{replicas}'], cwd: routing}"
    (tmp_path / "plan.yaml").write_text(plan_text(f"  a: {{engine: vllm, replicas: 2, {proxy}}}"))
    (config,) = load_plan(tmp_path / "plan.yaml").server_configs()
    assert config.proxy is not None
    assert config.proxy.cwd == str(tmp_path / "routing")
    assert config.balance_by == "proxy"
