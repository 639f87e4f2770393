"""`llmperf duet` from the shell, against real server processes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from pytest_llmperf.cli.duet import server_of
from pytest_llmperf.cli.main import main
from pytest_llmperf.gate.judge import Doubt
from pytest_llmperf.plan.server.engines.embedded import EmbeddedServer
from pytest_llmperf.plan.server.engines.vllm import VllmServer
from pytest_llmperf.servers.start import start_server

LOAD = ("--concurrency=4", "--requests=30", "--input-tokens=8", "--output-tokens=4", "--model=embedded")
# Machines may be busy: what is not asked about tolerates anything, and tokens that come at once have no ITL.
WIDE = (
    "--margin=itl_mean=9999%",
    "--margin=ttft_p50=9999%",
    "--margin=ttft_mean=9999%",
    "--margin=output_token_throughput=9999%",
)
PLAN = """
model: embedded
servers:
  old: {engine: embedded, args: {step: modelled, decode-ms-per-step: 2}}
  dying: {engine: embedded, args: {step: modelled, decode-ms-per-step: 2, fault-die-after: 35}}
loads:
  short: {input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 20, warmup_requests: 1}
"""


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Servers that are up, by name; `slow` takes three times as long for a step, `refusing` refuses every fourth
    request.
    """
    with contextlib.ExitStack() as stack:

        def url(name: str, step_ms: int, **faults: int) -> str:
            args = {"step": "modelled", "decode-ms-per-step": step_ms, **faults}
            config = EmbeddedServer(engine="embedded", name=name, model="embedded", args=args)
            return stack.enter_context(start_server(config, tmp_path_factory.mktemp("logs"), ())).url

        refusing = url("refusing", 3, **{"fault-status-every": 4})
        yield {"fast": url("fast", 3), "slow": url("slow", 10), "refusing": refusing}


@pytest.fixture
def duet(tmp_path, urls):
    """Runs `llmperf duet`; servers by their name here, or as given."""

    def run(a: str, b: str, *args: str) -> Result:
        command = ["duet", "--a", urls.get(a, a), "--b", urls.get(b, b), "--output", str(tmp_path / "out")]
        return CliRunner().invoke(main, [*command, *args])

    return run


def test_a_slower_server_fails(duet, tmp_path):
    result = duet("fast", "slow", *LOAD, "--json", str(tmp_path / "r.json"))
    assert result.exit_code == 1, result.output
    assert ": FAIL against a\n" in result.output
    assert "90 % interval" in result.output
    (point,) = json.loads((tmp_path / "r.json").read_text())["points"]
    assert (point["regression"]["verdict"], point["passed"], point["error"]) == ("FAIL", False, None)
    assert len(point["duet"]["runs"]) == len(point["runs"]) >= 4
    assert {path.name for path in (tmp_path / "out" / "requests").iterdir()} == {
        "a-vs-b-load.jsonl",
        "a-vs-b-load.a.jsonl",
    }


def test_a_faster_server_is_improved(duet):
    result = duet("slow", "fast", *LOAD, *WIDE)
    assert result.exit_code == 0, result.output
    assert ": IMPROVED against a\n" in result.output
    assert "baseline" not in result.output


def test_a_report_that_cannot_be_written_is_no_success(duet, tmp_path):
    (tmp_path / "file").touch()
    result = duet("slow", "fast", *LOAD, *WIDE, "--json", str(tmp_path / "file" / "r.json"))
    assert result.exit_code == 1, result.output
    assert "Error: report was not written: " in result.output


@pytest.mark.parametrize(("option", "code"), [((), 0), (("--inconclusive=fail",), 1)])
def test_what_becomes_of_doubt(duet, option, code, monkeypatch):
    """It takes more runs to confirm that a server is slower, and there are none."""
    monkeypatch.setattr("pytest_llmperf.gate.judge.Judge.doubt", lambda *_: Doubt())
    result = duet("fast", "slow", *LOAD, *WIDE, *option)
    assert "INCONCLUSIVE" in result.output
    assert result.exit_code == code, result.output


@pytest.mark.parametrize(("a", "b", "whose"), [("fast", "refusing", ""), ("refusing", "fast", "a: ")])
def test_a_server_that_refuses_requests_fails(duet, tmp_path, a, b, whose):
    """It is fast while it does, and the old one is beaten for it or not."""
    result = duet(a, b, "--request-rate=200", *LOAD[1:])
    assert result.exit_code == 1, result.output
    assert f"too many requests failed, so nothing can be said about it\n  {whose}error_rate: " in result.output
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert point["passed"] is False


def test_a_server_that_dies(duet, tmp_path):
    (tmp_path / "plan.yaml").write_text(PLAN)
    result = duet("old", "dying", "--plan", str(tmp_path / "plan.yaml"), "--load", "short")
    assert result.exit_code == 1
    assert "Error: server 'dying' died; exit code" in result.output
    (point,) = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert "died" in point["error"]
    assert point["duet"]["runs"]


@pytest.mark.parametrize(
    ("a", "b", "args", "message"),
    [
        ("http://x:1", "http://x:1", LOAD, "--a and --b are both 'http://x:1': a duet needs two servers"),
        ("http://x:1", "http://y:1", LOAD[:-1], "--model is needed for a URL"),
        ("http://x:1", "what", LOAD, "--b: 'what' is no URL and no 'vllm serve …'; --plan FILE gives servers names"),
        ("http://x:1", "http://y:1", LOAD[1:], "either `concurrency` (closed loop) or `request_rate`"),
        ("http://x:1", "http://y:1", (*LOAD, "--load=short"), "--load names a load of a plan"),
        ("http://x:1", "http://y:1", (*LOAD, "--margin=itl_p51=3%"), "itl_p51"),
        ("http://x:1", "http://y:1", (*LOAD, "--runs=2"), "2 is not in the range x>=3"),
        ("old", "odl", ("--plan", "plan.yaml"), "--b: plan.yaml has no server 'odl'; did you mean 'old'?"),
        ("old", "dying", ("--plan", "plan.yaml", "--load=long"), "plan.yaml has no load 'long'"),
        ("old", "dying", ("--plan", "plan.yaml", "--requests=9"), "--requests: the plan says what is sent"),
        ("old", "vllm serve m what", ("--plan", "plan.yaml"), "'what' after the model is no option of vllm serve"),
        ("old", "vllm serve m --port 1", ("--plan", "plan.yaml"), "port is the plugin's to choose"),
    ],
)
def test_mistakes_are_usage_errors(duet, tmp_path, monkeypatch, a, b, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    result = duet(a, b, *args)
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_a_command_line_is_a_vllm_server():
    command = "VLLM_USE_V1=1 ../old/bin/vllm serve org/m --max-num-seqs 8 --dtype=half --enforce-eager --x a b"
    config = server_of("a", None, {"a": command})
    assert isinstance(config, VllmServer)
    assert (config.name, config.executable, config.model) == ("a", "../old/bin/vllm", "org/m")
    assert config.env == {"VLLM_USE_V1": "1"}
    assert config.args == {"max-num-seqs": 8, "dtype": "half", "enforce-eager": True, "x": ["a", "b"]}
