"""Where a number was measured: the name of the environment, and which GPUs there are."""

import pytest
from samples import server

from pytest_llmperf.telemetry.environment import environment
from pytest_llmperf.telemetry.gpu import Gpu, visible_gpus

H200 = (Gpu("0", "NVIDIA H200"), Gpu("1", "NVIDIA H200"))


@pytest.mark.parametrize(
    ("entry", "gpus", "slug"),
    [
        ("{engine: vllm}", H200, "h200x2-vllm"),
        ("{engine: vllm}", (Gpu("0", "NVIDIA A100-SXM4-80GB"),), "a100-sxm4-80gbx1-vllm"),
        ("{engine: vllm}", (Gpu("0", "NVIDIA GeForce RTX 4090"),), "rtx-4090x1-vllm"),
        ("{engine: embedded, args: {step: modelled}}", H200, "simulated-embedded"),
        ("{engine: openai, url: 'http://10.0.0.5:8000'}", H200, "10.0.0.5-8000-openai"),
        ("{engine: openai, url: 'http://h', hardware: H200x8 CPU-box}", (), "h200x8-cpu-box-openai"),
    ],
)
def test_names_of_environments(entry, gpus, slug):
    assert environment(server(entry), None, gpus).slug == slug


@pytest.mark.parametrize("entry", ["{engine: embedded}", "{engine: vllm, gpus: 0}"])
def test_a_cpu_run_is_named_by_the_cpu_and_its_cores(entry):
    facts = environment(server(entry), "1.0", H200)
    assert facts.slug.endswith(f"-x{facts.cpu_cores}-{facts.engine}")
    assert facts.gpus == ()
    assert facts.as_dict()["engine_version"] == "1.0"


def test_this_machines_gpus_are_not_a_remote_servers():
    facts = environment(server("{engine: openai, url: http://h, gpus: 8}"), None, H200)
    assert (facts.gpus, facts.driver) == ((), None)


def test_only_modelled_steps_are_simulated():
    assert environment(server("{engine: embedded, args: {step: modelled}}"), None, ()).simulated
    assert not environment(server("{engine: embedded}"), None, ()).simulated


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0"])
def test_gpus_that_are_hidden(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert visible_gpus() == ()


@pytest.mark.parametrize(
    ("chosen", "devices"),
    [
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("0,7,1", ["0"]),
        ("GPU-5ad1, 0", ["GPU-5ad1", "0"]),
        ("0,1,0", ["0", "1"]),
    ],
)
def test_gpus_of_the_driver_as_cuda_would_see_them(monkeypatch, tmp_path, chosen, devices):
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        folder = tmp_path / "gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 33\n")
    monkeypatch.setattr("pytest_llmperf.telemetry.gpu._DRIVER", tmp_path)
    monkeypatch.setattr("pytest_llmperf.telemetry.gpu.ask_nvml", lambda question: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert [gpu.device for gpu in visible_gpus()] == devices
    assert {gpu.name for gpu in visible_gpus()} == {"NVIDIA H200"}
